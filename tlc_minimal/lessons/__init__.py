"""What single lessons use: plots, robustness, transformers, the exercises' checks."""
