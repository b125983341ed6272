"""What single lessons use: plots, robustness, transformers."""
