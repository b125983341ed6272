"""The loop: choose, change, tune, record, whatever the method, and resumable at any moment."""

import atexit
import copy
import json
import tempfile
import time
import warnings
from dataclasses import dataclass
from inspect import signature
from numbers import Integral
from pathlib import Path
from shutil import rmtree

import pandas as pd
from torch import fx, nn

from .data import Data
from .files import digest, load_weights, save_weights
from .graph import editable, trace
from .measure import count
from .merge import merge
from .nodes import activation_nodes
from .parallel import from_main, is_main, share
from .reading.fits import check_data, check_learns
from .reading.refuse import quoted, there_are
from .refuse import check_known, check_number
from .run_folder import owned, rows_of, run_of, write_run
from .stages import METHODS, Method, Stage, Task, off_share
from .train import best_device, check_recipe, evaluate, fit, layout, like_of, steps_of

TUNING = {"lr": 0.02, "distil": True}
OF_FIT = ("lr", "batch", "weight_decay", "smoothing", "schedule")


@dataclass(frozen=True)
class Run:
    """A collapse: ``table`` has a row for the dense network and one for each time that activations
    went, ``model`` is the collapsed, merged network, ``linear`` the same before merging (and before
    the method's clean-up), ``folder`` holds the files."""

    table: pd.DataFrame
    model: fx.GraphModule
    linear: fx.GraphModule
    folder: Path


