"""The tables of projections, beside networks of their size and before any tuning."""

import pandas as pd

from .headline import CONTROLS
from .tables import against, spread, study_of, total_epochs

SMALL = ("dense", "published", "ours, all at once", "ours, projected", *CONTROLS.values())


def projected(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Layers that go, beside the controls of their size: a row a share of the MACs and method, mean
    over the seeds (and range); ``table`` as in :func:`headline`."""
    table, rows = study_of(table, "headline"), []
    for (data, width, _, _, method), at in sized(table).groupby(
        ["data", "width", "share", "order", "method"]
    ):
        epochs = [total_epochs(table, row) for row in at.to_dict("records")]
        before = at["val_before"] if method.startswith("ours") else pd.Series(dtype=float)
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
                "against dense": against(at, same[same["method"] == "dense"]),
                "epochs": f"{sum(epochs) / len(epochs):g}",
            }
        )
    return pd.DataFrame(rows)


def sized(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The records that :func:`projected` shows, where projections were recorded: rows of
    ``results`` with ``cut``, the MACs when what has become constant is cut out, ``share``, that of
    the MACs that was asked for (negative, so that it sorts), and ``order``, the method's place."""
    table = study_of(table, "headline")
    if "share" not in table:
        return table.iloc[:0].assign(share=0.0, order=0, cut=0.0)
    twelve = (table["removed"] == 12) & table["method"].isin(["published", "ours, all at once"])
    asked = table["share"].notna() & (table["removed"] > 0) & table["method"].isin(SMALL)
    there = table.loc[asked, ["data", "width"]].drop_duplicates()
    rows = table[asked | twelve | (table["method"] == "dense")].merge(there, on=["data", "width"])
    cut = rows["macs_cut"].fillna(rows["macs"])
    order = rows["method"].map(SMALL.index)
    return rows.assign(share=-rows["share"].fillna(1.0), order=order, cut=cut)


def untuned(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """What is left before any tuning, by every rule and by projections of all kinds: a row each,
    mean over the seeds (and range); ``table`` as in :func:`headline`."""
    table, rows = study_of(table, "headline"), []
    table = table[table["method"] == "untuned"]
    if table.empty:
        return pd.DataFrame()
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
