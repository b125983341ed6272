"""The tables of README and data/results, made from the records: a test holds them together."""

import pandas as pd

from ..results import COLUMNS, results
from .headline import AT_ONCE, BLOCKS

DEPTHS = (0, 8, 12, 14, 16)  # removals that the headline's table shows
CURVES = ("dense", "dense, in float32", "tuned on", "ours, all at once", "published")
CURVES += ("ours, projected per activation",)
CURVES += (*AT_ONCE, *BLOCKS.values(), "published, one by one")
CURVES += ("ours, one by one", "published, its epochs")
CURVES += ("dense, strong stem", "ours, one by one, strong stem")
FORMER = {  # what the records made before today's names call a method
    "ours": "ours, one by one",
    "dense, tuned on": "tuned on",
    "ours, strong stem": "ours, one by one, strong stem",
}
ASKED = [*COLUMNS, "study", "rule", "network", "set", "share", "batch", "macs_cut", "speedup"]
ASKED += ["speedup_graph", "way", "blocks", "of"]  # what older records or other studies lack
MISSES = {"egp": "egp, tuned once a removal"}  # a row says what its method leaves out


def headline(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """ResNet-18 on CIFAR-10: a row a data set, method and depth, mean over the seeds (and range);
    ``table``: from :func:`tlc_minimal.results`, default all. Epochs are all there were, the dense
    ones too; "cut" are the MACs when what has become constant is cut out exactly, and "against
    tuned on" is the difference to the control of the same data and seeds, where there is one."""
    table, rows = study_of(table, "headline"), []
    shown = table[table["removed"].isin(DEPTHS) & table["method"].isin(CURVES)]
    order = shown["method"].map(CURVES.index)
    shown = shown.loc[order.sort_values(kind="stable").index]
    shown = shown.sort_values("data", kind="stable")
    for (data, width, method), runs in shown.groupby(["data", "width", "method"], sort=False):
        same = table[(table["data"] == data) & (table["width"] == width)]
        strong = ", strong stem" if method.endswith("strong stem") else ""
        for removed, at in runs.groupby("removed"):
            if removed == 0 and not method.startswith("dense") and method != "tuned on":
                continue
            epochs = [total_epochs(table, row) for row in at.to_dict("records")]
            rows.append(
                {
                    "data": data,
                    "network": f"width {width:.0f}",
                    "method": method,
                    "removed of 17": f"{removed:.0f}",
                    "seeds": len(at),
                    "test accuracy, %": spread(at["test"]),
                    "against dense": against(at, parents(same, at, f"dense{strong}")),
                    "against tuned on": against(at, same[same["method"] == f"tuned on{strong}"]),
                    "layers": f"{at['layers'].mean():.0f}",
                    "million MACs": f"{at['macs'].mean() / 1e6:.2f}",
                    "cut": f"{at['cut'].mean() / 1e6:.2f}",
                    "epochs": f"{sum(epochs) / len(epochs):g}",
                }
            )
    return pd.DataFrame(rows)


def against(runs: pd.DataFrame, others: pd.DataFrame) -> str:
    """The mean difference in test accuracy, over the seeds that both have; "" without any."""
    both = runs.merge(others, on="seed")
    return f"{(both['test_x'] - both['test_y']).mean():+.2f}" if len(both) else ""


def parents(same: pd.DataFrame, runs: pd.DataFrame, name: str = "dense") -> pd.DataFrame:
    """The dense networks that runs began with: a collapse has its own in its record (trained again
    on another machine it is a slightly different one), others the recorded one of their seed."""
    own = same[(same["removed"] == 0) & same["what"].isin(runs.loc[runs["removed"] > 0, "what"])]
    recorded = same[(same["method"] == name) & ~same["seed"].isin(own["seed"])]
    return pd.concat([own, recorded]) if len(own) else recorded


def total_epochs(table: pd.DataFrame, row: dict) -> float:
    """All epochs behind a row of the headline: of the dense network, and of every removal up to
    this one."""
    alone = row["method"].startswith("from scratch")
    if alone or not isinstance(row.get("dense"), str):  # the dense network itself
        return float(row["run_epochs"])
    parent = table[table["what"] == row["dense"]]
    run = table[(table["what"] == row["what"]) & (table["removed"] <= row["removed"])]
    return float(parent["run_epochs"].iloc[:1].sum() + run["epochs"].sum())


def ablation(table: pd.DataFrame | None = None, depths: tuple[int, int] = (8, 12)) -> pd.DataFrame:
    """One choice changed at a time: test accuracy after so many removals, mean over the seeds that
    the change was made for; ours on the same seeds first. ``table`` as in :func:`headline`."""
    table, rows = study_of(table, "headline"), []
    changed = table[table["what"].str.contains("_ablation_")]
    ours = table[table["method"] == "ours, one by one"]
    for (data, width), arms in changed.groupby(["data", "width"]):
        base = ours[(ours["data"] == data) & (ours["width"] == width)]
        base = base[base["seed"].isin(arms["seed"])]
        for name, runs in [("ours, one by one", base), *arms.groupby("method", sort=False)]:
            runs = runs[runs["removed"] <= depths[-1]]
            last = runs[runs["removed"] == depths[-1]]
            row = {"data": data, "network": f"width {width:.0f}", "changed": name}
            row["seeds"] = len(last)
            broken = runs["val_before"] - runs.groupby("what")["val"].shift()
            row["points lost by a removal, before tuning"] = f"{-broken.mean():.1f}"
            for depth in depths:
                at = runs[runs["removed"] == depth]
                row[f"test accuracy, % ({depth} removed)"] = spread(at["test"])
            rows.append(row | {f"million MACs ({depths[-1]})": f"{last['macs'].mean() / 1e6:.2f}"})
    return pd.DataFrame(rows)


def baseline(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The dense network, one choice of its training changed at a time: validation accuracy beside
    the usual recipe's on the same seeds; ``table`` as in :func:`headline`."""
    usual, changed, rows = study_of(table, "headline"), study_of(table, "baseline"), []
    usual = usual.loc[usual["method"] == "dense", ["data", "width", "seed", "val"]]
    both = changed.merge(usual, on=["data", "width", "seed"], suffixes=("", "_usual"))
    for (data, width, method), at in both.groupby(["data", "width", "method"], sort=False):
        row = {"data": data, "network": f"width {width:.0f}", "changed": method, "seeds": len(at)}
        row["validation, % (usual)"] = spread(at["val_usual"])
        row["validation, %"] = spread(at["val"])
        rows.append(row | {"difference": f"{(at['val'] - at['val_usual']).mean():+.2f}"})
    return pd.DataFrame(sorted(rows, key=lambda row: -float(row["difference"])))


def fair(table: pd.DataFrame | None = None, depths: tuple[int, ...] = (4, 8, 12)) -> pd.DataFrame:
    """All methods at equal cost (lesson 06): a row a method, test accuracy after so many removals,
    mean over the seeds (and range), empty where it cannot go so far; MACs are those when what has
    become constant is cut out; ``table`` as in :func:`headline`."""
    table, rows = study_of(table, "fair"), []
    methods = table[table["set"] == "methods"].replace({"method": MISSES})
    for (data, method), runs in methods.groupby(["data", "method"], sort=False):
        row = {"data": data, "method": method, "seeds": runs["seed"].nunique()}
        for depth in depths:
            at = runs[runs["removed"] == (0 if method == "dense" else depth)]
            row[f"test accuracy, % ({depth} removed)"] = spread(at["test"]) if len(at) else ""
        macs = at["cut"].mean() / 1e6
        rows.append(row | {f"million MACs ({depths[-1]})": f"{macs:.2f}" if len(at) else ""})
    return pd.DataFrame(sorted(rows, key=lambda row: row["method"] != "dense"))


def chain(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """A plain chain of convolutions on MNIST (lesson 04): a row a method, after its last removal,
    mean over the seeds (and range); ``table`` as in :func:`headline`."""
    table = results() if table is None else table
    table, rows = table[(table["data"] == "mnist") & (table["method"] != "clock")], []
    for (data, width, method), runs in table.groupby(["data", "width", "method"], sort=False):
        most = runs["removed"].max()
        last, before = (runs[runs["removed"] == n] for n in (most, most - 1))
        rows.append(
            {
                "data": data,
                "network": f"width {width:.0f}",
                "method (ranking, rule)": method,
                "seeds": len(last),
                "with one more left, %": spread(before["test"]) if len(before) else "",
                "activations left": f"{last['activations'].mean():.0f}",
                "test accuracy, %": spread(last["test"]),
                "million MACs": f"{last['macs'].mean() / 1e6:.2f}",
                "thousand parameters": f"{last['params'].mean() / 1e3:.0f}",
                "epochs": f"{last['run_epochs'].mean():g}",
                "minutes": f"{last['run_seconds'].mean() / 60:.1f}",
            }
        )
    return pd.DataFrame(rows)


def speed(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """What the bench says: a row a network and number of removals, merged for the batch that was
    measured; ``table`` as in :func:`headline`."""
    table = results() if table is None else table
    rows = []
    bench = table[(table["method"] == "bench") & (table.get("how") == "merged")]
    for (what, removed), runs in bench.groupby(["what", "removed"], sort=False):
        one = runs.iloc[0]
        row = {"network": what.removeprefix("bench_"), "activations removed": f"{removed:.0f}"}
        row |= {"test accuracy, %": f"{one['accuracy']:.2f}"}
        row |= {"million MACs": f"{one['macs'] / 1e6:.1f}"}
        row |= {"thousand parameters": f"{one['params'] / 1e3:.0f}"}
        for run in runs.itertuples():
            row[f"speed-up, batch {run.batch:.0f}"] = (
                f"{run.speedup:.2f} ± {run.speedup_spread:.2f}"
            )
        rows.append(row)
    return pd.DataFrame(rows)


def raced(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The races of the headline: a row a race and network, how many times as fast as the dense one
    it is, on a GPU as CUDA graphs; ``table`` as in :func:`headline`."""
    table, rows = study_of(table, "headline"), []
    table = table[(table["method"] == "milliseconds") & (table["network"] != "dense")]
    for (width, _, network), runs in table.groupby(["width", "what", "network"], sort=False):
        device = runs["device"].iloc[0]
        row = {"width": f"{width:.0f}", "on": "a CPU" if device.startswith("CPU") else device}
        row |= {"race of": runs["of"].iloc[0], "network": network}
        macs = dict.fromkeys(f"{m / 1e6:.2f}" for m in runs["macs"])  # merged for each batch
        row |= {"million MACs": ", ".join(macs), "layers": spread(runs["layers"], 0)}
        times = runs["speedup_graph"].fillna(runs["speedup"])
        one = runs["batch"] == 1
        for kind, chosen in (("one image", one), ("128 (GPU: 1024)", ~one)):
            fast = times[chosen]
            row[f"times as fast, {kind}"] = spread(fast) if len(fast) else ""
        rows.append(row)
    return pd.DataFrame(rows)


def study_of(table: pd.DataFrame | None, study: str) -> pd.DataFrame:
    """The records of a study, with all that tables ask for, and ``cut``: the MACs when what has
    become constant is cut out."""
    table = results() if table is None else table
    table = table.reindex(columns=[*dict.fromkeys([*table, *ASKED])])
    table = table[table["study"] == study]
    cut = table["macs_cut"].fillna(table["macs"])
    cpu = table["what"].str.contains("_cpu_")  # beside a GPU's records of the same seeds
    data = table["data"].mask(cpu, table["data"].str.split(",").str[0] + ", on a CPU")
    return table.assign(method=table["method"].replace(FORMER), data=data, cut=cut)


def spread(values: pd.Series, digits: int = 2) -> str:
    number = lambda x: f"{x:.{digits}f}"
    least, most = number(values.min()), number(values.max())
    alone = len(values) == 1 or least == most
    return number(values.mean()) + ("" if alone else f" ({least}–{most})")
