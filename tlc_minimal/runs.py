"""Runs: what lies between two places of a network and is one layer once its activations are gone.

A run is a single-entry single-exit region of the graph (Johnson, Pearson and Pingali, PLDI 1994):
no path leads in but through the node in front of it, none out but through its last one. Found from
the graph alone, from its end backwards: everything between is a layer, a norm, a sum or an
activation that goes. Shortcuts inside are part of it. A block, what one module of the model
computes, is a run, too, whatever is in it, if it is named.
"""

import math
from itertools import count
from typing import NamedTuple

import torch
from torch import fx, nn

from .channels import MAP, made_dim
from .nodes import is_fixed, is_sum, module_of, name_of
from .piece import Piece, extent
from .reading.layers import CONV, DROPOUT, NORM

MIXES = (*CONV, *MAP, nn.Identity, *DROPOUT)  # what runs are made of, besides sums
ON_MAPS = (*CONV[:-1], *NORM)


class Run(NamedTuple):
    """The ``nodes`` behind ``entry`` up to ``end``, and what can take their place."""

    entry: fx.Node
    end: fx.Node
    nodes: list[fx.Node]
    removed: list[str]  # activations, or the name of the block
    layer: nn.Module  # on the meta device: without numbers yet
    norm: type | None  # of batch norm, if there was one
    pixels: int  # (or tokens) of an image at the end
    saved: int  # multiplications, if the new layer is as large as the largest that it replaces
    macs: int  # multiply-accumulates an image that the new layer saves; both 0 of a block

    def __str__(self) -> str:
        return f"{name_of(self.entry)} to {name_of(next(iter(self.end.users)))}"


def find_runs(
    traced: fx.GraphModule, gone: set[fx.Node], shapes: dict, kernel: int, blocks=()
) -> tuple[list[Run], dict[str, str]]:
    """The runs that are blocks or hold what is ``gone``, in order, and {name: why it is in none}.

    Of the places where a run can begin and end, those are taken between which most activations go,
    then those that save most multiplications (between bottlenecks, say, not between what is wide).
    ``gone``: activations; ``shapes``: of the nodes of the traced model, from ``find_shapes``;
    ``kernel``: side of kernels; ``blocks``: {name: nodes}, ValueError if no layer replaces one.
    """
    nodes = list(traced.graph.nodes)
    mixes = {n for n in nodes if n in gone or is_sum(n) or isinstance(module_of(traced, n), MIXES)}
    found = [region for end in nodes for region in regions(end, mixes)]
    how_many_go = lambda region: len(gone.intersection(region[1]))
    runs, left, taken = [], {}, set()
    for name, inside in sorted(dict(blocks).items(), key=lambda block: -len(block[1])):
        if not taken.issuperset(inside):  # else it is a part of another
            if not taken.isdisjoint(inside):
                raise ValueError(f"{name} is partly in another block: name one of the two.")
            runs.append(_block(traced, name, inside, shapes, kernel))
            taken.update(inside)
    for node in sorted(gone - taken):
        free = [region for region in found if node in region[1] and taken.isdisjoint(region[1])]
        best = []
        for region in sorted(free, key=how_many_go, reverse=True):
            if best and how_many_go(region) < len(best[0].removed):
                break
            try:
                best.append(_run(traced, gone, region[0], list(region[1]), shapes, kernel))
            except ValueError as problem:
                left[node.target] = f"{node.target} stays: {problem}"
        if best:
            left.pop(node.target, None)
            runs.append(max(best, key=lambda run: (run.saved, len(run.nodes))))
            taken.update(runs[-1].nodes)
    return sorted(runs, key=lambda run: run.entry), left


def regions(end: fx.Node, mixes: set[fx.Node]) -> list[tuple[fx.Node, dict[fx.Node, None]]]:
    """The regions of ``mixes`` that end in ``end``, the largest first: (entry, nodes in forward
    order), of which only the entry leads in and only ``end`` out."""
    frontier, inside, found = {end}, {}, []  # inside: from the end backwards
    # Of the frontier the last in forward order: who uses it was met before, or is outside.
    while (node := max(frontier)) in mixes and (node is end or node.users.keys() <= inside.keys()):
        inside[node] = None
        frontier = (frontier - {node}).union(node.all_input_nodes)
        if len(frontier) == 1:
            found.append((*frontier, dict.fromkeys(reversed(inside))))
    return found[::-1]


