"""What a run did, as one page: tables and pictures, nothing loaded from elsewhere."""

import base64
import html
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..run_folder import run_of
from .plots import before_and_after, curves, png

HEAD = """<!doctype html><html lang='en'><meta charset='utf-8'><title>A collapsed network</title>
<style>body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-size:.85rem}img{max-width:100%}
td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}</style>
<h1>A collapsed network</h1>"""


def write_report(folder: str | Path) -> Path:
    """``report.html`` of a run's folder, pictures inside; returns its path.

    FileNotFoundError if the folder holds no finished run.
    """
    folder = Path(folder)
    saved = run_of(folder)
    table = pd.DataFrame(saved["rows"])
    if table["test"].isna().any():
        raise FileNotFoundError(f"{folder} holds no finished run: resume it first.")
    table["macs"] /= 1e6
    config = saved["config"] | saved["config"]["options"] | saved["config"]["tuning"]
    for left_out in ("options", "tuning", "model", "data"):
        config.pop(left_out, None)
    config = [f"{k} = {v}" for k, v in config.items()]
    parts = [HEAD, f"<p>{html.escape(', '.join(config))}</p>"]
    if (folder / "compare.json").exists():
        both = pd.read_json(folder / "compare.json", orient="index")
        parts.append(
            "<h2>Before and after</h2><p>Merged only where the clock preferred it: fewer layers "
            "can mean <em>more</em> MACs (one 5x5 against two 3x3). The removals below are "
            "counted before merging.</p>" + both.T.to_html(float_format="{:,.2f}".format)
        )
        alt = "Bars: what is left of the dense network's accuracy, counts and milliseconds."
        parts.append(_image(before_and_after(both), alt))
    tidy = table.melt(["removed", "macs"], ["val_before", "val", "test"], "method", "accuracy")
    tidy["method"] = tidy["method"].replace({"val_before": "validation before tuning"})
    for x, name in (("removed", "activations removed"), ("macs", "million multiply-accumulates")):
        figure = curves(tidy, x, "accuracy")
        figure.axes[0].set(xlabel=name, ylabel="accuracy, %")
        parts.append(_image(figure, f"Lines: accuracy before and after tuning against {name}."))
    by_step = table.to_html(index=False, float_format="{:.3g}".format)
    parts.append(f"<h2>Removal by removal</h2>{by_step}</html>")
    path = folder / "report.html"
    path.write_text("".join(parts), encoding="utf-8")
    return path


def _image(figure: Figure, alt: str) -> str:
    data = base64.b64encode(png(figure)).decode()
    return f"<p><img alt='{html.escape(alt)}' src='data:image/png;base64,{data}'></p>"
