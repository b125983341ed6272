"""The recorded experiments: pieces, each one JSON record; a rerun does what is missing."""

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .collapse import collapse, load_run
from .data import Data, load_data
from .measure import compare, count
from .merge import merge
from .models import resnet18, simple_cnn
from .results import FOLDER, record
from .train import best_device, evaluate, fit

PROFILES = {  # width, epochs of the dense network, epochs of tuning per removal
    "smoke": {"cifar10": (4, 1, 0.5), "mnist": (4, 1, 0.5), "images": 600},
    "laptop": {"cifar10": (16, 12, 0.5), "mnist": (8, 2, 0.5), "images": None},
    "paper": {"cifar10": (64, 60, 8), "mnist": (16, 10, 2), "images": None},
}
METHODS = (("tlc", "on_off_affine"), ("tlc", "on_off"), ("random", "on_off_affine"))
SEEDS = {"cifar10": (0,), "mnist": (0, 1, 2)}
REMOVE = {"cifar10": 12, "mnist": 5}
NETWORK = {"cifar10": resnet18, "mnist": simple_cnn}


@dataclass(frozen=True)
class Piece:
    """One record to be made; ``run`` returns its rows and the epochs it took."""

    what: str
    data: str
    seed: int
    config: dict
    run: Callable[[Data, Path], tuple[list[dict], float]]


def plan(profile: str) -> list[Piece]:
    """All pieces of a profile in order; ValueError for an unknown profile."""
    if profile not in PROFILES:
        raise ValueError(f"there is no profile {profile!r}; there are: {', '.join(PROFILES)}.")
    pieces = []
    for name in ("cifar10", "mnist"):
        width, dense_epochs, epochs = PROFILES[profile][name]
        for seed in SEEDS[name]:
            dense = f"{name}_w{width}_dense_seed{seed}"
            config = {"width": width, "dense_epochs": dense_epochs, "method": "dense"}
            pieces.append(Piece(dense, name, seed, config, _dense(name, width, dense_epochs, seed)))
            for rank, rule in METHODS:
                what = f"{name}_w{width}_{rank}_{rule}_seed{seed}"
                config = {"width": width, "rank": rank, "rule": rule, "epochs_each": epochs}
                config |= {"method": f"{rank}, {rule}", "remove": REMOVE[name]}
                run = _collapse(name, width, dense, what, rank, rule, epochs, seed)
                pieces.append(Piece(what, name, seed, config, run))
        runs = [f"{name}_w{width}_{rank}_{rule}_seed0" for rank, rule in METHODS]
        config = {"width": width, "method": "clock"}
        clock = _clock(name, width, f"{name}_w{width}_dense_seed0", runs)
        pieces.append(Piece(f"{name}_w{width}_clock", name, 0, config, clock))
    return pieces


def reproduce(
    profile: str,
    paths: dict[str, str],
    budget: float | None = None,
    only: str = "",
    out: str | Path = "runs/reproduce",
    folder: str | Path = FOLDER,
) -> list[Path]:
    """Run what is missing, in order, and return the new records.

    ``paths``: {"mnist": name or path of the data, "cifar10": …}. ``budget``: minutes after which no
    new piece is begun. ``only``: pieces whose name contains it. Anything interrupted is taken up
    where it was: runs live in ``out``, records in ``folder``.
    """
    pieces = [p for p in plan(profile) if only in p.what]
    missing = [p for p in pieces if not (Path(folder) / f"{p.what}.json").exists()]
    print(
        f"{len(pieces)} pieces, {len(missing)} to do: {', '.join(p.what for p in missing) or '-'}"
    )
    start, written, loaded = time.perf_counter(), [], {}
    command = "python -m tlc_minimal " + shlex.join(a for a in sys.argv[1:] if "/" not in a)
    for piece in missing:
        if budget is not None and time.perf_counter() - start > 60 * budget:
            print(f"the budget of {budget} minutes is spent; run again to go on with {piece.what}.")
            break
        if piece.data not in loaded:
            data = load_data(paths.get(piece.data, piece.data))
            images = PROFILES[profile]["images"]
            loaded[piece.data] = data.subset(images) if images else data
        data = loaded[piece.data]
        begin = time.perf_counter()
        rows, epochs = piece.run(data, Path(out))
        seconds = time.perf_counter() - begin
        written.append(
            record(
                piece.what, data, piece.config, piece.seed, rows, seconds, epochs, command, folder
            )
        )
        print(f"{written[-1].name}: {seconds:.0f} s")
    return written


def load_dense(name: str, width: int, what: str, out: str | Path, classes: int = 10) -> nn.Module:
    """The trained dense network of a piece; FileNotFoundError if it has not been trained here."""
    path = Path(out) / f"{what}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the piece {what} here first.")
    model = NETWORK[name](classes, width)
    model.load_state_dict(load_file(path))
    return model.to(best_device(), memory_format=torch.channels_last).eval()


def _dense(name: str, width: int, epochs: float, seed: int):
    def run(data: Data, out: Path):
        torch.manual_seed(seed)
        model = NETWORK[name](len(data.classes), width)
        fit(model, data, epochs, seed=seed, progress=f"dense {name}")
        out.mkdir(parents=True, exist_ok=True)
        what = f"{name}_w{width}_dense_seed{seed}"
        save_file(
            {k: v.contiguous().cpu() for k, v in model.state_dict().items()},
            out / f"{what}.safetensors",
        )
        scores = {s: evaluate(model, data, s).accuracy for s in ("val", "test")}
        return [{"removed": 0, **scores, **count(model, data)}], epochs

    return run


def _collapse(name, width, dense, what, rank, rule, epochs, seed):
    def run(data: Data, out: Path):
        model = load_dense(name, width, dense, out, len(data.classes))
        done = collapse(
            model, data, REMOVE[name], rank, rule, epochs, seed=seed, out=out / what, resume=True
        )
        return done.table.to_dict("records"), float(done.table["epochs"].sum())

    return run


def _clock(name, width, dense, runs):
    def run(data: Data, out: Path):
        model = load_dense(name, width, dense, out, len(data.classes))
        models = {"dense": model}
        for what in runs:
            linear = load_run(model, out / what, REMOVE[name]).to(memory_format=torch.channels_last)
            models[f"{what}, in two"] = linear
            models[f"{what}, merged"] = merge(linear.eval(), data.example)
        batches = (1, 1024) if best_device().type == "cuda" else (1, 128)
        table = compare(models, data, batches)
        return table.reset_index(names="network").to_dict("records"), 0.0

    return run
