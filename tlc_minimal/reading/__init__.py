"""Reads foreign code: whatever a model is written in, the rest of the library sees plain layers."""
