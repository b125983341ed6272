"""The recorded experiments: pieces, each one JSON record; a rerun does what is missing."""

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from .collapse import collapse, load_run
from .data import Data, load_data
from .measure import compare, count
from .merge import merge
from .models import resnet18, save_weights, simple_cnn
from .results import FOLDER, record
from .train import best_device, evaluate, fit
from .train import profile as default_profile

PROFILES = {  # width, epochs of the dense network, epochs of tuning per removal
    "smoke": {"cifar10": (4, 1, 0.5), "mnist": (4, 1, 0.5), "images": 600},
    "laptop": {"cifar10": (16, 12, 0.5), "mnist": (8, 2, 0.5), "images": None},
    "paper": {"cifar10": (64, 60, 8), "mnist": (16, 10, 2), "images": None},
}
METHODS = (("tlc", "on_off_affine"), ("tlc", "on_off"), ("random", "on_off_affine"))
SEEDS = {"cifar10": (0, 1), "mnist": (0, 1, 2)}
REMOVE = {"cifar10": 12, "mnist": 5}
NETWORK = {"cifar10": resnet18, "mnist": simple_cnn}


class Piece(NamedTuple):
    """One record to be made; ``run(piece, data, out)`` returns its rows and the epochs it took."""

    what: str
    data: str
    seed: int
    config: dict
    run: Callable


def plan(profile: str) -> list[Piece]:
    """All pieces of a profile in order; ValueError for an unknown profile."""
    if profile not in PROFILES:
        raise ValueError(f"there is no profile {profile!r}; there are: {', '.join(PROFILES)}.")
    pieces = []
    for name in ("cifar10", "mnist"):
        width, dense_epochs, epochs = PROFILES[profile][name]
        start = f"{name}_w{width}"
        for seed in SEEDS[name]:
            config = {"width": width, "dense_epochs": dense_epochs, "method": "dense"}
            pieces.append(Piece(f"{start}_dense_seed{seed}", name, seed, config, _dense))
            for rank, rule in METHODS:
                config = {"width": width, "rank": rank, "rule": rule, "epochs_each": epochs}
                config |= {"method": f"{rank}, {rule}", "remove": REMOVE[name]}
                what = f"{start}_{rank}_{rule}_seed{seed}"
                pieces.append(Piece(what, name, seed, config, _collapse))
        config = {"width": width, "method": "clock"}
        pieces.append(Piece(f"{start}_clock", name, 0, config, _clock))
    return pieces


def reproduce(
    profile: str = "", data: str = "cifar10", mnist: str = "mnist", budget: float | None = None,
    only: str = "", out: Path = Path("runs/reproduce"), folder: Path = FOLDER,
) -> list[Path]:  # fmt: skip
    """Make the recorded results again; whatever is already recorded is left as it is.

    Profile: smoke, laptop or paper. Data and mnist: where CIFAR-10 and MNIST are (folders of images
    will do). Budget: minutes after which no new piece begins. Only: pieces whose name contains it.
    Out: where runs live, and what was interrupted is taken up. Folder: where the records go.
    """
    profile, paths = profile or default_profile(), {"cifar10": data, "mnist": mnist}
    pieces = [p for p in plan(profile) if only in p.what]
    missing = [p for p in pieces if not (folder / f"{p.what}.json").exists()]
    names = ", ".join(p.what for p in missing)
    print(f"{len(pieces)} pieces, {len(missing)} to do: {names or '-'}")
    start, written = time.perf_counter(), []
    command = "python -m tlc_minimal " + shlex.join(
        os.path.relpath(a) if os.path.isabs(a) else a for a in sys.argv[1:]
    )
    for piece in missing:
        if budget is not None and time.perf_counter() - start > 60 * budget:
            print(f"the budget of {budget} minutes is spent; run again to go on with {piece.what}.")
            break
        images, few = load_data(paths[piece.data]), PROFILES[profile]["images"]
        images = images.subset(few) if few else images
        begin = time.perf_counter()
        rows, epochs = piece.run(piece, images, out)
        seconds = time.perf_counter() - begin
        about = (piece.what, images, piece.config, piece.seed)
        written.append(record(*about, rows, seconds, epochs, command, folder))
        print(f"{written[-1].name}: {seconds:.0f} s")
    return written


def _dense(piece: Piece, data: Data, out: Path):
    torch.manual_seed(piece.seed)
    model = NETWORK[piece.data](len(data.classes), piece.config["width"])
    epochs = piece.config["dense_epochs"]
    fit(model, data, epochs, seed=piece.seed, progress=f"dense {piece.data}")
    save_weights(model, out / f"{piece.what}.safetensors")
    scores = {s: evaluate(model, data, s).accuracy for s in ("val", "test")}
    return [{"removed": 0, **scores, **count(model, data)}], epochs


def _collapse(piece: Piece, data: Data, out: Path):
    model, folder, c = _trained(piece, data, out), out / piece.what, piece.config
    how = (c["remove"], c["rank"], c["rule"], c["epochs_each"])
    run = collapse(model, data, *how, seed=piece.seed, out=folder, resume=True)
    return run.table.to_dict("records"), float(run.table["epochs"].sum())


def _clock(piece: Piece, data: Data, out: Path):
    """Each network in two, and merged as the clock says for each batch size that is measured."""
    model = _trained(piece, data, out)
    models = {"dense": model}
    batches = (1, 1024) if best_device().type == "cuda" else (1, 128)
    for rank, rule in METHODS:
        what = f"{piece.data}_w{piece.config['width']}_{rank}_{rule}_seed{piece.seed}"
        linear = load_run(model, out / what, REMOVE[piece.data]).eval()
        models[f"{what}, in two"] = linear.to(memory_format=torch.channels_last)
        for batch in batches:
            x = data.normalize(data.train.images[:batch])
            models[f"{what}, merged for {batch}"] = merge(linear, x)
    table = compare(models, data, batches).reset_index(names="network")
    return table.to_dict("records"), 0.0


def _trained(piece: Piece, data: Data, out: Path) -> nn.Module:
    """The dense network that a piece starts from; FileNotFoundError if it was not trained here."""
    what = f"{piece.data}_w{piece.config['width']}_dense_seed{piece.seed}"
    path = out / f"{what}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the piece {what} here first.")
    model = NETWORK[piece.data](len(data.classes), piece.config["width"])
    model.load_state_dict(load_file(path))
    return model.to(best_device(), memory_format=torch.channels_last).eval()
