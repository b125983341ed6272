"""Recorded runs: one JSON file each in data/results, all of one schema, loaded as one DataFrame."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from .data import Data

SCHEMA = 1
FIELDS = {
    "schema": int,
    "what": str,
    "command": str,
    "config": dict,
    "seed": int,
    "device": str,
    "versions": dict,
    "data": str,
    "data_sha256": str,
    "commit": str,
    "seconds": float,
    "epochs": float,
    "rows": list,
}
FOLDER = Path("data/results")


def record(
    what: str, data: Data, config: dict, seed: int, rows: list[dict], seconds: float, epochs: float,
    command: str, folder: str | Path = FOLDER,
) -> Path:  # fmt: skip
    """Write ``<folder>/<what>.json``: what was run, on what, and its ``rows``; returns the path."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    names = ("torch", "torchvision", "accelerate")
    content = {
        "schema": SCHEMA,
        "what": what,
        "command": command,
        "config": config,
        "seed": seed,
        "device": device,
        "versions": {"python": platform.python_version()} | {n: version(n) for n in names},
        "data": data.name,
        "data_sha256": data.sha256,
        "commit": _commit(),
        "seconds": seconds,
        "epochs": float(epochs),
        "rows": rows,
    }
    path = Path(folder) / f"{what}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)
    return path


def results(folder: str | Path | None = None) -> pd.DataFrame:
    """All records as one table: a row per row of each record, with what, data, device, seed, the
    record's total seconds and epochs, and its configuration beside it.

    ``folder``: default data/results, here or in the folders above (so that notebooks find it).
    ValueError if a file is not a record of this schema.
    """
    folder = Path(folder) if folder else find_folder()
    tables = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        check(content, path.name)
        shared = {k: content[k] for k in ("what", "data", "device", "seed", "commit")}
        shared |= {"run_seconds": content["seconds"], "run_epochs": content["epochs"]}
        shared |= {k: v for k, v in content["config"].items() if not isinstance(v, (list, dict))}
        tables.append(pd.DataFrame([shared | row for row in content["rows"]]))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def summary(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """What the README shows: a row per data set and method after its last removal, mean over the
    seeds (and range, where there are several); ``table``: from :func:`results`, default all."""
    table = results() if table is None else table
    rows = []
    for (data, width, method), runs in table[table["method"] != "clock"].groupby(
        ["data", "width", "method"], sort=False
    ):
        last = runs[runs["removed"] == runs["removed"].max()]
        test, count = last["test"], len(last)
        spread = f" ({test.min():.2f}–{test.max():.2f})" if count > 1 else ""
        rows.append(
            {
                "data": data,
                "network": f"width {width}",
                "method (ranking, rule)": method,
                "seeds": count,
                "activations left": f"{last['activations'].mean():.0f}",
                "test accuracy, %": f"{test.mean():.2f}{spread}",
                "million MACs": f"{last['macs'].mean() / 1e6:.2f}",
                "thousand parameters": f"{last['params'].mean() / 1e3:.0f}",
                "epochs": f"{last['run_epochs'].mean():g}",
                "minutes": f"{last['run_seconds'].mean() / 60:.1f}",
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A table of text as GitHub reads it."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def check(content: dict, name: str) -> None:
    """ValueError, in one sentence, if ``content`` is not a record of this schema."""
    wrong = [k for k, kind in FIELDS.items() if not isinstance(content.get(k), kind)]
    if wrong or content["schema"] != SCHEMA:
        raise ValueError(f"{name} is no record of schema {SCHEMA}: see its {wrong or 'schema'}.")


def find_folder(name: str = "data/results") -> Path:
    """``name`` in this folder or the nearest one above that has it; FileNotFoundError if none."""
    here = Path.cwd()
    for parent in (here, *here.parents):
        if (parent / name).is_dir():
            return parent / name
    raise FileNotFoundError(f"there is no {name} here or above: run inside the project's folder.")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"CPU, {torch.get_num_threads()} threads: {name}"
