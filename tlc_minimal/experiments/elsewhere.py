"""The tables of other networks than the course's ResNet-18."""

import pandas as pd

from ..results import results
from .tables import against, spread, study_of


def beyond(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Other architectures (lesson 07): a row a network and method, after its last removal and
    merged, mean over the seeds (and range); ``table`` as in :func:`headline`."""
    table, rows = study_of(table, "beyond"), []
    for (network, data), runs in table[table["method"] != "clock"].groupby(["network", "data"]):
        last = runs.groupby("what").tail(1)
        starts = runs[(runs["removed"] == 0) & ~runs["method"].str.startswith("tuned on")]
        dense = starts.groupby("seed").head(1)
        tuned = last[last["method"] == "tuned on"]
        share = last["macs_merged"].fillna(last["macs"]) / dense["macs"].mean()
        last = last.assign(share=100 * share, deep=last["layers_merged"].fillna(last["layers"]))
        tuned_first = lambda m: m.mask(m.str.startswith("tuned"), " " + m)
        last = last.sort_values("method", key=tuned_first, kind="stable")
        for method, at in last.groupby("method", sort=False):
            own = starts[starts["what"].isin(at["what"])]  # of some records trained once more
            parents = pd.concat([own, dense[~dense["seed"].isin(own["seed"])]])
            before = at["val_before"].iloc[: len(at) * method.startswith("projected")]
            faster = {f"times as fast, batch {n}": at[f"speedup_{n}"].mean() for n in (1, 128)}
            rows.append(
                {
                    "network": network,
                    "data": data,
                    "method (ranking, rule)": method,
                    "seeds": len(at),
                    "removed": spread(at["removed"], 0),
                    "layers": spread(at["deep"], 0),
                    "MACs left, %": f"{at['share'].mean():.0f}",
                    "validation before tuning, %": spread(before) if len(before) else "",
                    "test accuracy, %": spread(at["test"]),
                    "against dense": against(at, parents),
                    "against tuned on": "" if method == "tuned on" else against(at, tuned),
                }
                | {name: f"{x:.2f}" if x == x else "" for name, x in faster.items()}
            )
    return pd.DataFrame(rows)


def zoo(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Other people's networks (tests/zoo_foreign.py): a row a library; ``table`` as in
    :func:`headline`."""
    table, rows = results() if table is None else table, []
    found = table[table["what"] == "zoo"]
    for library, nets in found.groupby(found.get("network", found["what"]).str.split("/").str[0]):
        merged = nets[nets["error"].notna()]
        rows.append(
            {
                "library": library,
                "networks": len(nets),
                "merged": len(merged),
                "largest relative error": f"{merged['error'].max():.0e}",
                "norms seen": f"{merged['norms_seen'].sum():.0f} of {merged['norms'].sum():.0f}",
                "with channels cut": (nets["channels_cut"] > 0).sum(),
                "not merged": ", ".join(
                    nets.loc[nets["error"].isna(), "network"].str[len(library) + 1 :]
                ),
            }
        )
    return pd.DataFrame(rows)


def matrices(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Blocks of transformers, dropped or as one matrix (lesson 07): a row a network and way; what
    one block costs before any tuning, in the mean and the dearest one, and half of them, tuned;
    ``table`` as in :func:`headline`."""
    others, table, rows = study_of(table, "beyond"), study_of(table, "matrices"), []
    for network, runs in table.groupby("network"):
        dense, same = runs[runs["blocks"] == 0], others[others["network"] == network]
        tuned = same[same["method"] == "tuned on"].groupby("what").tail(1)
        for way, at in runs[runs["blocks"] > 0].groupby("way", sort=False):
            own = at.merge(dense[["seed", "val", "macs"]], on="seed", suffixes=("", "_dense"))
            lost, share = (
                own["val_dense"] - own["val_before"],
                100 * own["macs"] / own["macs_dense"],
            )
            one, half = own["val"].isna(), own[own["val"].notna()]
            rows.append(
                {
                    "network": network,
                    "block": way,
                    "seeds": len(half),
                    "points lost by one, before tuning": f"{lost[one].mean():.1f}",
                    "by the dearest": spread(lost[one].groupby(own["seed"]).max(), 1),
                    "MACs left by half of them, %": f"{share[~one].mean():.0f}",
                    "validation before tuning, %": spread(half["val_before"]),
                    "test accuracy, %": spread(half["test"]),
                    "against dense": against(half, dense),
                    "against tuned on": against(half, tuned),
                }
            )
    return pd.DataFrame(rows)
