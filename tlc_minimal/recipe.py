"""What a training is asked for: schedules of the learning rate, steps, ranges of numbers."""

import math
from numbers import Integral, Real

from .data import Data
from .parallel import processes
from .reading.fits import check_is_data
from .refuse import check_known, check_number


def _cosine(share: float, steps: int) -> float:
    warmup = max(1, steps // 10)
    return min((share * steps + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * share))


def _steps(share: float, steps: int) -> float:
    return 0.1 ** ((share >= 0.5) + (share >= 0.75))


SCHEDULES = {"cosine": _cosine, "steps": _steps}  # share of the way, steps in all -> factor of lr


def check_recipe(data: Data, **recipe) -> None:
    """ValueError or TypeError, in one sentence, for what :func:`fit` cannot train with: what is no
    Data, a number out of its range, less data than two images."""
    check_is_data(data)
    for name, value in recipe.items():
        if name == "schedule":
            check_known(name, value, SCHEDULES)
        elif name in _RANGES:
            check_number(name, value, *_RANGES[name])
    if min(recipe.get("batch", 128), data.train.size) < max(2, processes()):
        raise ValueError("batch norm needs batches of at least two images, and each process one.")


_RANGES = {  # kind of number, what is allowed, in words
    "epochs": (Real, lambda v: 0 < v <= 1e9, "a number above 0, at most 1e9"),
    "lr": (Real, lambda v: 0 < v <= 1e38, "a number above 0, at most 1e38"),
    "batch": (Integral, lambda v: v > 0, "a whole number of at least 2"),
    "weight_decay": (Real, lambda v: 0 <= v < math.inf, "a number, 0 or above"),
    "smoothing": (Real, lambda v: 0 <= v < 1, "a number from 0 to below 1"),
    "seed": (Integral, lambda v: 0 <= v < 2**32, "a whole number from 0 to below 2**32"),
}


def steps_of(data: Data, epochs: float, batch: int = 128) -> int:
    """How many steps of training these (fractions of) epochs are."""
    size = data.train.size
    return max(1, int(epochs * (size // min(batch, size))))
