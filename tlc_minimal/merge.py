"""Fuses what has become linear, checks equality, keeps a merge only where the clock agrees.

Batch norms and affine maps fold into the convolution in front of them: that always pays. A pair of
convolutions becomes one, together with the shortcut around it; whether *that* pays depends on the
machine (two 3x3 cost 18 C², one 5x5 costs 25 C²), so ``keep="fastest"`` times both.
"""

import copy
import statistics as numbers

import torch
from torch import Tensor, fx, nn

from . import kernels
from .clock import fast_layout, race
from .graph import example_of, find_shapes, trace
from .kernels import Conv
from .nodes import (
    CONV,
    NORM,
    Affine,
    bypass,
    calls,
    finish,
    is_sum,
    module_of,
    only_user,
    put_module,
)


def merge(
    model: nn.Module, example, keep: str = "fastest", verbose: bool = False
) -> fx.GraphModule:
    """A copy of ``model`` with the same outputs and fewer layers.

    ``example``: an input batch (tensor, DataLoader or Data); its shape is the one that is timed.
    ``keep="all"`` merges every pair that is exactly one convolution, ``"fastest"`` only where one
    is faster than two on this device, alone and in the whole network. The result is checked: it
    agrees with ``model`` on the example to 1e-5 (float64: 1e-10) relative, or RuntimeError.
    ``.meta["merges"]`` has a row for each pair that was tried.
    ValueError in training mode: a batch norm on batch statistics is not a linear map.
    """
    if keep not in ("fastest", "all"):
        raise ValueError(f"keep is 'fastest' or 'all', not {keep!r}.")
    if any(module.training for module in model.modules()):
        raise ValueError("merging needs fixed batch-norm statistics: call model.eval() first.")
    traced = fold(model)
    shapes = find_shapes(traced, example)
    rows, seen = [], set()
    while pair := _next_pair(traced, shapes, seen):
        rows.append(_try(traced, pair, shapes, keep))
        seen.add(_key(pair))
        _fold(traced)
    finish(traced)
    _check_equal(model, traced, example)
    merged = [row for row in rows if row["verdict"] == "merged into one"]
    if keep == "fastest" and merged:
        folded = fold(model)
        if not _is_faster(traced, folded, example_of(example)):
            traced = folded  # each pair won alone, but together they do not
            for row in merged:
                row["verdict"] = "left in two: no gain in the whole network"
    traced.meta["merges"] = rows
    if verbose:
        print("\n".join(describe(row) for row in rows) or "nothing to merge")
    return traced


def fold(model: nn.Module) -> fx.GraphModule:
    """A copy of ``model`` (eval mode) whose batch norms and affine maps are inside convolutions."""
    traced = trace(model)
    _fold(traced)
    return finish(traced)


def _fold(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        module, before = module_of(traced, node), node.args[0] if node.args else None
        if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d)):
            bypass(node, before)
        elif isinstance(module, NORM + (Affine,)) and _is_private(traced, before):
            conv = kernels.read(module_of(traced, before))
            _put(traced, before, kernels.scale_output(conv, *_slope_and_shift(module)))
            bypass(node, before)


def describe(row: dict) -> str:
    """One line for a person about one pair of ``.meta["merges"]``."""
    clock = f", {row['two_ms']:.3f} ms against {row['one_ms']:.3f} ms" if "two_ms" in row else ""
    cost = f"{row['two_macs'] / 1e6:.2f} M → {row['one_macs'] / 1e6:.2f} M MACs"
    return f"{row['first']} + {row['second']}: {row['verdict']} ({cost}{clock})"


def _next_pair(traced: fx.GraphModule, shapes: dict, seen: set):
    """(first, second, shortcut, end): the next two convolutions, or branches, that may be one.

    ``end`` is the sum with the ``shortcut``, or ``second`` itself where there is none; ``first`` is
    None for two parallel branches that only wait for their sum.
    """
    for node in traced.graph.nodes:
        pair = None
        if _is_composable(traced, node):
            first = node.args[0]
            pair = (first, node, *_shortcut(traced, shapes, node, first.args[0]))
        elif is_sum(node):
            branches = [n for n in node.all_input_nodes if _is_private(traced, n)]
            if branches:
                branch = branches[0]
                pair = (None, branch, *_shortcut(traced, shapes, branch, branch.args[0]))
        if pair is not None and pair[:1] + pair[2:3] != (None, None) and _key(pair) not in seen:
            return pair
    return None


def _key(pair) -> tuple:
    return tuple(node and node.name for node in pair)


def _shortcut(traced: fx.GraphModule, shapes: dict, node: fx.Node, source: fx.Node):
    """If ``node`` is summed with a linear function of ``source``: that branch and the sum."""
    total = only_user(node)
    if not is_sum(total):
        return None, node
    other = next(n for n in total.all_input_nodes if n is not node)
    module = module_of(traced, other)
    linear = _is_private(traced, other) or isinstance(module, Affine) and only_user(other) is total
    parallel = other is source or linear and other.args[0] is source
    return (other, total) if parallel and shapes[other] == shapes[node] else (None, node)


