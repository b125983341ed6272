"""TLC in one shot: rank once, take everything out at once, then tune."""

from torch import nn

from ..collapse import Run
from ..data import Data
from ..linearize import linearize
from ..rank import rank
from .stages import Stage, Task, in_stages


def one_shot(
    model: nn.Module,
    data: Data,
    task: Task,
    by: str = "tlc",
    rule: str = "on_off_affine",
    again: bool = False,
) -> Run:
    """The ``remove`` least harmful activations of the dense network, scored one at a time as in
    ``tlc`` (arXiv 2412.15077, algorithm 1), go together; all of the budget comes afterwards.

    It saves the rankings in between, and does not see that two harmless removals may harm together;
    ``again`` ranks again after each of them, still without tuning in between.
    ``by`` and ``rule``: as ``rank`` and ``rule`` of :func:`tlc_minimal.collapse`, whose errors
    about them and about ``out`` are raised here, too.
    """

    def change(current):
        for together in [1] * task.remove if again else [task.remove]:
            names = list(rank(current, data, by, rule, seed=task.seed))[:together]
            current = linearize(current, names, data, rule)
        return current

    stages = [Stage(change, task.epochs)]
    return in_stages(model, data, task, "one_shot", stages, rank=by, rule=rule, again=again)
