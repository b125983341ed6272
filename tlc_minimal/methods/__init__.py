"""The rivals in one harness: each takes activations out in its own way, all else is the same.

A method is one file and one line in ``METHODS``: a function of the model, the data and a
:class:`stages.Task` that returns a :class:`collapse.Run`. What is shared, and what "fair" means
here: the dense parent, the data, the budget of tuning epochs, the recipe (learning rate,
distillation from the parent, seeds), the splits (choices on val, test touched once) and the tested
merge at the end.
"""

from pathlib import Path

from torch import nn

from ..collapse import Run
from ..data import Data
from ..graph import trace
from ..nodes import activation_nodes
from .easier import easier
from .egp import egp
from .lacoot import lacoot
from .layer_folding import layer_folding
from .one_shot import one_shot
from .random import random
from .stages import Task
from .tlc import tlc

METHODS = {m.__name__: m for m in (tlc, one_shot, easier, egp, layer_folding, lacoot, random)}
BATCH = 128  # of fit


def compress(
    model: nn.Module,
    data: Data,
    method: str,
    remove: int,
    epochs: float,
    seed: int = 0,
    lr: float = 0.02,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Take ``remove`` activations out of a trained model by one of ``METHODS``; the model stays.

    ``epochs``: the whole budget of tuning, however the method spreads it. ``out``, ``resume``: as
    in :func:`tlc_minimal.collapse`. The Run's table has a row for the dense model and one for each
    stage at which activations went, with the columns of ``collapse`` (but for ``off``).
    ValueError for an unknown method, a model without activations, ``remove`` out of range, fewer
    training images than a batch, and what a method cannot do on this model (it names one that can).
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}; there are: {', '.join(METHODS)}.")
    there = len(activation_nodes(trace(model, share=True)))
    if not there:
        raise ValueError("this model has no activation to remove: it is linear already.")
    if not 1 <= remove <= there:
        raise ValueError(f"remove={remove}, but it may be 1 to {there}, the model's activations.")
    if data.train.size < BATCH:
        raise ValueError(
            f"{data.name} has {data.train.size} training images, fewer than one batch of {BATCH}: "
            "take more."
        )
    return METHODS[method](model, data, Task(remove, epochs, seed, lr, out, resume, progress))
