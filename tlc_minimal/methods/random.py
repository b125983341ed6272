"""Chance: the opponent that every ranking has to beat."""

from torch import nn

from ..collapse import Run
from ..data import Data
from .stages import Task, one_by_one


def random(model: nn.Module, data: Data, task: Task) -> Run:
    """As ``tlc`` in everything but the choice: each activation that is left is equally likely to go
    next. The seed draws the order, so that several seeds are several orders."""
    return one_by_one(model, data, task, "random", "on_off_affine")
