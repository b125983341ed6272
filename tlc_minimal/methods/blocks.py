"""Blocks are candidates, too: beside a line for each channel, a constant for a whole branch.

Two things can become of the activation inside a residual block: a line a channel, or its mean, and
then the branch is a constant and its convolutions go. Each is tried alone: its price is a rise of
the validation loss, what it brings is multiplications. Of all choices that bring enough, the one
whose prices have the least sum is found exactly; that prices add up is an assumption, as in
:mod:`.project`. (LaCoOT drops whole blocks, too, but for their shortcut alone: :mod:`.lacoot`.)
"""

import torch
from torch import Tensor, fx
from tqdm.auto import tqdm

from ..channels import channel_dim
from ..data import Data
from ..gaussian import Gaussian
from ..linearize import line_at, linearize
from ..measure import count
from ..modules import Affine
from ..nodes import activation_nodes
from ..prefix import Swap, swapped_losses
from ..reading.layers import CONV
from ..refuse import check_ranges
from ..stages import Stage, Task, as_gaussians, as_tensors
from ..statistics import statistics
from ..train import like_of
from .stretches import cheapest, undominated

Choice = tuple[str, str]  # an activation, and the rule that takes it out
Tables = dict[int, dict[float, tuple[float, list[Choice]]]]  # {how many go: {MACs: (price, which)}}


class Off(Gaussian):
    """Every channel counts as OFF, whatever its mean: ``on_off_affine`` leaves E[f(z)] of it, and
    of a residual branch that ends so a constant."""

    @property
    def on(self) -> Tensor:
        return torch.zeros_like(self.mean, dtype=torch.bool)


def by_rule(gaussians: dict[str, Gaussian], rule: str) -> tuple[dict[str, Gaussian], str]:
    """Statistics, and the rule of :func:`tlc_minimal.linearize`, that make a choice's change."""
    if rule == "constant":
        return {name: Off(g.mean, g.std, g.dim) for name, g in gaussians.items()}, "on_off_affine"
    return gaussians, rule


def blocks(task: Task, macs: float | None = None, constants: bool = True) -> list[Stage]:
    """``remove`` activations go, and at most the share ``macs`` of the multiplications is left
    (None: however many): each as a line (``thrifty``) or, with ``constants``, as its whole branch,
    whichever raises the validation loss least; all at once, then one long tuning.

    ValueError for a share that cannot be reached: it says which one can.
    """
    check_ranges(remove=task.remove)
    if macs is not None:
        check_ranges(macs=macs)
    if task.data is None:  # a finished run is read
        return [Stage(dict, change, None)]
    all_macs, gaussians = count(task.model, task.data)["macs"], statistics(task.model, task.data)
    brings = candidates(task.model, gaussians, task.data, constants, task.progress)
    needed = 0.0 if macs is None else all_macs * (1 - macs)
    most = max(best_choices(dict.fromkeys(brings, 0.0), brings)[task.remove])
    if most < needed:
        raise ValueError(
            f"without {task.remove} activations {1 - most / all_macs:.3f} of the MACs can be left, "
            f"not {macs}: give a larger macs{'' if constants else ', or constants=True'}."
        )

    def choose(network: fx.GraphModule) -> dict[str, Tensor]:
        costs = prices(network, gaussians, list(brings), task.data, task.progress)
        chosen = cheapest(best_choices(costs, brings)[task.remove], needed)
        decision = as_tensors([{name: gaussians[name] for name, _ in chosen}])
        return decision | {f"{rule} {name}": torch.empty(0) for name, rule in chosen}

    return [Stage(choose, change, None)]


def change(network: fx.GraphModule, decision: dict[str, Tensor]) -> fx.GraphModule:
    """The network without the activations of a decision, each by its own rule."""
    (gaussians,) = as_gaussians(decision)
    for rule in ("constant", "thrifty"):
        some = {name: g for name, g in gaussians.items() if f"{rule} {name}" in decision}
        network = linearize(network, list(some), *by_rule(some, rule))
    return network


def candidates(
    model: fx.GraphModule, gaussians: dict[str, Gaussian], data: Data, constants: bool,
    progress: bool = False,
) -> dict[Choice, float]:  # fmt: skip
    """{what can become of an activation: the MACs of an image that it saves alone}."""
    layers = lambda traced: sum(isinstance(m, CONV) for m in traced.modules())
    all_macs, brings = count(model, data)["macs"], {}
    for name in tqdm(activation_nodes(model), "what goes", disable=not progress, leave=False):
        for rule in ("thrifty", "constant")[: 1 + constants]:
            without = linearize(model, name, *by_rule(gaussians, rule))
            if rule == "thrifty" or layers(without) < layers(model):  # the branch is gone
                brings[name, rule] = float(all_macs - count(without, data)["macs"])
    return brings


def prices(
    model: fx.GraphModule, gaussians: dict[str, Gaussian], choices: list[Choice], data: Data,
    progress: bool = False,
) -> dict[Choice, float]:  # fmt: skip
    """{choice: how much the validation loss rises, in nats, if it alone is made}."""
    there, swaps = activation_nodes(model), {}
    for name, rule in choices:
        node, (known, how) = there[name], by_rule({name: gaussians[name]}, rule)
        line = Affine(*line_at(model, node, known[name], how), channel_dim(model, node))
        swaps[name, rule] = Swap(node.args[0], node, line.to(like_of(model).device))
    images = len(data.val.labels)
    loss = swapped_losses(model, swaps, data, images, "lines and blocks", progress)
    return {choice: loss[choice] - loss[""] for choice in choices}


def best_choices(costs: dict[Choice, float], brings: dict[Choice, float]) -> Tables:
    """For every number of activations and every amount that choices bring, the ones of least cost:
    of each activation one choice or none. Exact: what is beaten in both is beaten with any rest."""
    best = {0: {0.0: (0.0, [])}}
    for name in dict.fromkeys(name for name, _ in costs):
        longer = {n: dict(sets) for n, sets in best.items()}
        for choice in [c for c in costs if c[0] == name]:
            for n, sets in best.items():
                for amount, (cost, chosen) in sets.items():
                    after, now = longer.setdefault(n + 1, {}), amount + brings[choice]
                    if now not in after or cost + costs[choice] < after[now][0]:
                        after[now] = cost + costs[choice], [*chosen, choice]
        best = {n: undominated(sets) for n, sets in longer.items()}
    return best