def collapse(
    model: nn.Module, data: Data, remove: int | None = None, epochs: float = 12,
    method: str = "at_once", seed: int = 0, out: str | Path | None = None, resume: bool = False,
    **options,
) -> Run:  # fmt: skip
    """Take ``remove`` activations out of a trained model and tune what is left.

    ``remove``: how many; ``method="project"`` takes ``macs`` or ``speedup`` in its place.
    ``method``: a key of ``METHODS`` (at_once, one_by_one, random, project, blocks; published and
    the rivals); ``epochs``: its whole budget of tuning, however it spreads it, to the nearest step.
    All methods get the same recipe (the dense model teaches), choose on the validation split, and
    see the test split once, at the end, for every row of the table. ``out``: the folder of the run
    (if None one that goes when Python ends, unless the run was stopped); with ``resume`` a run that
    was killed there goes on, inside a tuning, too.
    ``options``: the method's own (``rank``, ``rule``, ``padding``, ``again``, …), those of
    :func:`fit` (``lr``, ``batch``, ``weight_decay``, ``smoothing``, ``schedule``), ``distil=False``
    for no teacher, ``keep`` of :func:`merge`, and ``progress=False``.

    Columns: removed, layer, off (share of OFF channels), error (relative, the mean of the layers
    that were projected), val_loss, val_before (accuracy in percent before tuning), val, test,
    activations, relu_units, layers, macs (per image), macs_cut (the same when what has become
    constant is cut out exactly), params, epochs, seconds, images_per_s (of the tuning).
    Everything is checked before anything is trained or written: TypeError, ValueError for arguments
    that are unknown or out of range, for a model that is not finite or does not take the data, for
    what a method cannot do, and if ``out`` holds another run; FileExistsError if it holds a run and
    ``resume`` is False; BlockingIOError if another process works there.
    """
    about = checked(model, data, remove, epochs, method, seed, options | {"resume": resume})
    task, stages, tuning, config, finish = about
    data, keep = task.data, options.get("keep", "fastest")
    share(task.model)
    config = from_main(lambda: config)
    place = from_main(lambda: tempfile.mkdtemp(prefix="tlc-")) if out is None else out
    with owned(place) as folder:
        rows, networks = rows_of(folder, config, resume), [task.model]
        current, dense = task.model, len(activation_nodes(task.model))
        teacher = copy.deepcopy(current) if tuning.pop("distil") else None
        if not rows:
            for left in folder.glob("stage_[0-9][0-9]*.*"):  # of a run whose table is gone
                left.unlink()
            rows = [_row(current, data, finish) | {"off": 0.0}]
        for i, stage in enumerate(stages, 1):
            if dense - len(activation_nodes(current)) == remove:
                break
            start, names = time.perf_counter(), activation_nodes(current)
            current, decision = _change(current, stage, folder, i)
            if len(rows) == 1:  # what a method cannot do leaves no run behind
                write_run(folder, config, rows)
            networks.append(current)
            weights, state = (folder / f"stage_{i:02d}.{end}" for end in ("safetensors", "state"))
            if i < len(rows) and weights.exists():
                load_weights(weights, into=current)
                state.unlink(missing_ok=True)  # of a run that was killed just before
                continue
            left = activation_nodes(current)
            gone = [n for n in names if n not in left]
            bar = f"{method} {i}: {', '.join(gone[:2])}{' …' * (len(gone) > 2)}"
            length = task.epochs if stage.epochs is None else stage.epochs * max(1, len(gone))
            before, new = evaluate(current, data).accuracy, not state.exists()
            handles, tuned = stage.hold(current), time.perf_counter()
            how = {"seed": (1000 * task.seed + i) % 2**32, "progress": task.progress and bar}
            fit(current, data, length, teacher=teacher, state=state, **how, **tuning)
            tuned = time.perf_counter() - tuned
            for handle in handles:
                handle.remove()
            row = _row(current, data, finish) | {"removed": dense - len(left), "val_before": before}
            row |= {"layer": ", ".join(gone), "off": off_share(decision), "epochs": length}
            row["error"] = float(decision["error"].mean()) if "error" in decision else None
            row["seconds"] = time.perf_counter() - start
            batch = min(tuning.get("batch", 128), data.train.size)
            row["images_per_s"] = steps_of(data, length, batch) * batch / tuned if new else None
            rows[i : i + 1] = [row]
            save_weights(current, weights)
            write_run(folder, config, rows)
            state.unlink(missing_ok=True)
            if row["val"] < before - 5:
                fell = f"validation fell from {before:.1f} to {row['val']:.1f} % in tuning"
                warnings.warn(f"{fell}: give more epochs, or a smaller lr.", stacklevel=2)
        for row, network in zip(rows, networks):
            if row["test"] is None:
                row["test"] = evaluate(network, data, "test").accuracy
        write_run(folder, config, rows)
    if out is None:
        atexit.register(rmtree, folder, ignore_errors=True)
    small = finish(current).eval()
    try:
        small = merge(small, data, keep) if is_main() else small  # one at a time: it is clocked
    except (RuntimeError, ValueError) as error:  # after hours: what is tuned is not lost
        warnings.warn(f"not merged, the run's model is as it was tuned: {error}", stacklevel=2)
    table = pd.DataFrame(removals(rows)).astype({"error": float})
    return Run(table, small, current, folder)


def load_run(model: nn.Module, folder: str | Path, removed: int, example=None) -> fx.GraphModule:
    """The tuned, unmerged network after ``removed`` activations of a run that began with ``model``;
    ``example``: an input, for a model whose forward asks for shapes.

    FileNotFoundError if ``folder`` holds no run, ValueError if it is of another model or has no
    such row.
    """
    saved = run_of(folder)
    config, there = saved["config"], [row["removed"] for row in saved["rows"]]
    if config["model"] != digest(model.state_dict()):
        raise ValueError(f"{folder} holds the run of another model: give the one it began with.")
    if removed not in there:
        has = f"{', '.join(map(str, sorted(set(there))))} activations removed"
        raise ValueError(f"{folder} holds networks with {has}, not {removed!r}.")
    if config["method"] not in METHODS:
        raise ValueError(f"{folder} holds a run by {config['method']!r}: add it to METHODS first.")
    current = trace(model, example=example).eval()
    current.to(memory_format=layout(current))
    task = Task(current, None, config["remove"], config["epochs"], config["seed"])
    stages = METHODS[config["method"]].stages(task, **config["options"])
    last = len(there) - 1 - there[::-1].index(removed) if removed else 0
    for i, stage in enumerate(stages[:last], 1):
        current, _ = _change(current, stage, Path(folder).expanduser(), i)
        load_weights(Path(folder).expanduser() / f"stage_{i:02d}.safetensors", into=current)
    return current