def in_block(traced: fx.GraphModule, name: str) -> list[fx.Node]:
    """The nodes of the module ``name``, in forward order, but for what is the same for all inputs;
    [] if the forward calls no module by this name."""
    paths = lambda node: [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return [n for n in traced.graph.nodes if name in paths(n) and not is_fixed(n)]


def _block(traced, name: str, nodes: list[fx.Node], shapes, kernel: int) -> Run:
    """The run that a block is; of maps the layer is a convolution, else a matrix."""
    entries = {n for node in nodes for n in node.all_input_nodes if not is_fixed(n)} - {*nodes}
    if len(entries) != 1 or any(node.users.keys() - {*nodes} for node in nodes[:-1]):
        raise ValueError(f"{name} has not one input and one output: name a block that has.")
    before, after = (shapes.get(node, ()) for node in (*entries, nodes[-1]))
    dim, dim_before = (made_dim(traced, node) for node in (nodes[-1], *entries))
    if len(after) == 3 and not any(isinstance(module_of(traced, n), ON_MAPS) for n in nodes):
        dim = dim_before = -1  # tokens, whatever is said of the network's input
    alike = len(before) == len(after) > 1 and (len(after) == 2 or dim == dim_before in (1, -1))
    strides = _strides(traced, *entries, nodes, shapes) if alike and dim == 1 else []
    sides = [*zip(before[2:], after[2:], strides)]
    if alike := alike and all((m - 1) * s < n for n, m, s in sides):
        layer = _layer(before, after, [_window(*side, kernel) for side in sides])
    if not alike or layer(torch.empty(before, device="meta")).shape != after:
        raise ValueError(f"no layer makes {after} of {before} as {name} does: name another block.")
    return _as_run(layer, traced, *entries, nodes, [name], shapes)


def _strides(traced, entry: fx.Node, nodes: list[fx.Node], shapes) -> list[int]:
    """How far apart two neighbours at the end of a block are at its entry, along each dimension."""
    known = {entry: [1] * len(shapes[entry][2:])}
    for node in nodes:
        first = min((n for n in node.all_input_nodes if n in known), key=known.get, default=entry)
        sides = zip(*(shapes.get(n, ())[2:] for n in (first, node)))
        own = getattr(module_of(traced, node), "stride", [max(1, round(n / m)) for n, m in sides])
        own = [own] * 3 if isinstance(own, int) else [*own, 1, 1, 1]  # 1: it is flat meanwhile
        known[node] = [s * t for s, t in zip(known[first], own)]
    return known[node]


def _window(n: int, m: int, stride: int, kernel: int) -> tuple[int, int, int]:
    """Size, stride and padding that make m of n pixels, the windows in the middle of the n."""
    for size in count(max(kernel, stride) | 1):  # odd, if that fits
        padding = max(0, -(-((m - 1) * stride + size - n) // 2))
        if (n + 2 * padding - size) // stride + 1 == m:
            return size, stride, padding


def _run(traced, gone, entry: fx.Node, nodes: list[fx.Node], shapes, kernel: int) -> Run:
    f = Piece(entry, tuple(nodes), {node: module_of(traced, node) for node in nodes})
    layers, end, before, after = f.layers, nodes[-1], shapes[entry], shapes[nodes[-1]]
    if len({layer.weight.ndim for layer in layers.values()}) != 1:
        what = "a convolution and a matrix are" if layers else "no layer is"
        raise ValueError(f"{what} between {name_of(entry)} and {name_of(end)}")
    layer = _convolution(f, before, after, kernel) if f.dims else _layer(before, after)
    taps = lambda layer: layer.weight[0, 0].numel()
    macs = lambda layer, node: layer.weight[0].numel() * math.prod(shapes[node])
    all_macs, new_macs = sum(macs(old, node) for node, old in layers.items()), macs(layer, end)
    saved = all_macs - new_macs // taps(layer) * max(map(taps, layers.values()))
    removed = [node.target for node in nodes if node in gone]
    return _as_run(layer, traced, entry, nodes, removed, shapes, saved, all_macs - new_macs)


def _convolution(f: Piece, before, after, kernel: int) -> nn.Module:
    """As large as ``kernel``, but no larger than what one pixel of the run sees, and large enough
    for the run's stride and for taking as much off the map as the run does without padding."""
    reach, stride, lost = zip(*extent(f))
    least = [min(max(kernel, s), r) for s, r in zip(stride, reach)]
    size = [next(k for k in count(k) if k > n and (k - n) % 2) for k, n in zip(least, lost)]
    padding = [(k - 1 - n) // 2 for k, n in zip(size, lost)]
    if [(n - 1 - o) // s + 1 for n, o, s in zip(before[2:], lost, stride)] != list(after[2:]):
        between = f"{name_of(f.source)} and {name_of(f.nodes[-1])}"
        raise ValueError(f"branches of different sizes meet between {between}")
    groups = {layer.groups for layer in f.layers.values()}
    groups = groups.pop() if len(groups) == 1 else 1
    return _layer(before, after, list(zip(size, stride, padding)), groups)


def _layer(before, after, windows=(), groups: int = 1) -> nn.Module:
    """A convolution with (size, stride, padding) along each dimension, or a matrix without."""
    if windows:
        make, about = CONV[len(windows) - 1], zip(*windows)
        return make(before[1], after[1], *about, groups=groups, device="meta")
    return nn.Linear(before[-1], after[-1], device="meta")


def _as_run(layer, traced, entry, nodes, removed, shapes, saved=0, macs=0) -> Run:
    """With a batch norm if there was one; all that is counted, for one image."""
    images, after = shapes[next(iter(traced.graph.nodes))][0], shapes[nodes[-1]]
    normed, dims = any(isinstance(module_of(traced, n), NORM) for n in nodes), layer.weight.ndim - 2
    normed = normed and (dims or len(after) == 2)  # of tokens it takes no features
    norm, pixels = NORM[max(dims, 1) - 1] if normed else None, math.prod(after) // len(layer.weight)
    counts = pixels // images, saved, macs // images
    return Run(entry, nodes[-1], nodes, removed, layer, norm, *counts)
