"""The headline: how many of its 17 activations a ResNet-18 loses on CIFAR-10, and at what price.

In order of importance: throughput, dense, twelve activations at once and by the published algorithm
beside the control that loses none, projected to shares of the multiplications beside networks of
that size from scratch, other numbers and choices at once, one at a time, one choice changed, the
strong stem, the clock.
"""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch

from ..collapse import TUNING, Run, collapse
from ..data import Data
from ..measure import count, first_images, latency, usual_batches
from ..merge import merge
from ..methods.published import SCHEDULE
from ..stages import METHODS
from ..train import best_device
from . import controls
from .controls import CONTROLS, FRESH_LR, dense_network, narrower, reset, scores, seen
from .pieces import Piece
from .throughput import throughput


class Size(NamedTuple):
    """How large a profile runs everything."""

    width: int
    images: int | None
    dense: float  # epochs
    each: float  # epochs of tuning for each removal
    seeds: tuple[int, ...]
    remove: int  # one at a time
    depth: int  # removals of the comparison and of the ablation
    depths: tuple[int, ...]  # others, all at once
    shares: tuple[float, ...]  # of the MACs, that projections leave
    left: float  # of the MACs, when lines and blocks are chosen for them
    strong: tuple[int, int | None]  # width and images of the strong stem
    speed: float  # images a second in training, for the plan's estimates


SHARES = (0.22, 0.28, 0.5)  # the first one as a convolution a stage, the second as all at once has
LAPTOP = Size(16, None, 10, 0.5, (0, 1, 2), 16, 12, (8, 14, 16), SHARES, 0.28, (8, 20_000), 2_500)
PROFILES = {
    "smoke": Size(4, 300, 0.5, 0.34, (0,), 3, 2, (3,), (0.5,), 0.98, (4, 300), 300),
    "laptop": LAPTOP,
    "half": LAPTOP._replace(width=32, dense=12, each=1, strong=(32, None), speed=600),
    "paper": LAPTOP._replace(width=64, dense=30, each=2.5, strong=(64, None), speed=8_000),
}
AT_ONCE = {  # what else goes all at once: how many times as long, and what is chosen otherwise
    "twice as long, all at once": (2, {}),
    "ranked again, all at once": (1, {"again": True}),
    "thrifty, all at once": (1, {"rule": "thrifty"}),
    "random ranking, all at once": (1, {"rank": "random"}),
    "spare ranking, all at once": (1, {"rank": "spare"}),
}
BLOCKS = {  # chosen for multiplications, and the control that may not drop a branch
    "blocks": "lines or blocks, all at once",
    "lines": "lines alone, all at once",
}
LONGER = "ours, projected, tuned as long as from scratch"
CLOCKED = ("ours, all at once", "thrifty, all at once", "ours, projected", "published")
ARMS = {  # one choice changed, one at a time
    "random ranking": {"rank": "random"},
    "reference ranking": {"rank": "reference"},
    "closed-form ranking": {"rank": "gaussian"},
    "entropy ranking": {"rank": "entropy"},
    "thrifty": {"rule": "thrifty"},
    "on_off": {"rule": "on_off"},
    "affine": {"rule": "affine"},
    "identity": {"rule": "identity"},
    "not distilled": {"distil": False},
    "larger learning rate": {"lr": METHODS["at_once"].tuning["lr"]},
    "padding first": {"padding": "first"},
}


def prefix(profile: str, width: int) -> str:
    """What the names of records begin with. The paper profile on a CPU has records of its own: from
    the same seed another device makes another network."""
    here = "_cpu" if profile == "paper" and best_device().type == "cpu" else ""
    return f"headline_w{width}{here}"


