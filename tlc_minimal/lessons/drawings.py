"""A network as what an image meets in it, a bar a layer; and what networks of a size are worth."""

import math
import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import nn

from ..graph import example_of, find_shapes, trace
from ..nodes import ACTIVATION, CONV, module_of
from .plots import COLOURS, look, mean_and_range

LARGE = {"ms": 6, "linewidth": 1, "elinewidth": 1.5, "alpha": 0.9}


def towers(models: dict[str, nn.Module], example) -> Figure:
    """The networks side by side, input on top: a bar a convolution or linear layer, its length the
    MACs for one image, hatched where it lies beside the longest path; a line under what an
    activation follows. ``example``: an input batch, or anything that has or yields one."""
    figure, axes = plt.subplots(
        1, len(models), sharex=True, sharey=True, figsize=(2.9 * len(models), 4.6), squeeze=False
    )
    for ax, (label, model) in zip(axes[0], models.items()):
        bars = layers(model, example)
        for y, (_, macs, beside, active) in enumerate(bars):
            hatch = "////" if beside else ""
            ax.barh(y, macs / 1e6, color=COLOURS[beside], alpha=0.6, height=0.7, hatch=hatch)
            ax.vlines(0, y - 0.35, y + 0.35, color=COLOURS[beside], linewidth=2)  # however short
            if active:
                ax.plot([0, macs / 1e6], [y + 0.46] * 2, color="black", linewidth=1.6)
        deep = sum(not beside for _, _, beside, _ in bars)
        ax.set(title=f"{label}: {deep} layers", xlabel="million MACs", yticks=[])
        ax.grid(False)
        ax.spines["left"].set_visible(False)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_ylabel("from the input down")
    signs = [Patch(color=COLOURS[0], alpha=0.6, label="a layer on the longest path")]
    signs += [Patch(facecolor=COLOURS[1], alpha=0.6, hatch="////", label="beside it")]
    signs += [plt.Line2D([], [], color="black", linewidth=1.6, label="an activation follows")]
    about = dict(loc="outside lower center", ncols=3 if len(models) > 1 else 1, fontsize=8)
    figure.legend(handles=signs, frameon=False, **about)
    return figure


def trade(rows: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Test accuracy, mean and range over the seeds, against four prices, cheap to the right: MACs,
    activations, ReLU units and, where there was a race, the speed; a line joins the sizes of a
    method; ``rows``: of one data set, from :func:`tlc_minimal.experiments.sized.priced`; a row of
    pictures a width, the largest first."""
    prices = {"cut": (1e6, "million MACs"), "activations": (1, "activations")}
    prices |= {"relu_units": (1e3, "thousand ReLU units"), "speed": (1, "times as fast as dense")}
    prices = {name: price for name, price in prices.items() if rows[name].notna().any()}
    widths = sorted(rows["width"].unique(), reverse=True)
    size = (2.4 * len(prices), 1.1 + 2.2 * len(widths))
    figure, axes = plt.subplots(len(widths), len(prices), sharey="row", figsize=size, squeeze=False)
    styles = {}
    for method in methods:
        deep = sorted(set(rows.loc[rows["method"] == method, "layers"].astype(int)))
        if not deep:
            continue
        deep = f"{deep[0]} layers" if len(deep) == 1 else f"{deep[0]} to {deep[-1]} layers"
        styles[method] = look(method) | {"label": f"{method}: {deep}"}
    for line, width in zip(axes, widths):
        for ax, (price, (unit, label)) in zip(line, prices.items()):
            for method, style in styles.items():
                runs = rows[(rows["method"] == method) & (rows["width"] == width)]
                runs = runs[runs[price].notna()].groupby("share")
                mean_and_range(ax, runs[price].mean() / unit, runs["test"], **style | LARGE)
            if price == "speed":  # each width's own machine
                device = rows.loc[rows["width"] == width, "device"].iloc[0]
                label += f" ({re.split('[ ,]', device.removeprefix('NVIDIA '))[0]})"
            ax.set(xlabel=label if width == widths[-1] or price == "speed" else None)
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=unit == 1 and price != "speed"))
            if price != "speed":
                ax.invert_xaxis()
        line[0].set(ylabel=f"width {width:.0f}: test, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def layers(model: nn.Module, example) -> list[tuple[str, int, bool, bool]]:
    """(name, MACs, beside the longest path?, an activation behind it?) of every layer in order."""
    traced = trace(model).eval()
    shapes = find_shapes(traced, example_of(example)[:1])
    nodes, deep, last = list(traced.graph.nodes), {}, {}
    for node in nodes:  # how many layers there are up to a node, and which one was the last
        best = max(node.all_input_nodes, key=lambda n: deep[n], default=None)
        is_layer = isinstance(module_of(traced, node), CONV)
        deep[node] = (deep[best] if best else 0) + is_layer
        last[node] = (node, last.get(best)) if is_layer else last.get(best)
    path, chain = set(), last[nodes[-1]]
    while chain:
        path.add(chain[0])
        chain = chain[1]
    found = []
    for node in nodes:
        layer = module_of(traced, node)
        if isinstance(layer, CONV):
            macs = layer.weight[0].numel() * math.prod(shapes[node])
            found.append((node.target, macs, node not in path, _activated(traced, node)))
    return found


def _activated(traced, node) -> bool:
    """Whether an activation comes before the next layer."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if isinstance(module_of(traced, node), ACTIVATION):
            return True
        if isinstance(module_of(traced, node), CONV):
            return False
    return False
