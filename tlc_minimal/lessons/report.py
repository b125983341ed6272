"""What a run did, as one page: tables and pictures, nothing loaded from elsewhere."""

import base64
import html
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..collapse import removals
from ..files import read_json
from ..run_folder import run_of
from .plots import before_and_after, curves, png

HEAD = """<!doctype html><html lang='en'><meta charset='utf-8'><title>A collapsed network</title>
<style>body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-size:.85rem}img{max-width:100%}
div{overflow-x:auto}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}</style>
<h1>A collapsed network</h1>"""


def write_report(folder: str | Path) -> Path:
    """``report.html`` of a run's folder, pictures inside; returns its path.

    FileNotFoundError if the folder holds no finished run.
    """
    folder = Path(folder)
    saved = run_of(folder)
    table = pd.DataFrame(removals(saved["rows"]))
    if table["test"].isna().any():
        raise FileNotFoundError(f"{folder} holds no finished run: resume it first.")
    table[["macs", "macs_cut"]] /= 1e6
    config = saved["config"] | saved["config"]["options"] | saved["config"]["tuning"]
    for left_out in ("options", "tuning", "model", "data"):
        config.pop(left_out, None)
    config = [f"{k} = {v}" for k, v in config.items() if v is not None]
    parts = [HEAD, f"<p>{html.escape(', '.join(config))}</p>"]
    if (folder / "compare.json").exists():
        both = pd.DataFrame.from_dict(read_json(folder / "compare.json", {}), orient="index")
        parts.append(
            "<h2>Before and after</h2><p>Merged only where the clock preferred it: fewer layers "
            "can mean <em>more</em> MACs (one 5x5 against two 3x3). The removals below are "
            "counted before merging.</p>" + readable(both).to_html()
        )
        alt = "Bars: what is left of the dense network's accuracy, counts and milliseconds."
        parts.append(_image(before_and_after(both), alt))
    if (folder / "layers.png").exists():
        alt = "Bars, from the input down: the MACs of each layer, dense and collapsed."
        words = "A bar a layer, a line under it where an activation follows, hatched: a shortcut."
        parts += [f"<p>{words}</p>", _embedded((folder / "layers.png").read_bytes(), alt)]
    tidy = table.melt(["removed", "macs"], ["val_before", "val", "test"], "method", "accuracy")
    words = {"val_before": "validation before tuning", "val": "validation"}
    tidy["method"] = tidy["method"].replace(words)
    for x, name in (("removed", "activations removed"), ("macs", "million multiply-accumulates")):
        figure = curves(tidy, x, "accuracy")
        figure.axes[0].set(xlabel=name, ylabel="accuracy, %")
        parts.append(_image(figure, f"Lines: accuracy before and after tuning against {name}."))
    by_step = table.to_html(index=False, float_format="{:.3g}".format)
    parts.append(f"<h2>Removal by removal</h2><div>{by_step}</div></html>")
    path = folder / "report.html"
    path.write_text("".join(parts), encoding="utf-8")
    return path


def readable(both: pd.DataFrame) -> pd.DataFrame:
    """What ``compare`` says of two networks, for people: a row a count, and one a batch size with
    milliseconds and their spread; the columns are before and after."""
    rows = {
        "accuracy, %": both["accuracy"].map("{:.2f}".format),
        "activations": both["activations"],
        "layers on the longest path": both["layers"],
        "million MACs": (both["macs"] / 1e6).map("{:,.2f}".format),
        "thousand parameters": (both["params"] / 1e3).map("{:,.1f}".format),
    }
    for batch in (int(name[3:]) for name in both if name[:3] == "ms_" and name[3:].isdigit()):
        times = both[[f"ms_{batch}", f"ms_{batch}_spread"]].to_numpy()
        rows[f"ms, batch {batch}"] = [f"{ms:.2f} ± {spread:.2f}" for ms, spread in times]
    return pd.DataFrame(rows).set_axis(["before", "after"]).T


def _image(figure: Figure, alt: str) -> str:
    return _embedded(png(figure), alt)


def _embedded(picture: bytes, alt: str) -> str:
    data = base64.b64encode(picture).decode()
    return f"<p><img alt='{html.escape(alt)}' src='data:image/png;base64,{data}'></p>"
