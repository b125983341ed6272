"""Projection: layers really go; which activations go with them, dynamic programming says.

Each run that one layer can replace is tried alone: what it costs is a rise of the validation loss,
what it brings is activations, multiplications or milliseconds. Of all sets of runs that bring
enough, the one whose costs have the least sum is found exactly. The sum is a
surrogate for the loss of the set, as in Kim et al. (arXiv 2301.12187) and LayerMerge (2406.12837),
who choose what to merge by dynamic programming over such tables, of milliseconds and importance;
DepthShrinker (2206.00843) learns which activations go.
"""

import warnings

import torch
from torch import Tensor, fx, nn

from ..clock import fast_layout, race
from ..data import Data
from ..edits import alone
from ..fold import fold
from ..graph import example_of, trace
from ..measure import count, first_images, latency
from ..nodes import activation_nodes
from ..prefix import Swap, swapped_losses
from ..project import project as project_layers
from ..refuse import check_ranges
from ..runs import Run
from ..stages import Stage, Task
from ..train import like_of
from .stretches import (
    best_sets,
    cheapest,
    find_stretches,
    fit_alone,
    names_in,
    places,
    saved_macs,
    summed,
)


def project(
    task: Task, macs: float | None = None, speedup: float | None = None, kernel: int = 3,
    images: int = 4000, ridge: float = 1e-3, trial: int = 1000,
) -> list[Stage]:  # fmt: skip
    """The best layer for each run of layers, by least squares (:func:`tlc_minimal.project`), all at
    once, then one long tuning.

    The target is one of ``remove``, ``macs`` (the share of the dense network's multiplications that
    may be left) and ``speedup`` (how many times as fast on one image, measured, both folded), in
    whose unit is weighed what a run brings. A run costs what the loss on ``trial`` validation
    images rises by when it alone is projected, fitted to ``trial`` training images; the chosen ones
    are fitted to ``images``, one after the other. ValueError for none or two targets, and for one
    that cannot be reached: it says what can.
    """
    targets = {"remove": task.remove, "macs": macs, "speedup": speedup}
    targets = {name: value for name, value in targets.items() if value is not None}
    if len(targets) != 1:
        given = " and ".join(targets) or "none"
        raise ValueError(f"project takes one target, remove=, macs= or speedup=, not {given}.")
    check_ranges(kernel=kernel, images=images, ridge=ridge, trial=trial, **targets)

    traced, stretches = trace(task.model, share=True).eval(), {}
    names = list(activation_nodes(traced))
    if task.data is not None:  # else a finished run is read, and nothing to be found
        stretches = find_stretches(traced, task.data, task.remove or len(names), kernel)
        check_reach(task, traced, stretches, macs, speedup, kernel)

    def choose(network: fx.GraphModule) -> dict[str, Tensor]:
        layers = fit_alone(traced, places(stretches), task.data, trial, ridge, task.progress)
        swaps = {place: Swap(*place, layer) for place, layer in layers.items()}
        loss = swapped_losses(traced, swaps, task.data, trial, "runs", task.progress)
        costs = summed(stretches, {place: loss[place] - loss[""] for place in layers})
        if task.remove:
            chosen = best_sets(len(names), costs)[task.remove][1]
        elif macs is not None:
            sets = best_sets(len(names), costs, saved_macs(stretches))
            chosen = cheapest(sets, count(traced, task.data)["macs"] * (1 - macs))
        else:
            chosen = fast_enough(task, traced, stretches, layers, costs, speedup, kernel)
        gone = names_in(names, chosen)
        model, table = project_layers(network, gone, task.data, kernel, images, ridge)
        decision = {f"weights {k}": v for k, v in model.state_dict().items()}
        decision |= {"example": example_of(task.data)[:2], "error": torch.tensor(table["error"])}
        return decision | {name: torch.empty(0) for name in gone}

    def change(network: fx.GraphModule, decision: dict[str, Tensor]) -> fx.GraphModule:
        gone = [name for name in activation_nodes(network) if name in decision]
        projected = shape_only(network, gone, decision["example"], kernel)
        weights = {k[8:]: v for k, v in decision.items() if k.startswith("weights ")}
        projected.load_state_dict(weights)
        return projected

    return [Stage(choose, change, None)]


