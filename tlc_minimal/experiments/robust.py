"""Robustness: dense and collapsed networks in the world, and what moves the states ON and OFF."""

import copy
from functools import partial
from pathlib import Path

from torch import nn

from ..collapse import collapse
from ..data import Data
from ..lessons.robust import agreement, assess, unknown_inputs
from ..models import resnet18
from ..refuse import check_known
from ..statistics import statistics
from ..train import evaluate, fit
from .controls import scores
from .pieces import Piece, trained

SIZES = {  # of the networks that are collapsed, then of those whose training is varied
    "smoke": dict(width=4, images=400, dense=1, tune=0.1, remove=2, few=300, epochs=1),
    "laptop": dict(width=8, images=20000, dense=12, tune=0.5, remove=12, few=5000, epochs=6),
    "paper": dict(width=64, images=None, dense=60, tune=8, remove=12, few=None, epochs=30),
}
METHODS = {
    "dense": "dense",
    "tuned": "dense, tuned on",  # as many epochs and the same teacher, nothing removed
    "tlc": "tlc, on_off_affine",
    "random": "random, on_off_affine",
}
BASE = {"batch": 128, "weight_decay": 5e-4, "lr": 0.1}  # and the profile's epochs
VALUES = {
    "batch": (16, 32, 64, 128, 256, 512, 1024),
    "weight_decay": (0.0, 1e-4, 5e-4, 2e-3, 5e-3),
    "lr": (0.01, 0.03, 0.1, 0.3),
    "epochs": (1 / 6, 1 / 2, 1, 2, 4),  # times the profile's
    "seed": (0, 1, 2, 3, 4),
}


def plan(profile: str) -> list[Piece]:
    """All pieces of the study; ValueError for an unknown profile."""
    c, pieces = sizes(profile), []
    seeds, width = (0,) if profile == "smoke" else (0, 1, 2), c["width"]
    shared = {"study": "robust", "width": width}
    minutes = {"dense": 1.5, "tuned": 1, "tlc": 1.2, "random": 1}
    scale = {"smoke": 0.1, "laptop": 1, "paper": 8}[profile]
    for seed in seeds:
        for name, method in METHODS.items():
            config = shared | {"method": method, "network": name, "dense_epochs": c["dense"]}
            if name != "dense":
                config |= {"tune_epochs": c["tune"], "removals": c["remove"]}
            what = f"robust_w{width}_{name}_seed{seed}"
            about = (config, _network, scale * minutes[name], c["images"])
            pieces.append(Piece(what, "cifar10", seed, *about))
    for factor in VALUES:
        for seed in seeds if factor != "seed" else (0,):
            config = shared | {"method": "sensitivity", "profile": profile, "varied": factor}
            config |= BASE | {"base_epochs": c["epochs"]}
            what = f"robust_w{width}_{factor}_seed{seed}"
            nets = len(values(profile, factor))
            pieces.append(
                Piece(what, "cifar10", seed, config, _vary, 0.15 * scale * nets, c["few"])
            )
    return pieces


def sizes(profile: str) -> dict:
    """Widths, images and epochs of a profile; ValueError if there is no such profile."""
    check_known("profile", profile, SIZES)
    return SIZES[profile]


def values(profile: str, factor: str) -> tuple[float, ...]:
    """What a factor is set to, one after the other, while all others keep their base value."""
    times = sizes(profile)["epochs"] if factor == "epochs" else None
    return tuple(times * v for v in VALUES[factor]) if times else VALUES[factor]


def _network(piece: Piece, data: Data, out: Path):
    """One network on the clean, the corrupted and the unknown."""
    c, name = piece.config, piece.config["network"]
    dense = _trained(out, data, c["width"], piece.seed, epochs=c["dense_epochs"])
    model, epochs, removed = dense, c["dense_epochs"], 0
    if name != "dense":
        epochs = c["tune_epochs"] * c["removals"]
    if name == "tuned":
        model = copy.deepcopy(dense)
        fit(model, data, epochs, 0.02, teacher=dense, seed=1000 * piece.seed, progress=piece.what)
    elif name != "dense":
        removed, how = c["removals"], (epochs, "one_by_one", piece.seed, out / piece.what)
        model = collapse(dense, data, removed, *how, resume=True, rank=name).linear.eval()
    table = assess({name: model}, data, unknown_inputs(data)).drop(columns="model")
    rows = [{k: v for k, v in row.items() if v == v} for row in table.to_dict("records")]  # no NaN
    rows[0] |= scores(model, data, ["val"])
    return [{"removed": removed, **row} for row in rows], epochs


def _vary(piece: Piece, data: Data, out: Path):
    """The states of networks that differ from the base in one factor: a row a value and layer."""
    c, factor = piece.config, piece.config["varied"]
    usual = {k: c[k] for k in BASE} | {"epochs": c["base_epochs"], "seed": piece.seed}
    base = statistics(_trained(out, data, c["width"], **usual), data)
    rows, epochs = [], 0.0
    for value in values(c["profile"], factor):
        how = usual | {factor: value}
        model = _trained(out, data, c["width"], **how)
        epochs += how["epochs"]
        found = statistics(model, data)
        table = 100 * agreement(found, base).drop(columns="off_other")
        accuracies = {split: evaluate(model, data, split).accuracy for split in ("val", "test")}
        for layer, row in table.iterrows():
            row = row.to_dict() | {"entropy": float(found[layer].entropy)} | accuracies
            rows.append({"factor": factor, "value": value, "layer": layer, **row})
    return rows, epochs


def _trained(out: Path, data: Data, width: int, seed: int, **how) -> nn.Module:
    """A ResNet-18 trained with ``fit(…, seed=seed, **how)``; loaded if it was trained before."""
    name = "_".join(f"{k}{v:g}" for k, v in sorted(how.items()))
    path = out / "robust" / f"{data.name}{data.train.size}_w{width}_{name}_seed{seed}.safetensors"
    return trained(path, partial(resnet18, len(data.classes), width), data, seed=seed, **how)
