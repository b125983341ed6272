"""TLC in one shot: rank once, take everything out at once, then tune."""

from torch import nn

from ..collapse import Run
from ..data import Data
from ..linearize import linearize
from ..rank import rank
from .stages import Stage, Task, in_stages


def one_shot(model: nn.Module, data: Data, task: Task) -> Run:
    """The ``remove`` least harmful activations of the dense network, scored one at a time as in
    ``tlc`` (arXiv 2412.15077, algorithm 1), go together; all of the budget comes afterwards.

    It saves the rankings in between, and does not see that two harmless removals may harm together.
    """

    def change(current):
        names = list(rank(current, data, "tlc", "on_off_affine"))[: task.remove]
        return linearize(current, names, data, "on_off_affine")

    return in_stages(model, data, task, "one_shot", [Stage(change, task.epochs)])
