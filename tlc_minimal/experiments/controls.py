"""What a collapsed network is held against: the dense one tuned as long, networks of its size from
scratch, and other projections."""

import copy
import itertools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..data import Data, Split
from ..linearize import linearize
from ..measure import count
from ..models import resnet18
from ..project import project
from ..train import evaluate, fit, steps_of
from .pieces import Piece, trained

NARROW = "from scratch, a narrower ResNet-18"
SHALLOW = "from scratch, a ResNet-10"
SHAPE = "from scratch, the same shape"
CONTROLS = {  # networks no larger than a projected one, trained from scratch
    "scratch": SHAPE,
    "short": f"{SHAPE}, as long as the tuning",
    "alone": f"{SHAPE}, without a teacher",
    "work": f"{SHAPE}, without a teacher, for as many multiplications",
    "narrow": NARROW,
    "shallow": SHALLOW,
}
FRESH_LR = 0.2  # their learning rate


def length(control: str, dense: float, tuning: float, share: float) -> float:
    """How many epochs a control is trained: as dense training and tuning had together, or the
    tuning alone, or as many as cost what both together cost ("work"; ``share``: of the MACs)."""
    return {"short": tuning, "work": int(dense / share + tuning)}.get(control, dense + tuning)


def dense_network(piece: Piece, data: Data, out: Path) -> nn.Module:
    """The dense network that a piece starts from, of its seed and stem."""
    c = piece.config
    name = c.get("dense", piece.what)
    stem = "strong" if "_strong_" in name else "paper"
    build = partial(resnet18, len(data.classes), c["width"], stem)
    how = {"lr": c["dense_lr"]} if "dense_lr" in c else {}
    return trained(out / f"{name}.safetensors", build, data, c["dense_epochs"], piece.seed, **how)


def seen(piece: Piece, data: Data) -> Data:
    """What a piece tunes, or trains from scratch, on: the first of the training images, if its
    config has a share of them (``seen``)."""
    images = round(piece.config.get("seen", 1) * data.train.size)
    return replace(data, train=Split(*(part[:images] for part in data.train)))


def tuned_on(piece: Piece, teacher: nn.Module, data: Data, out: Path, lr: float, batch: int = 128):
    """The dense network, tuned with itself as the teacher, nothing removed: rows and epochs."""
    return train(piece, copy.deepcopy(teacher), teacher, 0, data, out, lr, batch)


def train(
    piece: Piece, model: nn.Module, teacher: nn.Module | None, removed: int, data: Data, out: Path,
    lr: float, batch: int = 128,
) -> tuple[list[dict], float]:  # fmt: skip
    """A model without ``removed`` activations, trained for the piece's epochs, or taken up where it
    was: rows and epochs."""
    epochs, state = piece.config["epochs"], out / f"{piece.what}.state"
    how = {"teacher": teacher, "seed": piece.seed, "progress": piece.what, "state": state}
    how |= piece.config.get("options", {})
    fresh, start, given = not state.exists(), time.perf_counter(), seen(piece, data)
    fit(model, given, epochs, lr, batch, **how)
    rate = shown(given, epochs, batch) / (time.perf_counter() - start)
    row = {"removed": removed, "epochs": epochs} | scores(model, data)
    return [row | ({"images_per_s": rate} if fresh else {})], epochs


def shown(data: Data, epochs: float, batch: int = 128) -> int:
    """How many images a training shows."""
    return steps_of(data, epochs, batch) * min(batch, data.train.size)


def scores(model: nn.Module, data: Data, splits=("val", "test")) -> dict[str, float]:
    """Accuracy in percent, and what the model costs."""
    accuracy = {split: evaluate(model, data, split).accuracy for split in splits}
    return accuracy | count(model, data)


def without(model: nn.Module, names: list[str], data: Data, rule: str) -> nn.Module:
    """The model without these activations, before any tuning: by a rule, or "projected"."""
    if rule == "projected":
        return project(model, names, data).model
    return linearize(model, names, data, rule)


def reset(network: nn.Module, like: nn.Module | None = None) -> nn.Module:
    """A copy with fresh weights: those of ``like``, a fresh network, wherever both have them."""
    network, there = copy.deepcopy(network), {} if like is None else like.state_dict()
    for name, module in network.named_modules():
        if hasattr(module, "reset_parameters") and f"{name}.weight" not in there:
            module.reset_parameters()
    network.load_state_dict({k: there[k] for k in network.state_dict() if k in there}, strict=False)
    return network


def widest(network: nn.Module, data: Data, layers: int = 18) -> nn.Module:
    """The widest ResNet-18 with no more MACs than ``network``, or of 10 layers: a block a stage."""
    most, fits = count(network, data)["macs"], None
    for width in itertools.count(1):
        model = resnet18(len(data.classes), width)
        if layers == 10:
            for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
                stage[1] = nn.Identity()
        if count(model, data)["macs"] > most:
            break
        fits = model
    if fits is None:
        raise ValueError(f"no ResNet-{layers} has as few as {most} MACs: project less.")
    return fits


def trials(model: nn.Module, names: list[str], data: Data, seed: int) -> list[dict]:
    """A row for every rule, and for projections of all kinds: what a model is worth without the
    activations ``names``, before any tuning."""
    rows = []
    augmented = data.augment(data.train.images[:4000], torch.Generator().manual_seed(seed))
    images = [n for n in (500, 1000, 2000, 4000, 16_000) if n < data.train.size]
    tried = [{"images": n} for n in [*images, data.train.size]]
    tried += [{"ridge": 10.0**k} for k in range(-6, 1)] + [{"kernel": k} for k in (1, 5)]
    for rule in ("identity", "on_off", "on_off_affine", "thrifty", "affine"):
        linear = linearize(model, names, data, rule)
        rows.append({"removed": len(names), "rule": rule, **scores(linear, data, ["val"])})
    for trial in [*tried, {"augmented": True}]:
        given = augmented if "augmented" in trial else data
        options = {k: v for k, v in trial.items() if k != "augmented"}
        small, table = project(model, names, given, **options)
        row = {"removed": len(names), "rule": "projected", "error": float(table["error"].mean())}
        rows.append(row | trial | scores(small, data, ["val"]))
    return rows
