"""Two convolutions, one: finds the pairs that can be fused, fuses them, and asks the clock."""

import statistics as numbers
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from . import kernels
from .clock import fast_layout, race
from .fold import fold_affine, is_private, slope_and_shift
from .graph import find_shapes, trace
from .kernels import Conv
from .modules import Affine, Bordered
from .nodes import CONV, bypass, is_sum, module_of, only_user, put_module
from .refuse import check_plain
from .segments import obstacle

MERGED, APART = "merged into one", "left in two: "


class Pair(NamedTuple):
    """Two convolutions, or two branches, that may be one.

    ``end`` is the sum with the ``shortcut``, or ``second`` itself where there is none; ``first`` is
    None for two parallel branches that only wait for their sum.
    """

    first: fx.Node | None
    second: fx.Node
    shortcut: fx.Node | None
    end: fx.Node

    @property
    def names(self) -> tuple:
        return tuple(node and node.name for node in self)


def merge_pairs(model: nn.Module, example, keep: str, known: dict | None = None):
    """The merged graph (not yet finished), a row for each pair that was tried, and the shapes of
    all nodes when the model runs on ``example``. ``keep``: "all", or "fastest" to ask the clock.
    ``known`` remembers what was composed, so that a second call does not compose it again."""
    check_plain(model)
    traced = trace(model)
    shapes = find_shapes(traced, example)
    fold_affine(traced)
    rows, seen, known = [], set(), {} if known is None else known
    while pair := next((p for p in _pairs(traced, shapes) if p.names not in seen), None):
        seen.add(pair.names)
        rows.append(_try(traced, pair, shapes, keep, known))
        fold_affine(traced)
    return traced, rows, shapes


def _pairs(traced: fx.GraphModule, shapes: dict) -> Iterator[Pair]:
    for node in traced.graph.nodes:
        if obstacle(traced, node) == "":
            first = node.args[0]
            if not any(kernels.read(module_of(traced, node)).padding):
                shortcut, end = _shortcut(traced, shapes, node, first.args[0])
                if shortcut is not None:
                    yield Pair(first, node, shortcut, end)
            yield Pair(first, node, None, node)
        elif is_sum(node):
            for branch in filter(lambda n: _is_branch(traced, n), node.all_input_nodes):
                shortcut, end = _shortcut(traced, shapes, branch, branch.args[0])
                if shortcut is not None:
                    yield Pair(None, branch, shortcut, end)
                    break


def _is_branch(traced: fx.GraphModule, node: fx.Node) -> bool:
    return is_private(traced, node) and not kernels.obstacle(module_of(traced, node))


def _shortcut(traced: fx.GraphModule, shapes: dict, node: fx.Node, source: fx.Node):
    """If ``node`` is summed with a linear function of ``source``: that branch and the sum."""
    total = only_user(node)
    if not is_sum(total):
        return None, node
    other = next(n for n in total.all_input_nodes if n is not node)
    affine = isinstance(module_of(traced, other), Affine) and only_user(other) is total
    linear = affine or _is_branch(traced, other)
    parallel = other is source or linear and other.args[0] is source
    return (other, total) if parallel and shapes[other] == shapes[node] else (None, node)


def _try(traced: fx.GraphModule, pair: Pair, shapes: dict, keep: str, known) -> dict:
    """Replace the pair by one convolution if that is wanted; a row about what was decided."""
    first, second, shortcut, end = pair
    source = (first or second).args[0]
    row = {"first": str((first or shortcut).target), "second": str(second.target)}
    two, x = (
        fx.GraphModule(traced, _subgraph(source, end)),
        _noise(module_of(traced, first or second), shapes[source]),
    )
    row["two_macs"] = row["one_macs"] = _macs(two, x)
    try:
        one = _fuse(traced, pair, source, x.shape[2:], known)
    except ValueError as error:
        return row | {"verdict": f"{APART}{error}"}
    row["one_macs"] = _macs(one, x)
    if keep == "fastest" and not is_faster(one, two, x, row):
        return row | {"verdict": f"{APART}no faster as one"}
    put_module(traced, second.target, one)
    second.args = (source,)
    if end is not second:
        bypass(end, second)
        shapes[second] = shapes[end]
    traced.graph.eliminate_dead_code()
    return row | {"verdict": MERGED}


