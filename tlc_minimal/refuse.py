"""What is refused before anything is done: in one sentence, with the way out."""

import math
from numbers import Integral, Real

from .reading.refuse import quoted

COUNT = (Integral, lambda v: v > 0, "a whole number of at least 1")
RANGES = {  # kind of number, what is allowed, in words
    "epochs": (Real, lambda v: 0 < v <= 1e9, "a number above 0, at most 1e9"),
    "lr": (Real, lambda v: 0 < v <= 1e38, "a number above 0, at most 1e38"),
    "batch": (Integral, lambda v: v > 0, "a whole number of at least 2"),
    "weight_decay": (Real, lambda v: 0 <= v < math.inf, "a number, 0 or above"),
    "smoothing": (Real, lambda v: 0 <= v < 1, "a number from 0 to below 1"),
    "seed": (Integral, lambda v: 0 <= v < 2**32, "a whole number from 0 to below 2**32"),
    "ridge": (Real, lambda v: 0 <= v < math.inf, "a number, 0 or above"),
    "macs": (Real, lambda v: 0 < v < 1, "a share of the MACs, of 0 to 1"),
    "speedup": (Real, lambda v: 1 < v < math.inf, "a number above 1"),
    "remove": (Integral, lambda v: v > 0, "how many activations go"),
} | dict.fromkeys(("kernel", "images", "trial", "width"), COUNT)
RANGES["dense_epochs"] = RANGES["epochs"]


def check_ranges(**numbers) -> None:
    """:func:`check_number` of each, by ``RANGES``."""
    for name, value in numbers.items():
        check_number(name, value, *RANGES[name])


def check_number(name: str, value, kind, allowed, words: str) -> None:
    """TypeError if a number (or folder) is not of this kind, ValueError if not ``allowed``."""
    wrong = isinstance(value, bool) or not isinstance(value, kind)
    if wrong or not allowed(value):
        raise (TypeError if wrong else ValueError)(f"{name} is {words}, not {quoted(value)}.")


def check_known(kind: str, name, known) -> None:
    """ValueError that names what there is, if ``name`` is none; TypeError for a function."""
    if callable(name):
        raise TypeError(f"a {kind} is given by its name: register it under one first (lesson 09).")
    if name not in [*known]:
        raise ValueError(f"there is no {kind} {quoted(name)}; there are: {', '.join(known)}.")
