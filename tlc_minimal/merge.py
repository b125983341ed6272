"""Fuses what has become linear, checks equality, keeps a merge only where the clock agrees.

Batch norms and affine maps fold into the convolutions around them: that always pays. A pair of
convolutions becomes one, together with the shortcut around it; whether *that* pays depends on the
machine (two 3x3 cost 18 C², one 5x5 costs 25 C²), so ``keep="fastest"`` times both.
"""

import copy

import pandas as pd
import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from .fold import fold, fold_sums
from .fuse import APART, MERGED, is_faster, macs_at, merge_pairs
from .graph import example_of, find_shapes, trace
from .nodes import NORM, finish, module_of
from .segments import convolutions, segments, why_apart, why_no_sum


def merge(
    model: nn.Module, example, keep: str = "fastest", verbose: bool = False
) -> fx.GraphModule:
    """A copy of ``model`` with the same outputs and fewer layers.

    ``example``: an input batch (tensor, DataLoader or Data); its shape is the one that is timed.
    ``keep="all"`` merges every pair that can be one: exactly one convolution where the second one
    does not pad, else one inside and the pair on the border (:class:`modules.Bordered`).
    ``"fastest"`` merges only where one is faster than two on this device, alone and in the whole
    network. ``verbose`` prints the plan before anything is merged, and every verdict. The result is
    checked on the example: both run in float64, RuntimeError if they differ by more than 1e-10
    (1e-5 for weights in float32). ``.meta["merges"]`` has a row for each pair that was tried.
    ValueError in training mode (a batch norm on batch statistics is not a linear map), and for what
    :func:`refuse.check_plain` refuses.
    """
    check_keep(keep)
    layers = [(n, m) for n, m in model.named_modules() if not n or not any(m.children())]
    training = [name for name, module in layers if module.training]
    if training:
        where = training[0] or "the model"
        raise ValueError(
            f"merging needs fixed batch-norm statistics, and {where} is in training mode: call "
            "model.eval() first."
        )
    known = {}  # what the plan composes is not composed again
    if verbose:
        print(plan(model, example, known=known).to_string(), "\n")
    traced, rows, _ = merge_pairs(model, example, keep, known)
    fold_sums(traced)
    finish(traced)
    merged = [row for row in rows if row["verdict"] == MERGED]
    if keep == "fastest" and merged:
        folded = fold(model)
        if not is_faster(traced, folded, example_of(example)):
            traced = folded  # each pair won alone, but together they do not
            for row in merged:
                row["verdict"] = f"{APART}no gain in the whole network"
    _check_equal(model, traced, example)
    traced.meta["merges"] = rows
    if verbose:
        print("\n".join(describe(row) for row in rows) or "nothing to merge")
    return traced


def check_keep(keep: str) -> None:
    """ValueError if ``keep`` is nothing that :func:`merge` knows."""
    if keep not in ("fastest", "all"):
        raise ValueError(f"keep is 'fastest' or 'all', not {keep!r}.")


def plan(
    model: nn.Module, example, whole: nn.Module | None = None, known: dict | None = None
) -> pd.DataFrame:
    """What ``merge(model, example, keep="all")`` would do: one row a linear segment, nothing timed.

    Columns: segment (its first and last convolution), layers and MACs per image now and merged,
    norms (that fold), cut (channels that are gone), why (what is left apart, and the reason).
    ``whole``: the network before anything was cut, if what was cut is to be told as well.
    ``known``: as for :func:`fuse.merge_pairs`.
    """
    before, linear = (trace(m, share=True).eval() for m in (whole or model, model))
    shapes = find_shapes(before, example)
    traced, tried, merged_shapes = merge_pairs(linear, example, "all", known)
    left = {str(n.target): n for n in convolutions(traced, traced.graph.nodes)}
    kept = {str(n.target): n for n in convolutions(linear, linear.graph.nodes)}
    rows = []
    for nodes in segments(before):
        were = convolutions(before, nodes)
        names = [str(node.target) for node in were]
        remain = [left[name] for name in names if name in left]
        why = [r["verdict"].removeprefix(APART) for r in tried if r["second"] in names]
        why += [f(traced, node) for node in remain for f in (why_apart, why_no_sum)]
        cut = [_cut(before, node, linear, kept) for node in were]
        row = {"segment": " … ".join(dict.fromkeys((names[0], names[-1])))}
        row |= {"layers": len(were), "layers merged": len(remain)}
        row["norms"] = sum(isinstance(module_of(before, node), NORM) for node in nodes)
        row["MACs"] = sum(macs_at(before, node, shapes) for node in were)
        row["MACs merged"] = sum(macs_at(traced, node, merged_shapes) for node in remain)
        row["cut"] = "; ".join(filter(None, cut))
        row["why"] = "; ".join(dict.fromkeys(text for text in why if text not in ("", MERGED)))
        rows.append(row)
    return pd.DataFrame(rows).set_index("segment") if rows else pd.DataFrame()


def _cut(before: fx.GraphModule, node: fx.Node, linear: fx.GraphModule, kept: dict) -> str:
    if node.target not in kept:
        return f"{node.target} gone: its branch is a constant"
    was, now = (
        len(module_of(m, n).weight) for m, n in ((before, node), (linear, kept[node.target]))
    )
    return f"{node.target} {was} → {now}" if was != now else ""


def describe(row: dict) -> str:
    """One line for a person about one pair of ``.meta["merges"]``."""
    clock = f", {row['two_ms']:.3f} ms against {row['one_ms']:.3f} ms" if "two_ms" in row else ""
    cost = f"{row['two_macs'] / 1e6:.2f} M → {row['one_macs'] / 1e6:.2f} M MACs"
    return f"{row['first']} + {row['second']}: {row['verdict']} ({cost}{clock})"


class _Double(fx.Interpreter):
    """Runs a graph in float64, one module at a time, so that memory stays small."""

    def call_module(self, target, args, kwargs):
        return copy.deepcopy(self.fetch_attr(target)).double()(*args, **kwargs)

    def get_attr(self, target, args, kwargs):
        value = super().get_attr(target, args, kwargs)
        return value.double() if value.is_floating_point() else value


def _check_equal(model: nn.Module, merged: fx.GraphModule, example) -> None:
    # In float64, so that neither TF32 on a GPU nor the order of sums hides or feigns a difference.
    like = next(merged.parameters(), example_of(example))
    x = example_of(example)[:2].to(like.device, torch.float64)
    with torch.no_grad():
        outputs = (_Double(m).run(x) for m in (trace(model, share=True), merged))
        want, got = (
            torch.cat([t.flatten() for t in tree_leaves(o) if isinstance(t, torch.Tensor)])
            for o in outputs
        )
    error = ((got - want).norm() / want.norm().clamp_min(1e-30)).item()
    limit = {torch.float64: 1e-10, torch.float32: 1e-5}.get(like.dtype, 1e-2)
    if not error <= limit:
        raise RuntimeError(
            f"the merged model differs from the original by {error:.1e} (limit {limit:.0e}): "
            "this is a mistake of ours; please report it with the model. Nothing was changed."
        )
