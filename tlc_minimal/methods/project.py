"""Projection: layers really go; which activations go with them, dynamic programming says.

Each stretch of activations that one layer can replace is tried alone: what it costs is a rise of
the validation loss, what it brings is activations, multiplications or milliseconds. Of all sets of
stretches that bring enough, the one whose costs have the least sum is found exactly. The sum is a
surrogate for the loss of the set, as in LayerMerge (arXiv 2406.12837), which chooses what to merge
by dynamic programming over such tables, too.
"""

import copy
import warnings
from math import inf
from numbers import Integral, Real

import torch
from torch import Tensor, fx, nn
from tqdm.auto import tqdm

from ..clock import fast_layout, race
from ..data import Data, input_batches
from ..fold import fold
from ..graph import example_of, find_shapes, trace
from ..measure import count, first_images, latency
from ..nodes import activation_nodes
from ..prefix import Swap, swapped_losses
from ..project import add, empty_gram, solve
from ..project import project as project_layers
from ..refuse import check_number
from ..runs import Run, find_runs
from ..stages import Stage, Task
from ..train import device_of

Stretch = tuple[int, int]  # from the first activation that goes to the next one that stays
Sets = dict[float, tuple[float, list[Stretch]]]  # {what it brings: (what it costs, its stretches)}


def project(
    task: Task, macs: float | None = None, speedup: float | None = None, kernel: int = 3,
    images: int = 4000, ridge: float = 1e-3, trial: int = 1000,
) -> list[Stage]:  # fmt: skip
    """The best layer for each run of layers, by least squares (:func:`tlc_minimal.project`), all at
    once, then one long tuning.

    The target is one of ``remove``, ``macs`` (the share of the dense network's multiplications that
    may be left) and ``speedup`` (how many times as fast on one image, measured, both folded). A
    stretch costs what the loss on ``trial`` validation images rises by when it alone is projected,
    fitted to ``trial`` training images; the chosen ones are fitted to ``images``, one after the
    other. ValueError for none or two targets, and for one that cannot be reached: it says what can.
    """
    for name, value in (("kernel", kernel), ("images", images), ("trial", trial)):
        check_number(name, value, Integral, lambda n: n > 0, "a whole number of at least 1")
    check_number("ridge", ridge, Real, lambda r: 0 <= r < inf, "a number, 0 or above")
    targets = {"remove": task.remove, "macs": macs, "speedup": speedup}
    if sum(value is not None for value in targets.values()) != 1:
        given = " and ".join(k for k, v in targets.items() if v is not None) or "none"
        raise ValueError(f"project takes one target, remove=, macs= or speedup=, not {given}.")
    if macs is not None:
        check_number("macs", macs, Real, lambda m: 0 < m < 1, "a share of the MACs, of 0 to 1")
    if speedup is not None:
        check_number("speedup", speedup, Real, lambda s: 1 < s < inf, "a number above 1")

    traced, runs = trace(task.model, share=True).eval(), {}
    names = list(activation_nodes(traced))
    if task.data is not None:  # else a finished run is read, and nothing to be found
        runs = found(traced, task.data, task.remove or len(names), kernel)
        check_reach(task, traced, runs, macs, speedup, kernel)

    def choose(network: fx.GraphModule) -> dict[str, Tensor]:
        layers = fit_alone(traced, runs, task.data, trial, ridge, task.progress)
        swaps = {s: Swap(run.entry, run.end, layers[s]) for s, run in runs.items()}
        loss = swapped_losses(traced, swaps, task.data, trial, "stretches", task.progress)
        costs = {s: loss[s] - loss[""] for s in runs}
        if task.remove:
            chosen = best_sets(len(names), costs)[task.remove][1]
        elif macs is not None:
            sets = best_sets(len(names), costs, {s: run.macs for s, run in runs.items()})
            chosen = cheapest(sets, count(traced, task.data)["macs"] * (1 - macs))
        else:
            chosen = fast_enough(task, traced, runs, layers, costs, speedup, kernel)
        gone = removed(names, chosen)
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


