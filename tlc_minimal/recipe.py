"""What a training is asked for: schedules of the learning rate, and steps."""

import math

from .data import Data
from .parallel import processes
from .reading.fits import check_is_data
from .refuse import check_known, check_ranges


def _cosine(share: float, steps: int) -> float:
    warmup = max(steps // 10, min(5, steps // 2), 1)
    return min((share * steps + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * share))


def _steps(share: float, steps: int) -> float:
    return 0.1 ** ((share >= 0.5) + (share >= 0.75))


SCHEDULES = {"cosine": _cosine, "steps": _steps}  # share of the way, steps in all -> factor of lr


def check_recipe(data: Data, **recipe) -> None:
    """ValueError or TypeError, in one sentence, for what :func:`fit` cannot train with: what is no
    Data, a number out of its range, less data than two images."""
    check_is_data(data)
    check_known("schedule", recipe.pop("schedule", "cosine"), SCHEDULES)
    check_ranges(**recipe)
    if min(recipe.get("batch", 128), data.train.size) < max(2, processes()):
        raise ValueError("batch norm needs batches of at least two images, and each process one.")


def steps_of(data: Data, epochs: float, batch: int = 128) -> int:
    """How many steps of training these (fractions of) epochs are, to the nearest, at least one."""
    size = data.train.size
    return max(1, round(epochs * (size // min(batch, size))))
