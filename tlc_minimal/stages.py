"""How activations are taken out: a method is a list of stages, and a stage chooses, changes, tunes.

A reader adds a method in one line: METHODS["mine"] = Method(mine).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, as_tensor, fx, nn

from .data import Data
from .gaussian import Gaussian


class Task(NamedTuple):
    """What every method is asked for: see :func:`tlc_minimal.collapse`."""

    model: fx.GraphModule  # the dense network, traced
    data: Data
    remove: int | None  # None: the method has another target
    epochs: float  # of tuning, all stages together
    seed: int
    progress: bool = False


class Stage(NamedTuple):
    """``choose`` decides what is changed, as named tensors that the run keeps, so that a killed one
    need not choose again; ``change`` makes the changed copy of a network, always the same one for
    the same decision; it is tuned ``epochs`` for each activation that went (once if none did; None:
    the budget), while ``hold`` keeps a hand on the gradients (it returns the hooks' handles)."""

    choose: Callable[[fx.GraphModule], dict[str, Tensor]]
    change: Callable[[fx.GraphModule, dict[str, Tensor]], fx.GraphModule]
    epochs: float | None
    hold: Callable[[nn.Module], list] = lambda model: []


class Method(NamedTuple):
    """``stages(task, **options)``: ValueError for what it cannot do on this model; ``tuning``: its
    own defaults; ``finish``: the network as it could be shipped, the same function."""

    stages: Callable[..., list[Stage]]
    tuning: dict = {}
    finish: Callable[[fx.GraphModule], fx.GraphModule] = lambda model: model


def as_tensors(chosen: list[dict[str, Gaussian]]) -> dict[str, Tensor]:
    """Statistics of activations, group after group, under names that tell group and activation."""
    named = [(f"{i} {name}", g) for i, group in enumerate(chosen) for name, g in group.items()]
    return {f"{k}.{p}": as_tensor(v) for k, g in named for p, v in vars(g).items() if v is not None}


def as_gaussians(decision: dict[str, Tensor]) -> list[dict[str, Gaussian]]:
    """The groups that :func:`as_tensors` wrote; [] for a decision about anything else."""
    keys = [k.removesuffix(".mean").split(" ", 1) for k in decision if k.endswith(".mean")]
    groups = [{} for _ in {group for group, _ in keys}]
    for group, name in keys:
        mean, std, dim = (decision.get(f"{group} {name}.{part}") for part in ("mean", "std", "dim"))
        groups[int(group)][name] = Gaussian(mean, std, dim and int(dim))
    return groups


def off_share(decision: dict[str, Tensor]) -> float | None:
    """The share of OFF channels among all that a decision is about; None if it has none."""
    off = [~g.on for group in as_gaussians(decision) for g in group.values()]
    return float(torch.cat(off).float().mean()) if off else None


METHODS: dict[str, Method] = {}  # filled by :mod:`tlc_minimal.methods`