def checked(model, data, remove, epochs, method, seed, options) -> tuple:
    """Task, stages, tuning, the run's configuration and the method's ``finish``: all that
    :func:`collapse` needs, or its error, before anything is trained or written."""
    check_known("method", method, METHODS)
    chosen: Method = METHODS[method]
    own = {p.name: p.default for p in list(signature(chosen.stages).parameters.values())[1:]}
    known = own | dict.fromkeys(OF_FIT) | {"distil": True, "keep": "fastest", "progress": True}
    known |= {"resume": False}
    for name, value in options.items():
        if name not in known:
            raise TypeError(f"{method} takes no {quoted(name)}; it takes: {', '.join(known)}.")
        if isinstance(known[name], bool) and not isinstance(value, bool):
            raise TypeError(f"{name} is True or False, not {value!r}.")
    of_method = {k: v for k, v in options.items() if k in own}
    tuning = TUNING | chosen.tuning | {k: v for k, v in options.items() if k in (*OF_FIT, "distil")}
    check_known("keep", options.get("keep", "fastest"), ("fastest", "all"))
    check_recipe(data, epochs=epochs, seed=seed, **{k: tuning[k] for k in tuning if k != "distil"})
    traced = editable(model, data)
    data = check_data(model, data)
    check_learns(model)
    if not (most := len(activation_nodes(traced))):
        raise ValueError(f"this model has no activation that can go: {there_are()}.")
    words = f"1 to {most}, the model's activations"
    if remove is not None or "macs" not in own:
        check_number("remove", remove, Integral, lambda n: 1 <= n <= most, words)
    config = {"method": method, "remove": remove, "epochs": epochs, "seed": seed}
    config |= {"options": of_method, "tuning": tuning, "model": digest(model.state_dict())}
    config |= {"data": data.identity, "train": data.train.size}
    plain = lambda n: getattr(n, "item", n.__repr__)()  # a number of NumPy's
    config = json.loads(json.dumps(config, default=plain))  # as it will be read
    asked = (config[k] for k in ("remove", "epochs", "seed"))
    traced.eval().to(best_device(), memory_format=layout(traced))
    task = Task(traced, data, *asked, options.get("progress", True))
    stages = chosen.stages(task, **of_method)
    return task, stages, dict(config["tuning"]), config, chosen.finish


def _change(current: fx.GraphModule, stage: Stage, folder: Path, i: int):
    """The network after the ``i``-th stage's surgery, not yet tuned, and the stage's decision: made
    once, then kept in the folder."""
    path, device = folder / f"stage_{i:02d}.choice", like_of(current).device
    if not path.exists():
        save_weights(from_main(lambda: stage.choose(current)), path)
    decision = {k: v.to(device) for k, v in load_weights(path)[0].items()}
    changed = stage.change(current, decision)
    return changed.to(memory_format=layout(changed)), decision


def _row(network: fx.GraphModule, data: Data, finish) -> dict:
    """A row of the table, the test accuracy still open, of a network that nothing was done to."""
    loss, accuracy = evaluate(network, data)
    counts, shipped = count(network, data), finish(network)
    row = {"removed": 0, "layer": "", "off": None, "error": None, "val_loss": loss}
    row |= {"val_before": accuracy, "val": accuracy, "test": None, **counts}
    row["macs_cut"] = (counts if shipped is network else count(shipped, data))["macs"]
    return row | {"epochs": 0.0, "seconds": 0.0, "images_per_s": None}


def removals(rows: list[dict]) -> list[dict]:
    """A row for each stage that removed something; what others cost is added to the next one."""
    kept, epochs, seconds = rows[:1], 0.0, 0.0
    for row in rows[1:]:
        epochs, seconds = epochs + row["epochs"], seconds + row["seconds"]
        if row["layer"]:
            kept = [*kept, row | {"epochs": epochs, "seconds": seconds}]
            epochs = seconds = 0.0
    return kept
