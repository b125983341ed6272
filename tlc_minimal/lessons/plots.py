"""Every figure that more than one place draws, and how a figure is shown: always with alt text.

Colours are Okabe and Ito's, safe for colour-blind readers; markers and hatches say it again.
"""

import hashlib
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .. import gaussian as g
from ..gaussian import Gaussian

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = "osD^vPX*<>hdp8H1+"
ON, OFF = COLOURS[1], COLOURS[0]
# Their places give methods (by the beginning of their names) the same look in every picture.
METHODS = ("published", "at_once", "thrifty", "project", "from scratch, the same shape")
METHODS += ("from scratch, a narrower", "from scratch, the same shape, as long", "egp")
METHODS += ("layer_folding", "easier", "random", "one_by_one", "lacoot", "blocks")
METHODS += tuple(f"{METHODS[4]}, without a teacher{more}" for more in ("", ", for"))
METHODS += ("ours, projected, tuned",)
ALIASES = {"ours, all at once": "at_once", "ours, projected": "project"}
ALIASES |= {"ours, one by one": "one_by_one", "ours": "one_by_one", "all at once": "at_once"}
# Published for ResNet-18, width 64, CIFAR-10 (another copy of the data): activations removed, test
# accuracy in percent, share of MACs left in percent where one is printed. Sources: arXiv 2412.15077
# (TLC), 2404.18949 (EASIER), 2406.08933 (LaCoOT, whole blocks).
PUBLISHED = pd.DataFrame(
    [("TLC", 0, 92.5, None), ("TLC", 12, 91.36, None)]
    + [("EASIER", n, a, None) for n, a in ((0, 92.47), (8, 92.10), (9, 90.35), (10, 89.94))]
    + [("EASIER", 12, 84.52, None), ("EASIER", 16, 77.74, None)]
    + [("LaCoOT", None, 91.77, 100.0), ("LaCoOT", None, 90.99, 100 * 64.7 / 140.2)],
    columns=["method", "removed", "accuracy", "share"],
)
plt.rc("figure", figsize=(7, 3.6), dpi=90)
plt.rc("figure.constrained_layout", use=True)
plt.rc("axes", grid=True, prop_cycle=plt.cycler(color=COLOURS))
plt.rc("axes.spines", top=False, right=False)
plt.rc("grid", alpha=0.25)


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook as one PNG with alternative text, and close it.

    ``alt`` says what the picture shows and what to see in it; ValueError if it is empty.
    """
    if not alt.strip():
        raise ValueError("a figure needs alt text: say in a sentence what there is to see.")
    from IPython import display  # a bare GPU host has no IPython

    display.display(display.Image(data=png(figure), format="png", alt=" ".join(alt.split())))


def histograms(values: torch.Tensor, gaussian: Gaussian, channels: list[int]) -> Figure:
    """Histograms of some channels of a pre-activation, (N, C, ...), against their Gaussians."""
    figure, axes = plt.subplots(1, len(channels), figsize=(2.4 * len(channels), 2.6), squeeze=False)
    rows = values.movedim(1, 0).flatten(1)
    for ax, c in zip(axes[0], channels, strict=True):
        mean, std = float(gaussian.mean[c]), max(float(gaussian.std[c]), 1e-6)
        z = np.linspace(mean - 4 * std, mean + 4 * std, 200)
        colour = ON if mean > 0 else OFF
        ax.hist(rows[c], bins=60, range=(z[0], z[-1]), density=True, color=colour, alpha=0.4)
        ax.plot(z, np.exp(-(((z - mean) / std) ** 2) / 2) / std / np.sqrt(2 * np.pi), color=colour)
        ax.axvline(0, color="black", linewidth=0.8, linestyle=":")
        ax.set(title=f"channel {c}: {'ON' if mean > 0 else 'OFF'}", yticks=[], xlabel="z")
    return figure


def costs(limit: float = 4.0) -> Figure:
    """The four costs of replacing relu(z) against r = mean / std, in units of std²."""
    r = torch.linspace(-limit, limit, 400, dtype=torch.float64)
    one = torch.ones_like(r)
    figure, ax = plt.subplots()
    ax.plot(r, g.cost_off(r, one), "-", label="OFF: z → 0", linewidth=2)
    ax.plot(r, g.cost_on(r, one), "--", label="ON: z → z", linewidth=2)
    ax.plot(r, g.cost_constant(r, one), "-.", label="OFF, keeping its mean", linewidth=2)
    ax.plot(r, g.cost_affine(r, one), ":", label="best line", linewidth=2)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlabel="r = mean / std of the pre-activation", ylabel="expected squared error / std²")
    ax.set_ylim(0, 1.2)
    ax.legend(frameon=False)
    return figure


def layers(stats: dict[str, Gaussian]) -> Figure:
    """One bar a layer: its share of OFF channels, with the layer's entropy in bits as dots."""
    off = [float((~s.on).float().mean()) for s in stats.values()]
    figure, ax = plt.subplots(figsize=(max(5, 0.5 * len(stats)), 3.4))
    ax.bar(range(len(off)), off, color=OFF, alpha=0.5, hatch="//", label="share of OFF channels")
    entropy = [float(s.entropy) for s in stats.values()]
    ax.plot(range(len(off)), entropy, "D", color=ON, label="entropy, bits")
    ax.set_xticks(range(len(off)), list(stats), rotation=60, ha="right", fontsize=8)
    ax.set_ylim(0, 1.05)
    ax.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.17))
    return figure