def check_reach(task: Task, traced, stretches, macs, speedup, kernel: int) -> None:
    """ValueError for a target that no set of stretches reaches: it says which ones can be."""
    names, nothing = list(activation_nodes(traced)), dict.fromkeys(stretches, 0.0)
    counts = best_sets(len(names), nothing)
    if task.remove and task.remove not in counts:
        numbers = ", ".join(map(str, sorted(counts.keys() - {0}))) or "none"
        raise ValueError(
            f"single layers can take the place of so many activations of this model: {numbers};"
            f" not of {task.remove}: choose among them, or method='at_once'."
        )
    if task.remove:
        return
    most = best_sets(len(names), nothing, saved_macs(stretches))
    saved, (_, chosen) = max(most.items())
    if macs is not None and saved < (all_macs := count(traced, task.data)["macs"]) * (1 - macs):
        raise ValueError(
            f"single layers can leave {1 - saved / all_macs:.3f} of the MACs, not {macs}: give a "
            "larger macs."
        )
    if speedup is not None:
        factor = speedup_of(traced, names_in(names, chosen), task.data, kernel)
        if factor < speedup:
            raise ValueError(
                f"single layers make this model about {factor:.1f} times as fast on this machine, "
                f"not {speedup:g} times: give a smaller speedup."
            )


def shape_only(network: fx.GraphModule, names: list[str], example, kernel: int) -> fx.GraphModule:
    """The network as a projection shapes it; its weights say nothing."""
    with warnings.catch_warnings(action="ignore"):  # two images give shapes, not weights
        return project_layers(network, names, example, kernel, 2, 1.0).model


def fast_enough(task: Task, traced, stretches, layers, costs, speedup: float, kernel: int):
    """The cheapest set of stretches with which the whole network is measured to be fast enough:
    what each saves alone only says where to begin."""
    names = list(activation_nodes(traced))
    runs = places(stretches)
    saved = {place: milliseconds(traced, runs[place], layer) for place, layer in layers.items()}
    sets = best_sets(len(names), costs, summed(stretches, saved))
    x = first_images(task.data, 1, like_of(traced).device)
    goal = latency({"dense": traced}, x)["ms"].iloc[0] * (1 - 1 / speedup)
    ahead = [n for n in sorted(sets) if n >= goal] or [max(sets)]
    for amount in ahead:
        chosen = sets[amount][1]
        if (factor := speedup_of(traced, names_in(names, chosen), task.data, kernel)) >= speedup:
            return chosen
    raise ValueError(
        f"the fastest network found is {factor:.2f} times as fast, not {speedup:g} times: give a "
        "smaller speedup."
    )


def milliseconds(traced: fx.GraphModule, run: Run, layer: nn.Module) -> float:
    """What a layer saves in the place of a run, on one image."""
    shape = run.entry.meta["tensor_meta"].shape
    x = fast_layout(torch.randn(1, *shape[1:]).to(like_of(traced)))
    old, new = fast_layout(fold(alone(traced, run.entry, run.nodes))), fast_layout(layer)
    with torch.inference_mode():
        times = race([lambda: old(x), lambda: new(x)], device=x.device)
    return sorted(times[0])[3] - sorted(times[1])[3]


def speedup_of(traced: fx.GraphModule, names: list[str], data: Data, kernel: int) -> float:
    """How many times as fast the network is without these activations, on one image."""
    x = first_images(data, 1, like_of(traced).device)
    small = shape_only(traced, names, example_of(data)[:2], kernel)
    return latency({"dense": traced, "projected": small}, x)["speedup"].iloc[1]
