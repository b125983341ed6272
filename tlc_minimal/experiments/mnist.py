"""Lesson 04's records: a plain chain of convolutions on MNIST, against chance."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from ..collapse import collapse, load_run
from ..data import Data
from ..measure import compare, count, first_images, usual_batches
from ..merge import merge
from ..models import save_weights, simple_cnn
from ..train import best_device, evaluate, fit
from .pieces import Piece

PROFILES = {  # width, epochs of the dense network, epochs of tuning per removal, images, images/s
    "smoke": (4, 1, 0.5, 300, 3_000),
    "laptop": (8, 2, 0.5, None, 6_000),
    "paper": (16, 10, 2, None, 60_000),
}
METHODS = (("tlc", "on_off_affine"), ("tlc", "on_off"), ("random", "on_off_affine"))
SEEDS = (0, 1, 2)
REMOVE = 5


def plan(profile: str) -> list[Piece]:
    """A dense network and three collapses a seed, then the clock."""
    width, dense, each, images, speed = PROFILES[profile]
    start, pieces = f"mnist_w{width}", []
    minutes = [(images or 54_000) * n / speed / 60 for n in (dense, 2 * REMOVE * each)]
    for seed in SEEDS:
        config = {"study": "mnist", "width": width, "dense_epochs": dense, "method": "dense"}
        what = f"{start}_dense_seed{seed}"
        pieces.append(Piece(what, "mnist", seed, config, _dense, minutes[0], images))
        for rank, rule in METHODS:
            config = {"study": "mnist", "width": width, "rank": rank, "rule": rule}
            config |= {"epochs_each": each, "method": f"{rank}, {rule}", "remove": REMOVE}
            what = f"{start}_{rank}_{rule}_seed{seed}"
            pieces.append(Piece(what, "mnist", seed, config, _collapse, minutes[1], images))
    config = {"study": "mnist", "width": width, "method": "clock"}
    pieces.append(Piece(f"{start}_clock", "mnist", 0, config, _clock, 1, images))
    return pieces


def _dense(piece: Piece, data: Data, out: Path):
    torch.manual_seed(piece.seed)
    model = simple_cnn(len(data.classes), piece.config["width"])
    epochs = piece.config["dense_epochs"]
    fit(model, data, epochs, seed=piece.seed, progress=piece.what)
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
    models, batches = {"dense": model}, usual_batches(best_device())
    for rank, rule in METHODS:
        what = f"mnist_w{piece.config['width']}_{rank}_{rule}_seed{piece.seed}"
        linear = load_run(model, out / what, REMOVE).eval()
        models[f"{what}, in two"] = linear.to(memory_format=torch.channels_last)
        for batch in batches:
            x = first_images(data, batch, best_device())
            models[f"{what}, merged for {batch}"] = merge(linear, x)
    return compare(models, data, batches).reset_index(names="network").to_dict("records"), 0.0


def _trained(piece: Piece, data: Data, out: Path) -> nn.Module:
    """The dense network that a piece starts from; FileNotFoundError if it was not trained here."""
    what = f"mnist_w{piece.config['width']}_dense_seed{piece.seed}"
    path = out / f"{what}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the piece {what} here first.")
    model = simple_cnn(len(data.classes), piece.config["width"])
    model.load_state_dict(load_file(path))
    return model.to(best_device(), memory_format=torch.channels_last).eval()