def plan(profile: str) -> list[Piece]:
    """All pieces of a profile in order of importance."""
    s = PROFILES[profile]
    start, pieces = prefix(profile, s.width), []

    def add(name, seed, method, run, length, width=s.width, images=s.images, **config):
        config = {"study": "headline", "width": width, "method": method} | config
        config["dense_epochs"] = s.dense
        size = images or 45_000
        passes = length * size + (config.get("remove") or 0) * size / 2  # to rank and to test
        what = f"{prefix(profile, width)}_{name}_seed{seed}"
        minutes = max(0.1, passes / s.speed / 60)
        pieces.append(Piece(what, "cifar10", seed, config, run, minutes, images))

    def collapses(name, seed, method, how="at_once", remove=s.depth, each=s.each, dense=start,
                  options=None, **sizes):  # fmt: skip
        config = {"dense": f"{dense}_dense_seed{seed}", "how": how, "remove": remove}
        config |= {"epochs": (remove or s.depth) * each, "options": options or {}}
        config["lr"] = (TUNING | METHODS[how].tuning | config["options"])["lr"]
        add(name, seed, method, _collapse, config["epochs"], **sizes, **config)

    add("throughput", 0, "throughput", throughput, 4 * s.each)
    for seed in s.seeds:
        add("dense", seed, "dense", _dense, s.dense, stem="paper")
    for seed in s.seeds:
        collapses(f"once{s.depth:02d}", seed, "ours, all at once")
        collapses("published", seed, "published", "published")
        parent, epochs = f"{start}_dense_seed{seed}", s.depth * s.each
        config = {"dense": parent, "epochs": epochs, "lr": METHODS["at_once"].tuning["lr"]}
        add("tuned_on", seed, "tuned on", _tuned_on, epochs, **config)
    for share in s.shares:
        name = f"project_{100 * share:.0f}"
        for seed in s.seeds:
            size = {"share": share, "options": {"macs": share}}
            collapses(name, seed, "ours, projected", "project", None, **size)
            like, config = pieces[-1], {"dense": f"{start}_dense_seed{seed}", "share": share}
            size["each"] = s.each + s.dense / s.depth
            collapses(f"longer_{100 * share:.0f}", seed, LONGER, "project", None, **size)
            for control, method in CONTROLS.items():
                run = partial(from_scratch, like, control)
                epochs = controls.length(control, s.dense, s.depth * s.each, share)
                about = {"epochs": epochs, "lr": FRESH_LR, **config}
                add(f"{control}_{100 * share:.0f}", seed, method, run, epochs, **about)
    for seed in s.seeds:
        for n in dict.fromkeys((s.depth, max(1, s.depth // 3), *s.depths)):
            collapses(f"project{n:02d}", seed, "ours, projected per activation", "project", n)
        like = next(p for p in pieces if p.config["method"] == "ours, projected" and p.seed == seed)
        config = {"dense": f"{start}_dense_seed{seed}", "share": like.config["share"]}
        add("untuned", seed, "untuned", partial(_untuned, like), 2, **config)
    for seed in s.seeds:
        for n in s.depths:
            collapses(f"once{n:02d}", seed, "ours, all at once", remove=n)
        for arm, (longer, options) in AT_ONCE.items():
            name = f"once_{arm.split(',')[0].replace(' ', '_')}"
            collapses(name, seed, arm, each=longer * s.each, options=options)
        for name, method in BLOCKS.items():
            options = {"macs": s.left, "constants": name == "blocks"}
            collapses(f"{name}_{100 * s.left:.0f}", seed, method, "blocks", options=options)
        options = {"set_rule": False}
        collapses("published_one", seed, "published, one by one", "published", options=options)
    for seed in s.seeds:
        collapses("curve", seed, "ours, one by one", "one_by_one", s.remove)
        add("float32", seed, "dense, in float32", _wide, s.dense, stem="paper", precision="float32")
    for seed in s.seeds:
        for arm, options in ARMS.items():
            collapses(f"ablation_{arm.replace(' ', '_')}", seed, arm, "one_by_one", options=options)
    sizes = dict(zip(("width", "images"), s.strong))
    add("strong_dense", 0, "dense, strong stem", _dense, s.dense, **sizes, stem="strong")
    strong = {"dense": f"{prefix(profile, s.strong[0])}_strong", **sizes}
    collapses("strong_curve", 0, "ours, one by one, strong stem", "one_by_one", s.remove, **strong)
    for like in [p for p in pieces if p.config["method"] in CLOCKED and p.seed == 0]:
        of = like.what.removeprefix(f"{start}_").removesuffix("_seed0")
        config = {"dense": f"{start}_dense_seed0", "of": like.config["method"]}
        of += "_gpu" * torch.cuda.is_available()
        add(f"clock_{of}", 0, "milliseconds", partial(_clock, like), 0, **config)
    if profile == "paper":
        own = {"each": 160, "options": SCHEDULE}
        collapses("published_long", 0, "published, its epochs", "published", **own)
    return pieces


def _dense(piece: Piece, data: Data, out: Path):
    fresh, start = not list(out.glob(f"{piece.what}.s*")), time.perf_counter()
    model, epochs = dense_network(piece, data, out), piece.config["dense_epochs"]
    seconds = time.perf_counter() - start
    row = {"removed": 0} | scores(model, data)
    row |= {"images_per_s": epochs * data.train.size / seconds} if fresh else {}
    return [row], epochs


def _wide(piece: Piece, data: Data, out: Path):
    with patch("tlc_minimal.train.precision", return_value=torch.float32):  # fit has no such option
        return _dense(piece, data, out)


def _collapse(piece: Piece, data: Data, out: Path):
    return _run(piece, data, out).table.to_dict("records"), piece.config["epochs"]


def _run(piece: Piece, data: Data, out: Path) -> Run:
    """A piece's collapse, taken up where it was."""
    c = piece.config
    return collapse(
        dense_network(piece, data, out), seen(piece, data), c["remove"], c["epochs"], c["how"],
        piece.seed, out / piece.what, resume=True, **{"lr": c["lr"]} | c["options"],
    )  # fmt: skip


def _tuned_on(piece: Piece, data: Data, out: Path):
    return controls.tuned_on(piece, dense_network(piece, data, out), data, out, piece.config["lr"])


def from_scratch(like: Piece, control: str, piece: Piece, data: Data, out: Path):
    """A network as large as what the piece ``like`` makes, from scratch; taught by the dense one,
    unless the control's name says otherwise."""
    small, dense = _run(like, data, out).linear, dense_network(piece, data, out)
    teacher = None if "without a teacher" in piece.config["method"] else dense
    torch.manual_seed(piece.seed)
    model = narrower(small, piece.config["width"], data) if control == "narrow" else reset(small)
    left, all_of_them = (count(network, data)["activations"] for network in (small, dense))
    return controls.train(piece, model, teacher, all_of_them - left, data, out, piece.config["lr"])


def _untuned(like: Piece, piece: Piece, data: Data, out: Path):
    """The activations that the piece ``like`` takes out, by every rule, and by projections of all
    kinds: what is left before any tuning."""
    names = _run(like, data, out).table["layer"].iloc[-1].split(", ")
    return controls.trials(dense_network(piece, data, out), names, data, piece.seed), 0.0


def _clock(like: Piece, piece: Piece, data: Data, out: Path):
    """Milliseconds of the network that the piece ``like`` made, merged for each batch that is
    measured, in one race with the dense network and the narrower ResNet-18 of as many MACs (with
    whatever weights: the time is the same)."""
    model, device, run = dense_network(piece, data, out), best_device(), _run(like, data, out)
    linear, rows = METHODS[like.config["how"]].finish(run.linear).eval(), []
    narrow = narrower(linear, piece.config["width"], data).to(device).eval()
    for batch in usual_batches(device):
        x = first_images(data, batch, device)
        networks = {
            "dense": model,
            piece.config["of"]: merge(linear, x),
            CONTROLS["narrow"]: narrow,
        }
        times = latency(networks, x).to_dict("records")
        for (network, timed), ms in zip(networks.items(), times, strict=True):
            row = {"network": network, "batch": batch, "threads": torch.get_num_threads()}
            row["removed"] = 0 if timed in (model, narrow) else int(run.table["removed"].iloc[-1])
            rows.append(row | count(timed, data) | ms)
    return rows, 0.0
