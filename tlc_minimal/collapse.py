"""The loop: rank, linearize, tune, record — resumable at any point (TLC, algorithm 1)."""

import copy
import hashlib
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import fx, nn

from .data import Data
from .gaussian import Gaussian
from .gradual import fade, faded
from .graph import trace
from .linearize import check_rule, linearize, statistics_for
from .measure import count
from .merge import merge
from .nodes import activation_nodes
from .rank import check_ranking
from .rank import rank as rank_layers
from .results import write_json
from .train import Score, device_of, evaluate, fit, steps_of


@dataclass(frozen=True)
class Run:
    """A collapse: ``table`` has one row per removal (row 0: the dense model), ``model`` is the
    collapsed, merged network, ``linear`` the same before merging, ``folder`` holds the files."""

    table: pd.DataFrame
    model: fx.GraphModule
    linear: fx.GraphModule
    folder: Path


def collapse(
    model: nn.Module,
    data: Data,
    remove: int,
    rank: str = "tlc",
    rule: str = "on_off_affine",
    epochs: float = 10,
    lr: float = 0.02,
    distil: bool = True,
    gradual: bool = False,
    padding: str = "as_trained",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    keep: str = "fastest",
    progress: bool = True,
    **tuning,
) -> Run:
    """Remove ``remove`` activations of a trained model, one at a time, tuning after each.

    ``rule`` and ``padding`` as in :func:`linearize`. Ranking by ``rank`` and all choices see the
    validation split only; the test split is touched once, after the last removal, for every row of
    the table. ``distil``: the given dense model teaches while tuning. ``gradual``: over the
    first half of each tuning the activation fades into its line, instead of all at once.
    ``tuning``: what else :func:`fit` takes (batch, weight_decay, smoothing, schedule). ``out``:
    folder for everything needed to resume (a temporary one if None).
    Columns: removed, layer, off (share of OFF channels), val_loss, val_before (accuracy in percent
    before tuning), val, test, activations, layers, macs, params, epochs, seconds.
    ValueError if there are fewer activations than ``remove``, if ``gradual`` meets
    ``padding="first"`` or the rule "published" (which do more than put a line there), or if ``out``
    holds the run of another model or configuration; FileExistsError if it holds a run and
    ``resume`` is False.
    """
    check_rule(rule)
    check_ranking(rank)
    if gradual and (padding == "first" or rule == "published"):
        raise ValueError("gradual needs padding='as_trained' and a rule other than 'published'.")
    names = list(activation_nodes(trace(model)))
    if not 0 <= remove <= len(names):
        raise ValueError(f"remove={remove}, but this model has {len(names)} activations.")
    folder = Path(tempfile.mkdtemp(prefix="tlc-") if out is None else out)
    config = dict(rank=rank, rule=rule, epochs=epochs, lr=lr, distil=distil, seed=seed)
    config |= {"padding": padding, "gradual": gradual, **tuning}
    config |= {"model": fingerprint(model), "data": data.sha256, "train": data.train.size}
    rows = open_run(folder, config, resume)
    teacher = copy.deepcopy(model).eval() if distil else None
    current = trace(model).eval()
    if not rows:
        rows = [row_of(current, data, 0, "", None, 0.0, 0.0, off=0.0)]
        _save(folder, 0, current, {}, config, rows)
    done = min(len(rows) - 1, remove)
    current = _restore(model, folder, rows, done, config)
    for step in range(done + 1, remove + 1):
        start = time.perf_counter()
        scores = rank_layers(current, data, rank, rule, seed=1000 * seed + step, progress=progress)
        name = next(iter(scores))
        g = statistics_for(rule, current, data)[name]
        surgery = (name, {name: g}, rule, padding)
        linear = linearize(current, *surgery)
        before = evaluate(linear, data)
        if gradual:
            steps = steps_of(data, epochs, tuning.get("batch", 128))
            current = fade(current, name, g, rule, max(1, steps // 2))
        label = f"{step}/{remove} without {name}" if progress else None
        tuned = current if gradual else linear
        how = {"teacher": teacher, "seed": 1000 * seed + step, "progress": label, **tuning}
        fit(tuned, data, epochs, lr, **how)
        current = linearize(faded(tuned, name), *surgery) if gradual else tuned
        off = float((~g.on).float().mean())
        seconds = time.perf_counter() - start
        rows = rows[:step] + [row_of(current, data, step, name, before, epochs, seconds, off=off)]
        _save(folder, step, current, {name: g}, config, rows)
    for step, row in enumerate(rows[: remove + 1]):
        if row["test"] is None:
            candidate = _restore(model, folder, rows, step, config)
            row["test"] = evaluate(candidate, data, "test").accuracy
    write_json(folder / "run.json", {"config": config, "rows": rows})
    return Run(pd.DataFrame(rows[: remove + 1]), merge(current.eval(), data, keep), current, folder)


def load_run(model: nn.Module, folder: str | Path, step: int) -> fx.GraphModule:
    """The tuned, unmerged network after ``step`` removals of a run that started from ``model``.

    FileNotFoundError if the folder holds no run, ValueError if it is one of another model.
    """
    folder = Path(folder)
    if not (folder / "run.json").exists():
        raise FileNotFoundError(f"{folder} holds no run: there is no run.json in it.")
    saved = json.loads((folder / "run.json").read_text())
    if saved["config"]["model"] != fingerprint(model):
        raise ValueError(f"{folder} holds the run of another model: give the one it started from.")
    return _restore(model, folder, saved["rows"], step, saved["config"])


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the names, shapes and values in a model's state dict."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def row_of(
    model, data: Data, removed: int, layer: str, before: Score | None, epochs, seconds, **more
) -> dict:
    """A row of a run's table (its columns: :func:`collapse`), the test accuracy still open;
    ``before``: the validation score before tuning, None if nothing was tuned."""
    score = evaluate(model, data)
    return {
        "removed": removed,
        "layer": layer,
        **more,
        "val_loss": score.loss,
        "val_before": (before or score).accuracy,
        "val": score.accuracy,
        "test": None,
        **count(model, data),
        "epochs": epochs,
        "seconds": seconds,
    }


def open_run(folder: Path, config: dict, resume: bool) -> list[dict]:
    """The rows of a run's folder so far: none for a new one, which is made. FileExistsError and
    ValueError as in :func:`collapse`."""
    path = folder / "run.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        return []
    if not resume:
        raise FileExistsError(f"{folder} already holds a run: pass resume=True, or another folder.")
    saved = json.loads(path.read_text())
    differing = [k for k, v in config.items() if saved["config"].get(k) != v]
    if differing:
        raise ValueError(
            f"{folder} holds a run with another {', '.join(differing)}: nothing was changed; "
            "choose another folder, or the same model, data and settings."
        )
    return saved["rows"]


def _save(folder: Path, step: int, model, removed: dict[str, Gaussian], config, rows) -> None:
    """Weights first, then the table that says they are there; each file appears whole or not."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    for g in removed.values():
        tensors |= {"removed.mean": g.mean.cpu(), "removed.std": g.std.cpu()}
    path = folder / f"step_{step:02d}.safetensors"
    save_file(tensors, f"{path}.part")
    os.replace(f"{path}.part", path)
    write_json(folder / "run.json", {"config": config, "rows": rows})


def _restore(
    model: nn.Module, folder: Path, rows: list[dict], step: int, config: dict
) -> fx.GraphModule:
    """Repeat the surgery up to ``step`` on the dense model, then load the tuned weights."""
    current = trace(model).eval()
    device = device_of(model)
    for i in range(step + 1):
        tensors = load_file(folder / f"step_{i:02d}.safetensors", device=str(device))
        if i:
            g = Gaussian(tensors.pop("removed.mean"), tensors.pop("removed.std"))
            name, how = rows[i]["layer"], (config["rule"], config["padding"])
            current = linearize(current, name, {name: g}, *how)
        current.load_state_dict(tensors)
    return current
