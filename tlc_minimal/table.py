"""Before and after: what became of each layer of a network, and why it stays apart."""

import math

import pandas as pd
from torch import fx, nn

from .graph import find_shapes, trace
from .nodes import is_sum, module_of, only_user
from .piece import extract, grow, obstacle
from .reading.axes import shape_of
from .reading.layers import CONV

MERGED, APART = "merged into one", "left in two: "


def table(model: nn.Module, linear: nn.Module, merged: nn.Module, example) -> pd.DataFrame:
    """One row a layer of ``model``: its MACs per image; those of the layer of that name when it was
    made ``linear`` and that was ``merged`` (by ``merge``), 0 where it is gone; and a sentence: what
    was cut, what it was merged into, or why it stays apart from what is in front of it."""
    dense, cut, left = graphs = [trace(m, True, example).eval() for m in (model, linear, merged)]
    for graph in graphs:
        find_shapes(graph, example)
    kept, remain, rows = layers_of(cut), layers_of(left), {}
    merges = [row for row in merged.meta["merges"] if row["verdict"] == MERGED]
    into = {n: row["second"] for row in merges for n in row["layers"] if n != row["second"]}
    for name, node in layers_of(dense).items():
        row = {"MACs": macs_of(dense, node), "MACs merged": 0}
        if name in kept:
            was, now = (len(module_of(m, n).weight) for m, n in ((dense, node), (cut, kept[name])))
            what = [f"{was} → {now} channels"] * (was != now)
        if name in remain:
            row["MACs merged"] = macs_of(left, remain[name])
            what += why_apart(left, remain[name])
        elif name in kept:
            heir = into[name]
            while heir not in remain:
                heir = into[heir]
            what.append(f"merged into {heir}")
        else:
            what = ["gone: its branch is a constant"]
        rows[name] = row | {"what": "; ".join(dict.fromkeys(what))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")


def layers_of(traced: fx.GraphModule) -> dict[str, fx.Node]:
    """{name: node} of the convolutions and linear layers."""
    return {n.target: n for n in traced.graph.nodes if isinstance(module_of(traced, n), CONV)}


def macs_of(traced: fx.GraphModule, node: fx.Node, layer: nn.Module | None = None) -> int:
    """Multiply-accumulates per image of a layer in all its calls, or of another in its place."""
    images = shape_of(next(iter(traced.graph.nodes)))[0]
    taps = (layer or module_of(traced, node)).weight[0].numel()
    same = traced.graph.find_nodes(op="call_module", target=node.target)
    return taps * sum(math.prod(shape_of(n)) for n in same or [node]) // images


def why_apart(traced: fx.GraphModule, node: fx.Node) -> list[str]:
    """Why a layer is not one with the linear map in front of it, or with the layer that its output
    is added to; [] if there is none."""
    found, why = grow(traced, node)
    if found:
        why = obstacle(extract(traced, found[0][0], found[0][1:]))
    total = only_user(node)
    return [w for w in (why, grow(traced, total)[1] if is_sum(total) else "") if w]


def describe(row: dict) -> str:
    """One line for a person about one row of ``.meta["merges"]``."""
    clock = f", {row['two_ms']:.3f} ms against {row['one_ms']:.3f} ms" if "two_ms" in row else ""
    cost = f"{row['two_macs'] / 1e6:.2f} M → {row['one_macs'] / 1e6:.2f} M MACs"
    return f"{row['first']} + {row['second']}: {row['verdict']} ({cost}{clock})"
