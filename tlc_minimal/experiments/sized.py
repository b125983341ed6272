"""The tables of projections, beside networks of their size and before any tuning."""

import math
import re
from functools import cache

import pandas as pd
import torch

from ..graph import find_shapes, trace
from ..models import resnet18
from ..nodes import activation_nodes
from .controls import CONTROLS, NARROW
from .headline import LONGER, UNTAUGHT
from .ladder import STARTS
from .tables import against, parents, spread, study_of, total_epochs

DENSE = ("dense", "tuned on")  # one network, and one pace
ONCE = ("published", "ours, all at once", "thrifty, all at once")  # twelve of 17
PROJECTED = ("ours, projected", LONGER, UNTAUGHT)  # one surgery, tuned in three ways
FIRST = (*DENSE, *ONCE, "ours, projected", CONTROLS["scratch"], NARROW)  # a picture holds so many
SMALL = (*DENSE, *ONCE, *PROJECTED, *CONTROLS.values())


def projected(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Layers that go, beside the controls of their size: a row a share of the MACs and method, mean
    over the seeds (and range); ``table`` as in :func:`headline`."""
    table, rows = study_of(table, "headline"), []
    for (data, width, _, _, method), at in sized(table).groupby(
        ["data", "width", "share", "order", "method"]
    ):
        epochs = [total_epochs(table, row) for row in at.to_dict("records")]
        one_surgery = method in (*ONCE[1:], *PROJECTED)
        before = at["val_before"] if one_surgery else pd.Series(dtype=float)
        same = table[(table["data"] == data) & (table["width"] == width)]
        rows.append(
            {
                "data": data,
                "network": f"width {width:.0f}",
                "method": method,
                "seeds": len(at),
                "million MACs": spread(at["cut"] / 1e6),
                "layers": spread(at["layers"], 0),
                "activations": spread(at["activations"], 0),
                "validation before tuning, %": spread(before) if before.notna().any() else "",
                "test accuracy, %": spread(at["test"]),
                "against dense": against(at, parents(same, at)),
                "against tuned on": against(at, same[same["method"] == "tuned on"]),
                "epochs": f"{sum(epochs) / len(epochs):g}",
            }
        )
    return pd.DataFrame(rows)


def widest(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """What the first page shows of :func:`projected`: the largest width, the columns that count."""
    shown = projected(table)
    if shown.empty:
        return shown
    width = shown["network"].str.removeprefix("width ").astype(int)
    most = shown[width == width.max()]
    return most.drop(columns=["validation before tuning, %", "epochs"])


def sized(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The records that :func:`projected` shows, where projections were recorded: rows of
    ``results`` with ``cut``, the MACs when what has become constant is cut out, ``share``, that of
    the MACs that was asked for (negative, so that it sorts), and ``order``, the method's place."""
    table = study_of(table, "headline")
    twelve = (table["removed"] == 12) & table["method"].isin(ONCE)
    asked = table["share"].notna() & (table["removed"] > 0) & table["method"].isin(SMALL)
    there = table.loc[asked, ["data", "width"]].drop_duplicates()
    rows = table[asked | twelve | table["method"].isin(DENSE)].merge(there, on=["data", "width"])
    return rows.assign(share=-rows["share"].fillna(1.0), order=rows["method"].map(SMALL.index))


def priced(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows of :func:`sized` with two more prices: ``relu_units``, and ``speed``, how many times
    as fast as the dense network, NaN where there was no race."""
    table = study_of(table, "headline")
    rows = sized(table)
    units = [_units(table, row) for row in rows.to_dict("records")]
    return rows.assign(relu_units=units, speed=[_speed(table, r) for r in rows.to_dict("records")])


def _units(table: pd.DataFrame, row: dict) -> float:
    """The rectified units of a row of the paper's ResNet-18; counted from what was removed if the
    record is older than the column."""
    if row.get("relu_units", math.nan) > 0:
        return row["relu_units"]
    run = table[(table["what"] == row["what"]) & (table["removed"] <= row["removed"])]
    units, gone = _units_by_layer(int(row["width"])), ", ".join(run["layer"].dropna())
    if row["removed"] and not gone:  # a network from scratch: its layers are not those that went
        return math.nan
    return sum(units.values()) - sum(units[name] for name in gone.split(", ") if name)


@cache
def _units_by_layer(width: int) -> dict[str, int]:
    traced = trace(resnet18(width=width))
    shapes = find_shapes(traced, torch.zeros(1, 3, 32, 32))
    return {name: math.prod(shapes[n]) for name, n in activation_nodes(traced).items()}


def _speed(table: pd.DataFrame, row: dict) -> float:
    """How many times as fast as the dense network at batch 1, in the race of seed 0 that a row's
    network was in (on a GPU as CUDA graphs): milliseconds of two races are no comparison."""
    stem = row["what"].removesuffix(f"_seed{row['seed']}")
    races = table[(table["method"] == "milliseconds") & (table["batch"] == 1)]
    races = races[races["width"] == row["width"]]
    cpu = races["device"].str.startswith("CPU")  # no mean of a CPU's and a GPU's
    races = races[cpu == row["device"].startswith("CPU")]
    # As CUDA graphs, or Python, which launches kernel after kernel, would be clocked.
    races = races.assign(speedup=races["speedup_graph"].fillna(races["speedup"]))
    # One that was sized by a projection is in its race.
    stem = re.sub(f"_({'|'.join(['longer', 'untaught', *CONTROLS])})_", "_project_", stem)
    same_shape = row["method"].startswith(CONTROLS["scratch"]) or row["method"] in PROJECTED
    name = "ours, projected" if same_shape else row["method"]
    name = "dense" if name in DENSE else name
    raced = races[races["network"] == name]
    if name != "dense":
        stem = re.sub(r"^(headline_w\d+(_cpu)?)_", r"\1_clock_", stem)
        raced = raced[raced["what"].isin([f"{stem}_seed0", f"{stem}_gpu_seed0"])]
    return raced["speedup"].mean()


def untuned(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """What is left before any tuning, by every rule and by projections of all kinds: a row each,
    mean over the seeds (and range); ``table`` as in :func:`headline`."""
    table, rows = study_of(table, "headline"), []
    table = table[table["method"] == "untuned"]
    options = [name for name in ("images", "ridge", "kernel", "augmented") if name in table]
    for (data, width, rule, *values), at in table.groupby(
        ["data", "width", "rule", *options], sort=False, dropna=False
    ):
        chosen = [f"{n} {v:g}" for n, v in zip(options, values) if n != "augmented" and v == v]
        chosen += ["augmented images"] * (dict(zip(options, values)).get("augmented") is True)
        rows.append(
            {
                "data": data,
                "network": f"width {width:.0f}",
                "rule": ", ".join([rule, *chosen]),
                "seeds": len(at),
                "removed of 17": spread(at["removed"], 0),
                "million MACs": f"{at['macs'].mean() / 1e6:.2f}",
                "relative error": spread(at["error"]) if at["error"].notna().any() else "",
                "validation before tuning, %": spread(at["val"]),
            }
        )
    return pd.DataFrame(rows)


def predicts(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """How well what is known right after the surgery ranks the tuned networks: Spearman's
    correlation with the validation accuracy after tuning over random sets, a row a way of removing,
    mean over the seeds (and range); ``table`` as in :func:`headline`."""
    table, rows = study_of(table, "predicts"), []
    for (data, width, rule), runs in table.groupby(["data", "width", "rule"], sort=False):
        per_seed = []
        for _, sets in runs.groupby("seed"):
            known = sets.assign(loss=-sets["val_loss"])[["loss", "val_before", "macs", "val"]]
            per_seed.append(known.rank().corr()["val"])  # Spearman's: Pearson's of the ranks
        found = pd.DataFrame(per_seed)
        rows.append(
            {
                "data": data,
                "network": f"width {width:.0f}",
                "rule": rule,
                "seeds": len(found),
                "sets a seed": f"{len(runs) / len(found):g}",
                "removed of 17": spread(runs["removed"], 0),
                "loss before tuning": spread(found["loss"]),
                "accuracy before tuning": spread(found["val_before"]),
                "MACs": spread(found["macs"]),
                "validation after tuning, %": spread(runs["val"]),
            }
        )
    return pd.DataFrame(rows)


def ladder(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Test accuracy before tuning, and after so many epochs of it, a row a way of removing the same
    activations, mean over the seeds (and range); ``table`` as in :func:`headline`."""
    table, rows = study_of(table, "ladder"), []
    order = table["method"].map(STARTS.index)
    table = table.assign(place=order).sort_values("place", kind="stable")
    for (data, width, start), runs in table.groupby(["data", "width", "method"], sort=False):
        row = {"data": data, "network": f"width {width:.0f}", "start": start}
        row |= {"seeds": runs["seed"].nunique(), "layers": spread(runs["layers"], 0)}
        row["million MACs"] = f"{runs['macs'].mean() / 1e6:.2f}"
        for (taught, epochs), at in runs.groupby(["taught", "epochs"], sort=False):
            what = f"{epochs:g} epochs" + ", no teacher" * (not taught)
            row[f"test accuracy, % ({what})"] = spread(at["test"])
        rows.append(row)
    return pd.DataFrame(rows)


def recipes(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Validation and test accuracy by the usual recipe and by the other one, a row a width and
    method, mean over the seeds that have both (and range); ``table`` as in :func:`headline`."""
    return _beside_usual(table, "recipes", "usual", "this one")


def few(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The same on all images and on few of them."""
    return _beside_usual(table, "few", "all images", "a ninth of them")


def stronger(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The same from the usual dense network and from a stronger one, and these themselves."""
    return _beside_usual(table, "stronger", "usual", "stronger start")


def _beside_usual(table, study: str, this: str, that: str) -> pd.DataFrame:
    usual, other = study_of(table, "headline"), study_of(table, study)
    other = other.sort_values("method", key=lambda m: m.map(SMALL.index), kind="stable")
    last, rows = lambda runs: runs.groupby("what").tail(1), []
    usual = last(usual)[["width", "share", "method", "seed", "val", "test"]]
    both = last(other).merge(usual, on=list(usual)[:4], suffixes=("", " usual"))
    for (data, width, method), at in both.groupby(["data", "width", "method"], sort=False):
        row = {"data": data, "network": f"width {width:.0f}", "method": method}
        row |= {"seeds": len(at), "million MACs": spread(at["cut"] / 1e6)}
        for column, name in (("val", "validation"), ("test", "test accuracy")):
            row[f"{name}, % ({this})"] = spread(at[f"{column} usual"])
            row[f"{name}, % ({that})"] = spread(at[column])
            row[f"{name}, difference"] = f"{(at[column] - at[f'{column} usual']).mean():+.2f}"
        rows.append(row)
    return pd.DataFrame(rows)


def rates(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Validation accuracy after tuning at several learning rates, a row a method, mean over the
    seeds (and range); *kept*: its rate in all other records; ``table`` as in :func:`headline`."""
    usual, table, rows = study_of(table, "headline"), study_of(table, "rates"), []
    for (data, width, method), runs in table.groupby(["data", "width", "method"], sort=False):
        row = {"data": data, "network": f"width {width:.0f}", "method": method}
        kept = usual.loc[(usual["width"] == width) & (usual["method"] == method), "lr"].unique()
        row |= {"seeds": runs["seed"].nunique(), "kept": ", ".join(f"{lr:g}" for lr in kept)}
        for rate, at in runs.groupby("rate"):
            row[f"validation, % (rate {rate:g})"] = spread(at["val"])
        rows.append(row)
    return pd.DataFrame(rows)
