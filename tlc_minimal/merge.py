"""Folds what is a map per channel, makes one layer of each linear piece, and checks equality.

Folding always pays. Whether one layer in the place of two pays depends on the machine (two 3x3 cost
18 C², one 5x5 costs 25 C²), so ``keep="fastest"`` asks the clock.
"""

import copy
import statistics as numbers
import warnings

import pandas as pd
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from .clock import fast_layout, race
from .edits import alone, finish, replace
from .fold import fold, fold_maps, fold_sums
from .graph import editable, example_of, find_shapes, trace
from .linearize import linearize
from .nodes import module_of
from .piece import Piece, extract, grow, obstacle, read
from .reading.axes import shape_of
from .reading.refuse import tensors_in
from .refuse import check_known
from .table import APART, MERGED, describe, macs_of, table


def merge(
    model: nn.Module, example, keep: str = "fastest", verbose: bool = False
) -> fx.GraphModule:
    """A copy of ``model`` with the same outputs and fewer layers.

    ``example``: an input batch (tensor, DataLoader or Data); its shape is the one that is timed.
    ``keep="all"`` makes one layer of all that can be one; ``"fastest"`` only where one is faster
    than two on this device, alone and in the whole network. ``verbose`` prints :func:`table` and
    every verdict. The result is checked on the example: both run in float64, RuntimeError if they
    differ by more than 1e-10 (1e-5 for weights in float32, or what rounding them does here).
    ``.meta["merges"]`` has a row for each piece of two layers or more that was tried. ValueError
    in training mode (a batch norm on batch statistics is no linear map: one without running
    statistics stays), and for what :func:`reading.refuse.check_plain` refuses.
    """
    check_known("keep", keep, ("fastest", "all"))
    traced = editable(model, example)
    layers = [(n, m) for n, m in model.named_modules() if not n or not any(m.children())]
    if training := [name or "the model" for name, module in layers if module.training]:
        what = f"merging needs fixed batch-norm statistics, and {training[0]} is in training mode"
        raise ValueError(f"{what}: call model.eval() first.")
    find_shapes(traced, example)
    fold_maps(traced)
    rows = merge_pieces(traced, keep)
    fold_maps(traced)
    fold_sums(traced)
    finish(traced)
    merged = [row for row in rows if row["verdict"] == MERGED]
    if keep == "fastest" and merged:
        folded = fold(model, example)
        if not is_faster(traced, folded, example_of(example, model)):
            traced = folded  # each piece won alone, but together they do not
            for row in merged:
                row["verdict"] = f"{APART}no gain in the whole network"
    check_equal(model, traced, example)
    traced.meta["merges"] = rows
    if verbose:
        verdicts = "\n".join(map(describe, rows)) or "nothing to merge"
        print(table(model, model, traced, example).to_string(), verdicts, sep="\n\n")
    return traced


def merge_pieces(traced: fx.GraphModule, keep: str) -> list[dict]:
    """Make one layer of each linear piece, from the output backwards, until all are tried; a row
    for each of two layers or more: the last verdict about it (:func:`_row`, :func:`is_faster`)."""
    rows, tried, before = [], set(), -1
    while len(tried) > before:
        before, end = len(tried), next(iter(reversed(traced.graph.nodes)))
        while end.op != "root":  # the sentinel in front of a graph's first node
            end = merge_at(traced, end, keep, rows, tried) or end.prev
    last = {tuple(row["layers"]): row for row in rows if len(row["layers"]) > 1}
    return list(last.values())[::-1]


def merge_at(traced, end: fx.Node, keep: str, rows, tried) -> fx.Node | None:
    """The node of the layer that a piece ending in ``end`` became: the largest that one layer
    computes and ``keep`` wants; None if there is none that was not ``tried``."""
    good = []
    for source, *nodes in grow(traced, end)[0]:
        if (source, *nodes) in tried:
            continue
        tried.add((source, *nodes))
        f = extract(traced, source, nodes)
        if why := obstacle(f):
            rows.append(_row(traced, f, f"{APART}{why}"))
            break
        good.append(f)
    for f in reversed(good):
        try:
            one = read(f).to(module_of(traced, next(iter(f.layers))).weight)
        except ValueError as error:
            rows.append(_row(traced, f, f"{APART}{error}"))
            continue
        rows.append(row := _row(traced, f, MERGED, one))
        if len(f.layers) > 1 and keep == "fastest":
            x = torch.randn(shape_of(f.source), generator=torch.Generator().manual_seed(0))
            if not is_faster(one, alone(traced, f.source, f.nodes), x, row):
                row["verdict"] = f"{APART}no faster as one"
                continue
        return replace(traced, f.nodes, f.source, f.name, one)
    return None


