"""What the methods share: a task, and the loop over their stages — change, tune, record."""

import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from safetensors.torch import load_file
from torch import fx, nn

from ..collapse import Run, collapse, fingerprint, open_run, row_of
from ..data import Data
from ..graph import trace
from ..merge import merge
from ..models import save_weights
from ..nodes import activation_nodes
from ..results import write_json
from ..train import device_of, evaluate, fit


class Task(NamedTuple):
    """What every method is asked for: see :func:`compress`."""

    remove: int
    epochs: float  # of tuning, all stages together
    seed: int
    lr: float
    out: str | Path | None
    resume: bool
    progress: bool


class Stage(NamedTuple):
    """``change`` the network (a copy comes back, the same one for the same input), then tune it for
    ``epochs`` while ``hold`` keeps a hand on the gradients (it returns the hooks' handles)."""

    change: Callable[[fx.GraphModule], fx.GraphModule]
    epochs: float
    hold: Callable[[nn.Module], list] = lambda model: []


def one_by_one(model: nn.Module, data: Data, task: Task, rank: str, rule: str) -> Run:
    """The iterative methods: :func:`collapse` with an equal part of the budget for each removal."""
    each = task.epochs / task.remove
    return collapse(
        model, data, task.remove, rank, rule, each, task.lr, seed=task.seed, out=task.out,
        resume=task.resume, progress=task.progress,
    )  # fmt: skip


def in_stages(
    model: nn.Module, data: Data, task: Task, method: str, stages: list[Stage], **choices
) -> Run:
    """Run the stages one after the other, the dense model teaching; the test split comes last.

    Each stage's weights are kept in the run's folder: on resuming, finished stages are changed
    again and loaded, not tuned again. Errors as in :func:`collapse`.
    """
    folder = Path(tempfile.mkdtemp(prefix="tlc-") if task.out is None else task.out)
    config = {"method": method, "remove": task.remove, "epochs": task.epochs, "lr": task.lr}
    config |= {"seed": task.seed, "model": fingerprint(model), "data": data.sha256}
    config |= {"train": data.train.size, **choices}
    rows = open_run(folder, config, task.resume)
    teacher, current = copy.deepcopy(model).eval(), trace(model).eval()
    dense = len(activation_nodes(current))
    rows = rows or [row_of(current, data, 0, "", None, 0.0, 0.0)]
    networks = [current]
    for i, stage in enumerate(stages, 1):
        start, names = time.perf_counter(), activation_nodes(current)
        current, weights = stage.change(current), folder / f"stage_{i:02d}.safetensors"
        networks.append(current)
        if i < len(rows):
            current.load_state_dict(load_file(weights, device=str(device_of(model))))
            continue
        before, handles = evaluate(current, data), stage.hold(current)
        label = f"{method}, stage {i} of {len(stages)}" if task.progress else None
        seed = 1000 * task.seed + i
        fit(current, data, stage.epochs, task.lr, teacher=teacher, seed=seed, progress=label)
        for handle in handles:
            handle.remove()
        left = activation_nodes(current)
        gone = ", ".join(n for n in names if n not in left)
        seconds = time.perf_counter() - start
        save_weights(current, weights)
        about = (dense - len(left), gone, before, stage.epochs, seconds)
        rows.append(row_of(current, data, *about))
        write_json(folder / "run.json", {"config": config, "rows": rows})
    for row, network in zip(rows, networks, strict=True):
        if row["test"] is None:
            row["test"] = evaluate(network, data, "test").accuracy
    write_json(folder / "run.json", {"config": config, "rows": rows})
    return Run(pd.DataFrame(_removals(rows)), merge(current.eval(), data), current, folder)


def _removals(rows: list[dict]) -> list[dict]:
    """A row for each stage that removed something; what others cost is added to the next one."""
    kept, epochs, seconds = rows[:1], 0.0, 0.0
    for row in rows[1:]:
        epochs, seconds = epochs + row["epochs"], seconds + row["seconds"]
        if row["layer"]:
            kept = [*kept, row | {"epochs": epochs, "seconds": seconds}]
            epochs = seconds = 0.0
    return kept