def _fuse(traced: fx.GraphModule, pair: Pair, source: fx.Node, size, known) -> nn.Module:
    """The one module that computes what the pair does to an input of this spatial size; ValueError
    says why there is none."""
    first, second, shortcut, _ = pair
    one = kernels.read(module_of(traced, second))
    if first is not None:
        before, ones = kernels.read(module_of(traced, first)), (1,) * one.dims
        if any(one.padding):
            if before.kernel != ones or any(before.padding) or before.bias.any():
                return _once(known, pair, _bordered, before, one, size)
            # 1x1 without bias makes zeros of zeros: padding moves through it untouched.
            padding = tuple(s * p for s, p in zip(before.stride, one.padding, strict=True))
            before, one = before._replace(padding=padding), one._replace(padding=(0,) * one.dims)
        one = _once(known, pair, kernels.compose, before, one)
    if shortcut is not None:
        one = kernels.add(one, _read_branch(traced, shortcut, source, one))
    return kernels.write(one).eval()


def _bordered(first: Conv, second: Conv, size) -> Bordered:
    if not Bordered(*map(_hollow, (first, second))).has_inside(size):
        raise ValueError("the border is all of this map")
    return Bordered(first, second).eval()


def _hollow(conv: Conv) -> Conv:
    """Without its numbers: composing them takes seconds, and where the border is needs none."""
    return conv._replace(weight=conv.weight.to("meta"), bias=conv.bias.to("meta"))


def _once(known: dict, pair: Pair, make, first: Conv, second: Conv, *rest):
    """``make(first, second, *rest)``, or what it made of the same two before."""
    names = pair.names[:2]
    was = known.get(names)
    if was is None or not (_same(was[0], first) and _same(was[1], second)):
        known[names] = was = first, second, make(first, second, *rest)
    return was[2]


def _same(a: Conv, b: Conv) -> bool:
    return a[2:] == b[2:] and torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)


def _read_branch(traced: fx.GraphModule, node: fx.Node, source: fx.Node, like: Conv) -> Conv:
    if node is not source and isinstance(module_of(traced, node), CONV):
        return kernels.read(module_of(traced, node))
    one = kernels.identity(like.weight.shape[0], like.dims, like.weight)
    if node is source:
        return one
    return kernels.scale_output(one, *slope_and_shift(module_of(traced, node)))


def _subgraph(source: fx.Node, end: fx.Node) -> fx.Graph:
    """The graph from ``source`` to ``end`` on its own, its input a placeholder."""
    graph = fx.Graph()
    copies = {source: graph.placeholder("x")}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:
            for before in node.all_input_nodes:
                copy(before)
            copies[node] = graph.node_copy(node, lambda n: copies[n])
        return copies[node]

    graph.output(copy(end))
    return graph


def macs_at(traced: fx.GraphModule, node: fx.Node, shapes: dict) -> int:
    """Multiply-accumulates per image of one convolution in the example's run."""
    module = module_of(traced, node)
    return _macs(module, _noise(module, shapes[node.args[0]]))


def is_faster(one: nn.Module, two: nn.Module, x: Tensor, row: dict | None = None) -> bool:
    """Whether ``one`` beats ``two`` on ``x`` beyond the noise: in three of four rounds of a race.
    The medians go into ``row``."""
    weight = next(one.parameters())
    one, two, x = (fast_layout(thing) for thing in (one, two, x.to(weight.device, weight.dtype)))
    with torch.inference_mode():
        times = race([lambda: two(x), lambda: one(x)], device=x.device)
    if row is not None:
        row["two_ms"], row["one_ms"] = (numbers.median(t) for t in times)
    rounds = [a / b for a, b in zip(*times, strict=True)]
    return numbers.quantiles(rounds, n=4)[0] > 1


def _noise(module: nn.Module, shape) -> Tensor:
    """An input for a convolution where one of this shape arrives (a carrier of ones may be new)."""
    conv, shape = getattr(module, "first", module), list(shape)
    channels = conv.weight.shape[1] * getattr(conv, "groups", 1)
    shape[-1 if isinstance(conv, nn.Linear) else 1] = channels
    return torch.randn(shape, dtype=conv.weight.dtype, device=conv.weight.device)


def _macs(module: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of a module per image."""
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        module(x[:1])
    return flops.get_total_flops() // 2