def _row(traced, f: Piece, verdict: str, one=None) -> dict:
    layers = [str(node.target) for node in f.layers]
    macs = sum(macs_of(traced, node) for node in f.layers)
    row = {"first": layers[0], "second": f.name, "layers": layers, "two_macs": macs}
    row["one_macs"] = macs_of(traced, f.nodes[-1], one) if one else macs
    return row | {"verdict": verdict}


def is_faster(one: nn.Module, two: nn.Module, x: Tensor, row: dict | None = None) -> bool:
    """Whether ``one`` beats ``two`` on ``x`` beyond the noise: in three of four rounds of a race.
    The medians go into ``row``."""
    one, two, x = (fast_layout(thing) for thing in (one, two, x.to(next(one.parameters()))))
    with torch.inference_mode():
        times = race([lambda: two(x), lambda: one(x)], device=x.device)
    if row is not None:
        row["two_ms"], row["one_ms"] = (numbers.median(t) for t in times)
    rounds = [a / b for a, b in zip(*times, strict=True)]
    return numbers.quantiles(rounds, n=4)[0] > 1


def explain(
    model: nn.Module, data, remove=(), rule: str = "on_off_affine", padding: str = "as_trained"
) -> pd.DataFrame:
    """What taking activations out would do to each layer: :func:`table` of ``model`` against
    ``linearize(model, remove, data, rule, padding)`` once everything is merged that can be one
    (``keep="all"``); without ``remove``, against ``model`` merged as it is. ``data``: a tensor,
    DataLoader or Data. Nothing is changed. Errors as in both."""
    linear = linearize(model, remove, data, rule, padding) if remove else trace(model, example=data)
    return table(model, linear, merge(linear.eval(), data, "all"), data)


class _Double(fx.Interpreter):
    """Runs a graph in float64, one module at a time, so that memory stays small. ``noise``: every
    weight is off by so much of itself, at random, as if it had been rounded once."""

    def __init__(self, traced: fx.GraphModule, noise: float = 0.0):
        super().__init__(traced)
        self.noise, self.dice = noise, torch.Generator().manual_seed(0)

    def run_node(self, node):
        numbers = lambda v: isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())
        wide = lambda v: v.to(torch.promote_types(v.dtype, torch.float64)) if numbers(v) else v
        return tree_map(wide, super().run_node(node))  # whatever the forward casts to

    def call_module(self, target, args, kwargs):
        module = copy.deepcopy(self.fetch_attr(target)).double()
        for tensor in (*module.parameters(), *module.buffers()) if self.noise else ():
            if tensor.is_floating_point():
                dice = torch.randn(tensor.shape, generator=self.dice, dtype=torch.float64)
                tensor.data *= 1 + self.noise * dice.to(tensor.device)
        return module(*args, **kwargs)


@torch.no_grad()
def check_equal(model: nn.Module, merged: fx.GraphModule, example) -> None:
    """RuntimeError if the two differ on the first images of the example, by more than rounding the
    weights may do in this network. Both run in float64, so that neither TF32 on a GPU nor the order
    of sums hides or feigns a difference. A warning if the model is random in eval mode."""
    x = example_of(example, model)[:2]  # once: a loader would draw others
    like = next(merged.parameters(), x)
    traced = trace(model, share=True, example=example)

    def run(network: fx.GraphModule, noise: float = 0.0, seed: int = 0) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            out = _Double(network, noise).run(x.to(like.device, torch.float64, copy=True))
        return torch.cat([t.flatten().double() for t in tensors_in(out)])

    def off(got: Tensor) -> float:
        same = (got == want) | got.isnan() & want.isnan()  # as an infinity equals itself
        apart = torch.where(same, 0, got - want)
        return (apart.norm() / want.nan_to_num(posinf=0, neginf=0).norm().clamp_min(1e-30)).item()

    want = run(traced)
    error = off(run(merged))
    limit = {torch.float64: 1e-10, torch.float32: 1e-5}.get(like.dtype, 1e-2)
    if error <= limit:
        return
    if off(run(traced, seed=1)) > limit:
        text = "the model itself is random in eval mode: whether merging kept it cannot be checked."
        warnings.warn(text, stacklevel=3)
        return
    limit = max(limit, 10 * off(run(traced, torch.finfo(like.dtype).eps)))
    if not error <= limit:
        what = f"the merged model differs from the original by {error:.1e} (limit {limit:.0e})"
        ours = "this is a mistake of ours; please report it with the model. Nothing was changed."
        raise RuntimeError(f"{what}: {ours}")
