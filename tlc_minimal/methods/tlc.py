"""TLC, iteratively: the least harmful activation goes, the network is tuned, and again."""

from torch import nn

from ..collapse import Run
from ..data import Data
from .stages import Task, one_by_one


def tlc(model: nn.Module, data: Data, task: Task) -> Run:
    """Liao et al., "Till the Layers Collapse", arXiv 2412.15077, algorithm 1.

    Removes argmin over l of L(without l) - L, L the validation loss, replaced by ``on_off_affine``:
    OFF channels (mean <= 0) keep their mean and are cut, ON channels become their best affine map.
    """
    return one_by_one(model, data, task, "tlc", "on_off_affine")
