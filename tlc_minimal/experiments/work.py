"""What the pieces of the headline do: train, collapse, train from scratch, and race. Each is called
with its piece, the data and the folder where runs live, and gives its rows and its epochs."""

import time
from pathlib import Path
from unittest.mock import patch

import torch

from ..collapse import Run, collapse
from ..data import Data
from ..measure import count, first_images, latency, usual_batches
from ..merge import merge
from ..models import resnet18
from ..stages import METHODS
from ..train import best_device
from .controls import (
    NARROW,
    dense_network,
    reset,
    scores,
    seen,
    shown,
    train,
    trials,
    tuned_on,
    widest,
)  # fmt: skip
from .pieces import Piece

NARROWEST = "the narrowest ResNet-18"  # what depth alone costs
AS_FAST = "the widest ResNet-18 as fast"


def dense(piece: Piece, data: Data, out: Path):
    fresh, start = not list(out.glob(f"{piece.what}.s*")), time.perf_counter()
    model, epochs = dense_network(piece, data, out), piece.config["dense_epochs"]
    seconds = time.perf_counter() - start
    row = {"removed": 0} | scores(model, data)
    row |= {"images_per_s": shown(data, epochs) / seconds} if fresh else {}
    return [row], epochs


def in_float32(piece: Piece, data: Data, out: Path):
    with patch("tlc_minimal.train.precision", return_value=torch.float32):  # fit has no such option
        return dense(piece, data, out)


def collapsed(piece: Piece, data: Data, out: Path):
    return run_of(piece, data, out).table.to_dict("records"), piece.config["epochs"]


def run_of(piece: Piece, data: Data, out: Path) -> Run:
    """A piece's collapse, taken up where it was."""
    c = piece.config
    return collapse(
        dense_network(piece, data, out), seen(piece, data), c["remove"], c["epochs"], c["how"],
        piece.seed, out / piece.what, resume=True, **{"lr": c["lr"]} | c["options"],
    )  # fmt: skip


def longer(piece: Piece, data: Data, out: Path):
    return tuned_on(piece, dense_network(piece, data, out), data, out, piece.config["lr"])


def from_scratch(like: Piece, control: str, piece: Piece, data: Data, out: Path):
    """A network as large as what the piece ``like`` makes, from scratch; taught by the dense one,
    unless the control's name says otherwise."""
    small, dense = run_of(like, data, out).linear, dense_network(piece, data, out)
    teacher = None if "without a teacher" in piece.config["method"] else dense
    torch.manual_seed(piece.seed)
    depth = {"narrow": 18, "shallow": 10}.get(control)
    model = widest(small, data, depth) if depth else reset(small)
    left, all_of_them = (count(network, data)["activations"] for network in (small, dense))
    return train(piece, model, teacher, all_of_them - left, data, out, piece.config["lr"])


def untuned(like: Piece, piece: Piece, data: Data, out: Path):
    """The activations that the piece ``like`` takes out, by every rule, and by projections of all
    kinds: what is left before any tuning."""
    names = run_of(like, data, out).table["layer"].iloc[-1].split(", ")
    return trials(dense_network(piece, data, out), names, data, piece.seed), 0.0


def clock(like: Piece, piece: Piece, data: Data, out: Path):
    """Milliseconds of the network that the piece ``like`` made, merged for each batch that is
    measured, where that is faster and wherever it can be, in one race with the dense network, the
    ResNet-18 of as many MACs, the narrowest of all, and the widest that is no slower than ours, if
    there is one (whatever the weights: the time is the same)."""
    model, device, run = dense_network(piece, data, out), best_device(), run_of(like, data, out)
    linear, rows = METHODS[like.config["how"]].finish(run.linear).eval(), []
    make = lambda width: resnet18(len(data.classes), width).to(device).eval()
    fresh = {width: make(width) for width in range(1, piece.config["width"])}
    others = {NARROW: widest(linear, data).to(device).eval(), NARROWEST: fresh[1]}
    for batch in usual_batches(device):
        x = first_images(data, batch, device)
        of, everywhere = piece.config["of"], merge(linear, x, keep="all")
        ours = {of: merge(linear, x), f"{of}, merged wherever it can be": everywhere}
        speed = latency({of: ours[of]} | fresh, x)["speedup"]
        as_fast = [(AS_FAST, fresh[width]) for width in fresh if speed[width] >= 1]
        networks = {"dense": model} | ours | others | dict(as_fast[-1:])
        times = latency(networks, x).to_dict("records")
        for (network, timed), ms in zip(networks.items(), times, strict=True):
            row = {"network": network, "batch": batch, "threads": torch.get_num_threads()}
            row["removed"] = int(run.table["removed"].iloc[-1]) if network in ours else 0
            rows.append(row | count(timed, data) | ms)
    return rows, 0.0