def found(traced: fx.GraphModule, data: Data, most: int, kernel: int) -> dict[Stretch, Run]:
    """The stretches of at most so many activations that one layer can replace."""
    nodes = list(activation_nodes(traced).values())
    shapes, stretches = find_shapes(traced, example_of(data)[:2]), {}
    for i in range(len(nodes)):
        for j in range(i + 1, min(i + most, len(nodes)) + 1):
            runs, left = find_runs(traced, set(nodes[i:j]), shapes, kernel)
            if len(runs) == 1 and not left:
                stretches[i, j] = runs[0]
    return stretches


def check_reach(task: Task, traced, runs, macs, speedup, kernel: int) -> None:
    """ValueError for a target that no set of stretches reaches: it says which ones can be."""
    names, nothing = list(activation_nodes(traced)), dict.fromkeys(runs, 0.0)
    counts = best_sets(len(names), nothing)
    if task.remove and task.remove not in counts:
        numbers = ", ".join(map(str, sorted(counts.keys() - {0}))) or "none"
        raise ValueError(
            f"single layers can take the place of so many activations of this model: {numbers};"
            f" not of {task.remove}: choose among them, or method='at_once'."
        )
    if task.remove:
        return
    most = best_sets(len(names), nothing, {s: run.macs for s, run in runs.items()})
    saved, (_, chosen) = max(most.items())
    if macs is not None and saved < (all_macs := count(traced, task.data)["macs"]) * (1 - macs):
        share = 1 - saved / all_macs
        raise ValueError(f"single layers can leave {share:.3f} of the MACs, not {macs}: ask less.")
    if speedup is not None:
        times = measured(traced, removed(names, chosen), task.data, kernel)
        if times < speedup:
            raise ValueError(
                f"single layers make this model about {times:.1f} times as fast on this machine, "
                f"not {speedup:g} times: ask less."
            )


def removed(names: list[str], stretches: list[Stretch]) -> list[str]:
    """The activations that go with these stretches."""
    return [name for i, j in stretches for name in names[i:j]]


def shape_only(network: fx.GraphModule, names: list[str], example, kernel: int) -> fx.GraphModule:
    """The network as a projection shapes it; its weights say nothing."""
    with warnings.catch_warnings(action="ignore"):  # two images give shapes, not weights
        return project_layers(network, names, example, kernel, 2, 1.0).model


