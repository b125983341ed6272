"""The recorded experiments; ``python -m tlc_minimal reproduce`` makes every record again."""