def _try(traced: fx.GraphModule, pair, shapes: dict, keep: str) -> dict:
    """Replace the pair by one convolution if that is wanted; a row about what was decided."""
    first, second, shortcut, end = pair
    nodes = [n for n in (first, second, shortcut) if isinstance(module_of(traced, n), CONV)]
    values = [kernels.read(module_of(traced, n)) for n in nodes]
    source = nodes[0].args[0]
    one = kernels.compose(*values[:2]) if first else values[0]
    row = {"first": str((first or shortcut).target), "second": second.target}
    row["two_macs"] = sum(_macs(value, shapes[n]) for value, n in zip(values, nodes))
    if shortcut is not None:
        try:
            one = kernels.add(one, _read_branch(traced, shortcut, source, one))
        except ValueError as error:
            return row | {"one_macs": row["two_macs"], "verdict": f"left in two: {error}"}
    row["one_macs"] = _macs(one, shapes[end])
    if keep == "fastest":
        x = torch.randn(shapes[source], dtype=one.weight.dtype, device=one.weight.device)
        before = fx.GraphModule(traced, _subgraph(traced, source, end))
        if not _is_faster(kernels.write(one).eval(), before, x, row):
            return row | {"verdict": "left in two"}
    _put(traced, second, one)
    second.args = (source,)
    if end is not second:
        bypass(end, second)
        shapes[second] = shapes[end]
    traced.graph.eliminate_dead_code()
    return row | {"verdict": "merged into one"}


def _is_faster(one: nn.Module, two: nn.Module, x: Tensor, row: dict | None = None) -> bool:
    """Whether ``one`` beats ``two`` on ``x`` beyond the noise; the medians go into ``row``."""
    weight = next(one.parameters())
    one, two, x = (fast_layout(thing) for thing in (one, two, x.to(weight.device, weight.dtype)))
    with torch.inference_mode():
        times = race([lambda: two(x), lambda: one(x)], device=x.device)
    if row is not None:
        row["two_ms"], row["one_ms"] = (numbers.median(t) for t in times)
    return numbers.median(times[1]) < numbers.quantiles(times[0], n=4)[0]


def _subgraph(traced: fx.GraphModule, source: fx.Node, end: fx.Node) -> fx.Graph:
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


def _read_branch(traced: fx.GraphModule, node: fx.Node, source: fx.Node, like: Conv) -> Conv:
    if node is not source and isinstance(module_of(traced, node), CONV):
        return kernels.read(module_of(traced, node))
    one = kernels.identity(like.weight.shape[0], like.dims, like.weight)
    return (
        one
        if node is source
        else kernels.scale_output(one, *_slope_and_shift(module_of(traced, node)))
    )


def _slope_and_shift(module: nn.Module) -> tuple[Tensor, Tensor]:
    if isinstance(module, NORM):
        return kernels.batch_norm_affine(module)
    shift = module.shift.detach()
    return (
        torch.ones_like(shift) if module.slope is None else (module.slope * module.on).detach()
    ), shift


def _is_readable(module: nn.Module) -> bool:
    return isinstance(module, CONV) and getattr(module, "padding_mode", "zeros") == "zeros"


def _is_private(traced: fx.GraphModule, node) -> bool:
    """A convolution that feeds one node only and is called once."""
    if not _is_readable(module_of(traced, node)) or only_user(node) is None:
        return False
    return calls(traced, node) == 1


def _is_composable(traced: fx.GraphModule, second: fx.Node) -> bool:
    module, first = module_of(traced, second), second.args[0] if second.args else None
    if not (_is_readable(module) and calls(traced, second) == 1 and _is_private(traced, first)):
        return False
    one, two = kernels.read(module_of(traced, first)), kernels.read(module)
    return one.dims == two.dims and not any(two.padding)


def _put(traced: fx.GraphModule, node: fx.Node, conv: Conv) -> None:
    put_module(traced, node.target, kernels.write(conv))


def _macs(conv: Conv, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates per image of a convolution whose output has this shape."""
    return conv.weight.numel() * int(torch.Size(shape[2:]).numel() if conv.dims else 1)


def _check_equal(model: nn.Module, merged: nn.Module, example) -> None:
    # In float64, so that neither TF32 on a GPU nor the order of sums hides or feigns a difference.
    device = next(merged.parameters()).device
    x = example_of(example)[:2].to(device, torch.float64)
    dtype = next(merged.parameters()).dtype
    with torch.no_grad():
        want, got = (copy.deepcopy(m).double()(x) for m in (model, merged))
    error = ((got - want).norm() / want.norm().clamp_min(1e-30)).item()
    limit = {torch.float64: 1e-10, torch.float32: 1e-5}.get(dtype, 1e-2)
    if not error <= limit:
        raise RuntimeError(
            f"the merged model differs from the original by {error:.1e} (limit {limit:.0e}): "
            "this is a mistake of ours; please report it with the model. Nothing was changed."
        )