@torch.no_grad()
def fit_alone(
    traced: fx.GraphModule, runs: dict[Stretch, Run], data: Data, images: int, ridge: float,
    progress: bool = False,
) -> dict[Stretch, nn.Module]:  # fmt: skip
    """The best layer for each run if it alone is replaced, all in one pass over the images: runs
    that see the same patches of the same input share the products of these."""
    like, together = next(traced.parameters()), {}
    for stretch, run in runs.items():
        shape = [getattr(run.layer, k, 1) for k in ("kernel_size", "stride", "padding", "groups")]
        alone = stretch if shape[3] != 1 else None
        together.setdefault((run.entry, str(shape), run.pixels, alone), []).append(stretch)
    wide = []  # one layer for each such group, its outputs side by side
    for group in together.values():
        first = runs[group[0]].layer
        size = sum(len(runs[s].layer.weight) for s in group), *first.weight.shape[1:]
        wide.append(copy.deepcopy(first))
        wide[-1].weight = nn.Parameter(torch.empty(size, device="meta"))
    grams = [empty_gram(layer, like.device) for layer in wide]
    runner = fx.Interpreter(traced, garbage_collect_values=False)
    batches = input_batches(data, images, batch=50)
    for x in tqdm(batches, "fit", -(-images // 50), disable=not progress, leave=False):
        runner.run(x.to(like))
        for group, layer, gram in zip(together.values(), wide, grams):
            dim = -1 if isinstance(layer, nn.Linear) else 1
            y = torch.cat([runner.env[runs[s].end] for s in group], dim)
            add(gram, layer, runner.env[runs[group[0]].entry], y)
    layers = {}
    for group, gram in zip(together.values(), grams):
        sizes = [len(runs[s].layer.weight) for s in group]
        taps = runs[group[0]].layer.weight[0].numel()
        kernel, mean, _, target, _ = solve(gram, taps, ridge, runs[group[0]])
        kernel = kernel.mT.flatten(0, 1)  # (outputs, taps)
        for s, rows, bias in zip(group, kernel.split(sizes), (target - mean).split(sizes)):
            layer = layers[s] = copy.deepcopy(runs[s].layer)
            layer.weight = nn.Parameter(rows.reshape(layer.weight.shape).to(like))
            layer.bias = nn.Parameter(bias.to(like))
    return layers


def best_sets(
    count: int, costs: dict[Stretch, float], brings: dict[Stretch, float] | None = None
) -> Sets:
    """Of ``count`` activations in a row, for every amount that sets of stretches bring, the set of
    least cost; between two stretches one activation stays. Exact: the best of the first k need
    nothing else. Without ``brings`` the amount is of activations; with it, only sets are kept that
    no other beats in both."""
    best = [{} for _ in range(count + 2)]  # of the first k activations, the last of which stays
    best[0][0] = (0.0, [])
    for k in range(count + 2):
        if brings:
            best[k] = _undominated(best[k])
        for amount, (cost, chosen) in best[k].items() if k <= count else ():
            steps = [(k, k)] + [stretch for stretch in costs if stretch[0] == k]
            for i, j in steps:
                more = 0 if i == j else brings[i, j] if brings else j - i
                new = cost + costs.get((i, j), 0.0), chosen + [(i, j)] * (j > i)
                after, n = best[j + 1], amount + more
                if n not in after or new[0] < after[n][0]:
                    after[n] = new
    return best[count + 1]


def _undominated(sets: Sets) -> Sets:
    kept, least = {}, inf
    for amount in sorted(sets, reverse=True):
        if sets[amount][0] < least:
            kept[amount], least = sets[amount], sets[amount][0]
    return kept


def cheapest(sets: Sets, amount: float) -> list[Stretch]:
    """The stretches of the cheapest set that brings at least ``amount``."""
    return min((cost, chosen) for n, (cost, chosen) in sets.items() if n >= amount)[1]


def fast_enough(task: Task, traced, runs, layers, costs, speedup: float, kernel: int):
    """The cheapest set of stretches with which the whole network is measured to be fast enough:
    what each saves alone only says where to begin."""
    names = list(activation_nodes(traced))
    saved = {s: milliseconds(traced, run, layers[s]) for s, run in runs.items()}
    sets = best_sets(len(names), costs, saved)
    x = first_images(task.data, 1, device_of(traced))
    goal = latency({"dense": traced}, x)["ms"].iloc[0] * (1 - 1 / speedup)
    ahead = [n for n in sorted(sets) if n >= goal] or [max(sets)]
    for amount in ahead:
        chosen = sets[amount][1]
        if (times := measured(traced, removed(names, chosen), task.data, kernel)) >= speedup:
            return chosen
    raise ValueError(
        f"the fastest network found is {times:.2f} times as fast, not {speedup:g} times: ask less."
    )


def milliseconds(traced: fx.GraphModule, run: Run, layer: nn.Module) -> float:
    """What a layer saves in the place of a run, on one image."""
    graph = fx.Graph()
    known = {run.entry: graph.placeholder("x")}
    for node in run.nodes:
        known[node] = graph.node_copy(node, known.get)
    graph.output(known[run.end])
    shape = run.entry.meta["tensor_meta"].shape
    x = fast_layout(torch.randn(1, *shape[1:], device=device_of(traced)))
    old, new = fast_layout(fold(fx.GraphModule(traced, graph))), fast_layout(layer)
    with torch.inference_mode():
        times = race([lambda: old(x), lambda: new(x)], device=x.device)
    return sorted(times[0])[3] - sorted(times[1])[3]


def measured(traced: fx.GraphModule, names: list[str], data: Data, kernel: int) -> float:
    """How many times as fast the network is without these activations, on one image."""
    x = first_images(data, 1, device_of(traced))
    small = shape_only(traced, names, example_of(data)[:2], kernel)
    return latency({"dense": traced, "projected": small}, x)["speedup"].iloc[1]
