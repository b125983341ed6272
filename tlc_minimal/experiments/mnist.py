"""Lesson 04's records: a plain chain of convolutions on MNIST, against chance."""

from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..collapse import Run, collapse
from ..data import Data
from ..measure import compare, first_images, usual_batches
from ..merge import merge
from ..models import simple_cnn
from ..train import best_device
from .controls import scores
from .pieces import Piece, trained

PROFILES = {  # width, epochs of the dense network, epochs of tuning per removal, images, images/s
    "smoke": (4, 1, 0.5, 300, 3_000),
    "laptop": (8, 2, 0.5, None, 6_000),
    "paper": (16, 10, 2, None, 60_000),
}
METHODS = (("tlc", "on_off_affine"), ("tlc", "on_off"), ("random", "on_off_affine"))
METHODS += (("spare", "on_off_affine"),)
SEEDS = range(6)  # what spare does was found on the first three
REMOVE = 5


def plan(profile: str) -> list[Piece]:
    """A dense network and four collapses a seed, then the clock."""
    width, dense, each, images, speed = PROFILES[profile]
    start, pieces = f"mnist_w{width}", []
    minutes = [(images or 54_000) * n / speed / 60 for n in (dense, 2 * REMOVE * each)]
    shared = {"study": "mnist", "width": width, "dense_epochs": dense}
    for seed in SEEDS:
        what, config = f"{start}_dense_seed{seed}", shared | {"method": "dense"}
        pieces.append(Piece(what, "mnist", seed, config, _dense, minutes[0], images))
        for rank, rule in METHODS:
            config = shared | {"rank": rank, "rule": rule, "method": f"{rank}, {rule}"}
            config |= {"epochs_each": each, "remove": REMOVE}
            what = f"{start}_{rank}_{rule}_seed{seed}"
            pieces.append(Piece(what, "mnist", seed, config, _collapse, minutes[1], images))
    timed = [p for p in pieces if p.run is _collapse and p.seed == 0]
    clock = (shared | {"method": "clock"}, partial(_clock, timed), 1, images)
    return [*pieces, Piece(f"{start}_clock", "mnist", 0, *clock)]


def _dense(piece: Piece, data: Data, out: Path):
    model = _parent(piece, data, out)
    return [{"removed": 0} | scores(model, data)], piece.config["dense_epochs"]


def _collapse(piece: Piece, data: Data, out: Path):
    run = _run(piece, data, out)
    return run.table.to_dict("records"), float(run.table["epochs"].sum())


def _clock(timed: list[Piece], piece: Piece, data: Data, out: Path):
    """Each network in two, and merged as the clock says for each batch size that is measured."""
    models, batches = {"dense": _parent(piece, data, out)}, usual_batches(best_device())
    for collapsed in timed:
        linear = _run(collapsed, data, out).linear.eval()
        models[f"{collapsed.what}, in two"] = linear.to(memory_format=torch.channels_last)
        for batch in batches:
            x = first_images(data, batch, best_device())
            models[f"{collapsed.what}, merged for {batch}"] = merge(linear, x)
    return compare(models, data, batches).reset_index(names="network").to_dict("records"), 0.0


def _run(piece: Piece, data: Data, out: Path) -> Run:
    """The collapse of a piece; what its folder already holds is not made again."""
    c = piece.config
    return collapse(
        _parent(piece, data, out), data, c["remove"], c["remove"] * c["epochs_each"], "one_by_one",
        piece.seed, out / piece.what, resume=True, rank=c["rank"], rule=c["rule"],
    )  # fmt: skip


def _parent(piece: Piece, data: Data, out: Path) -> nn.Module:
    """The dense network of a seed, trained once in ``out``."""
    c = piece.config
    path = out / f"mnist_w{c['width']}_dense_seed{piece.seed}.safetensors"
    build = partial(simple_cnn, len(data.classes), c["width"])
    return trained(path, build, data, c["dense_epochs"], piece.seed)
