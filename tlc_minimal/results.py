"""Recorded runs: one JSON file each in data/results, all of one schema, loaded as one DataFrame."""

import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from .data import Data
from .files import read_json, write_json

SCHEMA = 1
FIELDS = dict.fromkeys(("what", "command", "device", "data", "data_sha256", "commit"), str)
FIELDS |= {"schema": int, "seed": int, "seconds": float, "epochs": float}
FIELDS |= {"config": dict, "versions": dict, "rows": list}
COLUMNS = ["what", "data", "seed", "width", "method", "removed"]  # of a table without records
COLUMNS += ["layers", "macs", "val", "val_before", "test"]
FOLDER = Path("data/results")
COMMIT = ("git", "describe", "--always", "--dirty", "--abbrev=12")
DRIVER = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def record(
    what: str, data: Data, config: dict, seed: int, rows: list[dict], seconds: float, epochs: float,
    command: str, folder: str | Path = FOLDER,
) -> Path:  # fmt: skip
    """Write ``<folder>/<what>.json``: what was run, on what, and its ``rows``; returns the path.
    FileExistsError if there is one: a record is never overwritten."""
    path = Path(folder) / f"{what}.json"
    if path.exists():
        raise FileExistsError(f"{path} is recorded already: move it away, or choose another name.")
    gpu = torch.cuda.is_available() and {"cuda": torch.version.cuda, "driver": _said(*DRIVER)}
    versions = {n: version(n) for n in ("torch", "torchvision")} | (gpu or {})
    versions["python"] = platform.python_version()
    content = {"schema": SCHEMA, "what": what, "command": command, "config": config, "seed": seed}
    content |= {"device": _device(), "versions": versions, "data": data.name}
    content |= {"data_sha256": data.sha256, "commit": _said(*COMMIT)}
    rows = [{k: None if v != v else v for k, v in row.items()} for row in rows]  # JSON has no NaN
    content |= {"seconds": float(seconds), "epochs": float(epochs), "rows": rows}
    write_json(path, content)
    return path


def results(folder: str | Path | None = None) -> pd.DataFrame:
    """All records as one table: a row per row of each record, with what, data, device, seed,
    commit, run_seconds, run_epochs, and its configuration beside it.

    ``folder``: default data/results, here or in the folders above (so that notebooks find it).
    No record: an empty table of COLUMNS. ValueError, naming a file that is damaged or no record.
    """
    with suppress(FileNotFoundError):
        folder = folder or find_folder()
    rows = []
    for path in sorted(Path(folder or FOLDER).glob("*.json")):
        content = read_json(path, FIELDS)
        if content["schema"] != SCHEMA or not all(isinstance(r, dict) for r in content["rows"]):
            raise ValueError(f"{path} is no record of schema {SCHEMA}: move it away.")
        shared = {k: content[k] for k in ("what", "data", "device", "seed", "commit")}
        shared |= {"run_seconds": content["seconds"], "run_epochs": content["epochs"]}
        shared |= {k: v for k, v in content["config"].items() if not isinstance(v, (list, dict))}
        rows += [shared | row for row in content["rows"]]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=COLUMNS)


def find_folder(name: str = "data/results") -> Path:
    """``name`` in this folder or the nearest one above that has it; FileNotFoundError if none."""
    for parent in (Path.cwd(), *Path.cwd().parents):
        if (parent / name).is_dir():
            return parent / name
    raise FileNotFoundError(f"there is no {name} here or above: run inside the project's folder.")


def _said(*command: str) -> str:
    """The first word that a program prints here; "unknown" if it is missing or says nothing."""
    with suppress(OSError):
        run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
        return [*run.stdout.split(), "unknown"][0]  # a driver's version comes once for each GPU
    return "unknown"


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    with suppress(OSError, TypeError):  # no such file, or it names no model
        name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1].strip()
    return f"CPU, {torch.get_num_threads()} threads: {name}"