def curves(table: pd.DataFrame, x: str = "removed", y: str = "test") -> Figure:
    """One line a method of a table of runs: ``y`` against ``x``; mean and range over the seeds.
    The first has larger, hollow markers: it is seen even where another lies on it."""
    figure, ax = plt.subplots()
    groups = list(table.groupby("method", sort=False))
    for i, (label, runs) in enumerate(groups):
        grouped, style = runs.groupby("removed"), look(label, i)
        style |= {} if ax.lines else {"ms": 9, "mfc": "none"}
        aside = 0.06 * (i - (len(groups) - 1) / 2) if x == "removed" else 0  # no bar hides another
        mean_and_range(ax, grouped[x].mean() + aside, grouped[y], label=label, **style)
    names = {"removed": "activations removed", "test": "test accuracy, %", "val": "validation, %"}
    ax.set(xlabel=names.get(x, x), ylabel=names.get(y, y))
    if x == "removed":
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return figure


def against(table: pd.DataFrame, x: str, label: str, title: str = "") -> Figure:
    """:func:`curves` of many methods against the price ``x``, named in the order in which they end;
    those far below the others do not eat the axis, but are named there, too."""
    figure = curves(table, x)
    ax, worst = figure.axes[0], table.groupby("method")["test"].min().sort_values()
    ax.set(xlabel=label, title=title)
    ends = table[table["removed"] == table.groupby("method")["removed"].transform("max")]
    ends, lines = ends.groupby("method")["test"].mean(), zip(*ax.get_legend_handles_labels())
    lines = sorted(lines, key=lambda line: -ends[line[1]])
    ax.legend(*zip(*lines), frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    low = worst[worst < worst.median() - 10]
    if len(low):
        ax.set_ylim(worst.drop(low.index).iloc[0] - 2)
        text = "; ".join(f"{m}: down to {v:.0f} %" for m, v in low.items()) + ", below the axis"
        ax.text(0.02, 0.02, text, transform=ax.transAxes, fontsize=7)
    figure.set_size_inches(8.5, 3.6)
    return figure


def headline(table: pd.DataFrame, methods: list[str]) -> Figure:
    """Records of one width (from ``results``): test accuracy against activations removed, and
    against the share of MACs left when what is constant is cut; mean and range over the seeds,
    where all of a method's are; published points in grey."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4), sharey=True)
    cut = table["macs_cut"].fillna(table["macs"]) if "macs_cut" in table else table["macs"]
    table = table.assign(macs=cut)
    dense = table.loc[table["method"] == "dense", "macs"].mean()
    for i, method in enumerate(methods):
        style = look(method, i)
        runs = table[table["method"] == method]
        there = runs.groupby("removed")["seed"].transform("nunique")
        runs = runs[there == there.max()].groupby("removed")
        for ax, at in zip(axes, (list(runs.groups), 100 * runs["macs"].mean() / dense)):
            mean_and_range(ax, at, runs["test"], label=method, **style)
    for (method, points), marker in zip(PUBLISHED.groupby("method", sort=False), "*xP"):
        style = {"color": "grey", "marker": marker, "label": f"{method}: published, width 64"}
        axes[0].scatter(points["removed"], points["accuracy"], 50, **style)
        axes[1].scatter(points["share"], points["accuracy"], 50, **style)
    axes[0].set(xlabel="activations removed of 17", ylabel="test accuracy, %")
    axes[1].set(xlabel="MACs left, % of the dense network")
    axes[1].invert_xaxis()
    axes[0].legend(frameon=False, fontsize=7, loc="lower left")
    return figure


def look(label: str, place: int = 0) -> dict[str, str]:
    """Colour and marker of a method, the same everywhere; of any other label that of its place."""
    label = ALIASES.get(label, label)
    if label in ("dense", "tuned on"):
        return {"color": COLOURS[-1], "marker": "os"[label != "dense"]}
    known = [name for name in METHODS if str(label).startswith(name)]
    place = METHODS.index(max(known, key=len)) if known else place
    lap = ("-", "--", ":")[place // 6 % 3]  # more methods than colours
    return {"color": COLOURS[place % 6], "marker": MARKERS[place % len(MARKERS)], "linestyle": lap}


def mean_and_range(ax, at, values, **style) -> None:
    """One line: the means of grouped ``values``, their lowest and highest as error bars."""
    mean = values.mean()
    reach = [(mean - values.min()).clip(lower=0), (values.max() - mean).clip(lower=0)]
    ax.errorbar(at, mean, reach, **{"ms": 4, "capsize": 2} | style)


def before_and_after(table: pd.DataFrame) -> Figure:
    """Two rows of ``compare`` as bars: what is left of the first in the last, in percent."""
    columns = [c for c in table if c.startswith("ms_") and not c.endswith("spread")]
    columns = ["accuracy", "activations", "layers", "macs", "params", *columns]
    left = 100 * table[columns].iloc[-1] / table[columns].iloc[0]
    figure, ax = plt.subplots()
    bars = ax.barh(columns[::-1], left[::-1], color=COLOURS[0], alpha=0.6, hatch="//")
    ax.bar_label(bars, fmt="%.0f %%", padding=3)
    ax.axvline(100, color="black", linewidth=0.8, linestyle=":")
    ax.set(xlabel=f"{table.index[-1]}, in percent of {table.index[0]}")
    return figure


def readme_pictures(table: pd.DataFrame, folder: Path) -> dict[Path, str]:
    """Draw the pictures of README and data/results from all records into ``folder``; {path: digest
    of the rows that were drawn}, which the file holds, too (a test compares)."""
    from ..experiments.sized import FIRST, priced  # this file is there without any records, too
    from ..experiments.tables import MISSES, study_of
    from .drawings import trade

    drawn, study = {}, table.get("study", pd.Series("", table.index))
    compared = (study == "fair") & (table.get("set", study) == "methods")
    rivals = table.loc[compared & (table["method"] != "dense"), "method"].unique()  # runs have it
    ours = ["ours, all at once", "thrifty, all at once", "ours, projected", "published", "tuned on"]
    for name, methods in (("headline", ours), ("fair", sorted(rivals)), ("trade", None)):
        rows = study_of(table, name) if methods else priced(table)
        rows = rows[rows["method"].isin([*methods, "dense"])] if methods else rows
        if rows.empty:
            continue
        # One picture is one data set and, but for the trade, one width: those with most to show.
        if methods:
            rows = rows[rows["width"] == rows.loc[rows["method"] != "dense", "width"].max()]
        rows = rows[rows["data"] == rows["data"].mode()[0]]
        if name == "headline":
            figure = headline(rows, [m for m in methods if m in set(rows["method"])])
        else:
            named = rows[rows["method"] != "dense"].replace({"method": MISSES})
            label = "activations removed"
            figure = against(named, "removed", label) if methods else trade(rows, FIRST)
        path, digest = folder / f"{name}.png", _digest(rows[["method", "removed", "test", "macs"]])
        drawn[path] = digest
        info = PngInfo()
        info.add_text("records", digest)
        Image.open(io.BytesIO(png(figure))).save(path, pnginfo=info, optimize=True)
    return drawn


def _digest(rows: pd.DataFrame) -> str:
    return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()


def png(figure: Figure) -> bytes:
    """The figure as a PNG of 128 colours: a third of the size, and nobody sees it."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(128).save(small, "png", optimize=True)
    return small.getvalue()
