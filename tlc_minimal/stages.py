"""How activations are taken out: a method is a list of stages, and a stage chooses, changes, tunes.

A reader adds a method in one line: METHODS["mine"] = Method(mine).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from .data import Data
from .gaussian import Gaussian
from .linearize import check_rule, linearize
from .rank import check_ranking
from .rank import rank as rank_layers
from .statistics import statistics


class Task(NamedTuple):
    """What every method is asked for: see :func:`tlc_minimal.collapse`."""

    model: fx.GraphModule  # the dense network, traced
    data: Data
    remove: int
    epochs: float  # of tuning, all stages together
    seed: int
    progress: bool = False


class Stage(NamedTuple):
    """``choose`` decides what is changed, as named tensors that the run keeps, so that a killed one
    need not choose again; ``change`` makes the changed copy of a network, always the same one for
    the same decision; it is tuned for ``epochs`` for each activation that went (once if none did),
    while ``hold`` keeps a hand on the gradients (it returns the hooks' handles)."""

    choose: Callable[[fx.GraphModule], dict[str, Tensor]]
    change: Callable[[fx.GraphModule, dict[str, Tensor]], fx.GraphModule]
    epochs: float
    hold: Callable[[nn.Module], list] = lambda model: []


class Method(NamedTuple):
    """``stages(task, **options)``: ValueError for what it cannot do on this model; ``tuning``: its
    own defaults; ``finish``: the network as it could be shipped, the same function."""

    stages: Callable[..., list[Stage]]
    tuning: dict = {}
    finish: Callable[[fx.GraphModule], fx.GraphModule] = lambda model: model


def at_once(
    task: Task, rank: str = "tlc", rule: str = "on_off_affine", padding: str = "as_trained",
    again: bool = False,
) -> list[Stage]:  # fmt: skip
    """The least harmful activations of the dense network, scored one at a time as in TLC (arXiv
    2412.15077, algorithm 1), go together; one long tuning follows.

    It does not see that two harmless removals may harm together: ``again`` ranks again after each
    of them, still without tuning in between.
    """
    seeds = [task.seed] * (task.remove if again else 1)
    return [removal(task, seeds, task.remove // len(seeds), rank, rule, padding)]


def one_by_one(
    task: Task, rank: str = "tlc", rule: str = "on_off_affine", padding: str = "as_trained"
) -> list[Stage]:
    """The least harmful activation goes, the network is tuned, and again (TLC, arXiv 2412.15077,
    algorithm 1: argmin over l of L(without l) - L, L the validation loss)."""
    seeds = range(1000 * task.seed + 1, 1000 * task.seed + 1 + task.remove)
    return [removal(task, [seed], 1, rank, rule, padding) for seed in seeds]


def random(task: Task, rule: str = "on_off_affine") -> list[Stage]:
    """Chance, the opponent that every ranking has to beat: as :func:`one_by_one`, in an order that
    the seed draws."""
    return one_by_one(task, "random", rule)


def removal(
    task: Task, seeds: list[int], together: int, rank: str, rule: str, padding: str = "as_trained"
) -> Stage:
    """A stage that ranks once for each of ``seeds`` and takes out the first ``together`` each time,
    by ``rule`` and ``padding`` as in :func:`linearize`. ValueError for an unknown rank or rule."""
    check_ranking(rank)
    check_rule(rule, padding)

    def choose(network: fx.GraphModule) -> dict[str, Tensor]:
        chosen = []
        for seed in seeds:
            scores = rank_layers(network, task.data, rank, rule, seed, task.progress)
            gaussians = statistics(network, task.data)
            chosen.append({name: gaussians[name] for name in list(scores)[:together]})
            if len(seeds) > 1:
                network = linearize(network, list(chosen[-1]), chosen[-1], rule, padding)
        return as_tensors(chosen)

    def change(network: fx.GraphModule, decision: dict[str, Tensor]) -> fx.GraphModule:
        for gaussians in as_gaussians(decision):
            network = linearize(network, list(gaussians), gaussians, rule, padding)
        return network

    return Stage(choose, change, task.epochs / task.remove)


def as_tensors(chosen: list[dict[str, Gaussian]]) -> dict[str, Tensor]:
    """Statistics of activations, group after group, under names that tell group and activation."""
    named = [(f"{i} {name}", g) for i, group in enumerate(chosen) for name, g in group.items()]
    return {f"{k}.{part}": getattr(g, part) for k, g in named for part in ("mean", "std")}


def as_gaussians(decision: dict[str, Tensor]) -> list[dict[str, Gaussian]]:
    """The groups that :func:`as_tensors` wrote; [] for a decision about anything else."""
    keys = [k.removesuffix(".mean").split(" ", 1) for k in decision if k.endswith(".mean")]
    groups = [{} for _ in {group for group, _ in keys}]
    for group, name in keys:
        mean, std = (decision[f"{group} {name}.{part}"] for part in ("mean", "std"))
        groups[int(group)][name] = Gaussian(mean, std)
    return groups


def off_share(decision: dict[str, Tensor]) -> float | None:
    """The share of OFF channels among all that a decision is about; None if it has none."""
    off = [~g.on for group in as_gaussians(decision) for g in group.values()]
    return float(torch.cat(off).float().mean()) if off else None


METHODS = {
    "at_once": Method(at_once, {"lr": 0.05}),
    "one_by_one": Method(one_by_one),
    "random": Method(random),
}
