"""Stretches of activations that single layers replace: found, fitted alone, combined exactly."""

import copy
from collections.abc import Hashable, Iterator
from math import inf

import torch
from torch import fx, nn
from tqdm.auto import tqdm

from ..data import Data, input_batches
from ..graph import example_of, find_shapes
from ..nodes import activation_nodes
from ..project import add, check_images, check_memory, empty_gram, free_memory, solve
from ..runs import Run, find_runs

Stretch = tuple[int, int]  # from the first activation that goes to the next one that stays
Stretches = dict[Stretch, list[Run]]  # and the runs, of which each becomes one layer
Place = tuple[fx.Node, fx.Node]  # a run's entry and its end
Sets = dict[float, tuple[float, list[Stretch]]]  # {what it brings: (what it costs, its stretches)}


def find_stretches(traced: fx.GraphModule, data: Data, most: int, kernel: int) -> Stretches:
    """The stretches of at most so many activations that go when one layer takes the place of each
    of these runs: of one run where all is linear, of several where something else lies between, as
    attention does between the MLPs of a transformer."""
    nodes = list(activation_nodes(traced).values())
    shapes, stretches = find_shapes(traced, example_of(data)[:2]), {}
    for i in range(len(nodes)):
        for j in range(i + 1, min(i + most, len(nodes)) + 1):
            runs, left = find_runs(traced, set(nodes[i:j]), shapes, kernel)
            if not left:
                stretches[i, j] = runs
    return stretches


def places(stretches: Stretches) -> dict[Place, Run]:
    """The runs of all stretches, each once."""
    return {(run.entry, run.end): run for runs in stretches.values() for run in runs}


def summed(stretches: Stretches, numbers: dict[Place, float]) -> dict[Stretch, float]:
    """A number of each stretch: the sum of its runs' numbers."""
    return {s: sum(numbers[place] for place in places({s: runs})) for s, runs in stretches.items()}


def saved_macs(stretches: Stretches) -> dict[Stretch, float]:
    """The multiply-accumulates an image that each stretch saves."""
    return {s: sum(run.macs for run in runs) for s, runs in stretches.items()}


def names_in(names: list[str], stretches: list[Stretch]) -> list[str]:
    """The activations that go with these stretches."""
    return [name for i, j in stretches for name in names[i:j]]


@torch.no_grad()
def fit_alone(
    traced: fx.GraphModule, runs: dict[Hashable, Run], data: Data, images: int, ridge: float,
    progress: bool = False,
) -> dict[Hashable, nn.Module]:  # fmt: skip
    """The best layer for each run if it alone is replaced: runs that see the same patches of the
    same input share the products of these, and all whose products fit into memory one pass over the
    images. MemoryError for one that does not."""
    like, together = next(traced.parameters()), {}
    check_memory([*runs.values()], like.device)
    if not ridge:
        check_images([*runs.values()], min(images, data.train.size), ridge)
    for key, run in runs.items():
        shape = [getattr(run.layer, k, 1) for k in ("kernel_size", "stride", "padding", "groups")]
        apart = key if shape[3] != 1 else None  # groups share no products
        together.setdefault((run.entry, str(shape), run.pixels, apart), []).append(key)
    layers, room = {}, free_memory(like.device) / 2  # as much again to solve them
    for groups in in_passes([*together.values()], runs, room):
        layers |= _fit(traced, runs, groups, data, images, ridge, progress)
    return layers


def in_passes(groups: list[list], runs: dict[Hashable, Run], room: float) -> Iterator[list[list]]:
    """The groups of runs in turn, as many at once as have room for their products; one at least."""
    some, taken = [], 0
    for group in groups:
        size = empty_gram(_side_by_side(runs, group), torch.device("meta")).nbytes
        if some and taken + size > room:
            yield some
            some, taken = [], 0
        some, taken = [*some, group], taken + size
    if some:
        yield some


def _side_by_side(runs: dict[Hashable, Run], group: list) -> nn.Module:
    """One layer for a group of runs, their outputs side by side."""
    wide = copy.deepcopy(runs[group[0]].layer)
    size = sum(len(runs[s].layer.weight) for s in group), *wide.weight.shape[1:]
    wide.weight = nn.Parameter(torch.empty(size, device="meta"))
    return wide


def _fit(traced, runs, groups: list[list], data, images, ridge, progress) -> dict:
    like, runner = next(traced.parameters()), fx.Interpreter(traced, garbage_collect_values=False)
    wide = [_side_by_side(runs, group) for group in groups]
    grams = [empty_gram(layer, like.device) for layer in wide]
    batches = input_batches(data, images, batch=50)
    for x in tqdm(batches, "fit", -(-images // 50), disable=not progress, leave=False):
        runner.run(x.to(like))
        for group, layer, gram in zip(groups, wide, grams):
            dim = -1 if isinstance(layer, nn.Linear) else 1
            y = torch.cat([runner.env[runs[s].end] for s in group], dim)
            add(gram, layer, runner.env[runs[group[0]].entry], y)
    layers = {}
    for group, gram in zip(groups, grams):
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
            best[k] = undominated(best[k])
        for amount, (cost, chosen) in best[k].items() if k <= count else ():
            # Activation k stays; or a stretch from k to j goes and j stays (the last is imagined).
            steps = [(k, k)] + [stretch for stretch in costs if stretch[0] == k]
            for i, j in steps:
                more = 0 if i == j else brings[i, j] if brings else j - i
                new = cost + costs.get((i, j), 0.0), chosen + [(i, j)] * (j > i)
                after, n = best[j + 1], amount + more
                if n not in after or new[0] < after[n][0]:
                    after[n] = new
    return best[count + 1]


def undominated(sets: Sets) -> Sets:
    """Those that no other beats in both, what it brings and what it costs."""
    kept, least = {}, inf
    for amount in sorted(sets, reverse=True):
        if sets[amount][0] < least:
            kept[amount], least = sets[amount], sets[amount][0]
    return kept


def cheapest(sets: Sets, amount: float) -> list[Stretch]:
    """The stretches of the cheapest set that brings at least ``amount``."""
    return min((cost, chosen) for n, (cost, chosen) in sets.items() if n >= amount)[1]
