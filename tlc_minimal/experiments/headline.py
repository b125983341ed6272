"""The headline: how many of its 17 activations a ResNet-18 loses on CIFAR-10, and at what price.

In order of importance: throughput, the curve of accuracy against removals one at a time, the same
numbers of them all at once, the published algorithm, one choice changed at a time, the strong stem,
the clock.
"""

import copy
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..collapse import Run, collapse
from ..data import Data
from ..measure import count, first_images, latency, usual_batches
from ..merge import merge
from ..methods.one_shot import one_shot
from ..methods.stages import Task
from ..models import resnet18
from ..train import best_device, evaluate, fit
from .pieces import Piece, trained
from .throughput import throughput


class Size(NamedTuple):
    """How large a profile runs everything."""

    width: int
    images: int | None
    dense: float  # epochs
    each: float  # epochs of tuning for each removal
    seeds: tuple[int, ...]
    ablation_seeds: tuple[int, ...]
    remove: int  # on the curve
    ablation_depth: int  # removals
    depths: tuple[int, ...]  # removed all at once
    strong: tuple[int, int | None]  # width and images of the strong stem
    speed: float  # images a second in training, for the plan's estimates


PROFILES = {
    "smoke": Size(4, 300, 0.5, 0.34, (0,), (0,), 3, 2, (2, 3), (4, 300), 300),
    "laptop": Size(16, None, 10, 0.5, (0, 1, 2), (0,), 16, 12, (8, 12, 14, 16), (8, 20_000), 2_500),
    "paper": Size(
        64, None, 60, 6, (0, 1, 2), (0, 1, 2), 16, 12, (8, 12, 14, 16), (64, None), 30_000
    ),
}
OURS = {"rank": "tlc", "rule": "on_off_affine", "distil": True}
PUBLISHED = {"rank": "reference", "rule": "published", "distil": False}
LR_AT_ONCE = 0.05  # of the one long tuning
AT_ONCE = {  # what else goes all at once, at the ablation's depth
    "twice as long, all at once": {"longer": 2},
    "ranked again, all at once": {"again": True},
    "thrifty, all at once": {"rule": "thrifty"},
    "random ranking, all at once": {"rank": "random"},
    "published ranking and rule, all at once": {"rank": "reference", "rule": "published"},
}
ARMS = {  # one choice changed at a time
    "random ranking": {"rank": "random"},
    "reference ranking": {"rank": "reference"},
    "closed-form ranking": {"rank": "gaussian"},
    "entropy ranking": {"rank": "entropy"},
    "statistics of bn2 after sums": {"rule": "published_on_off_affine"},
    "thrifty": {"rule": "thrifty"},
    "on_off": {"rule": "on_off"},
    "affine": {"rule": "affine"},
    "identity": {"rule": "identity"},
    "not distilled": {"distil": False},
    "larger learning rate": {"lr": LR_AT_ONCE},
    "gradual": {"gradual": True},
    "padding first": {"padding": "first"},
}
SCHEDULE = {"lr": 0.1, "schedule": "steps", "weight_decay": 1e-4, "smoothing": 0.0}  # the paper's


def plan(profile: str) -> list[Piece]:
    """All pieces of a profile in order of importance."""
    s = PROFILES[profile]
    start, pieces = f"headline_w{s.width}", []

    def add(name, seed, method, run, epochs, width=s.width, images=s.images, **config):
        config = {"study": "headline", "width": width, "method": method} | config
        config["dense_epochs"] = s.dense
        size = images or 45_000
        # Ranking and testing cost about half an epoch a removal.
        passes = epochs * size + config.get("remove", 0) * size / 2
        what = f"headline_w{width}_{name}_seed{seed}"
        minutes = max(0.1, passes / s.speed / 60)
        pieces.append(Piece(what, "cifar10", seed, config, run, minutes, images))

    def add_run(name, seed, method, epochs=s.each, remove=s.remove, dense=start, **config):
        config = {
            "remove": remove,
            "epochs_each": epochs,
            "dense": f"{dense}_dense_seed{seed}",
        } | config
        add(name, seed, method, _collapse, remove * epochs, **config)

    add("throughput", 0, "throughput", throughput, 4 * s.each)
    for seed in s.seeds:
        add("dense", seed, "dense", _dense, s.dense, stem="paper")
        add_run("curve", seed, "ours", **OURS)
    for seed in s.seeds:
        tuned = {"dense": f"{start}_dense_seed{seed}", "epochs_each": s.each, "lr": LR_AT_ONCE}
        tuned |= {"remove": s.ablation_depth}
        add("tuned_on", seed, "dense, tuned on", _tuned_on, _tuning(tuned), **tuned)
        arms = [(f"once{n:02d}", "ours, all at once", {"remove": n}) for n in s.depths]
        arms += [(f"once_{arm.split(',')[0]}", arm, how) for arm, how in AT_ONCE.items()]
        for name, method, change in arms:
            config = tuned | {"rank": OURS["rank"], "rule": OURS["rule"]} | change
            add(name.replace(" ", "_"), seed, method, _once, _tuning(config), **config)
    for seed in s.seeds:
        add_run("reference", seed, "published algorithm, our epochs", **PUBLISHED)
    for seed in s.ablation_seeds:
        for arm, change in ARMS.items():
            name = f"ablation_{arm.replace(' ', '_')}"
            add_run(name, seed, arm, remove=s.ablation_depth, **OURS | change)
    width, images = s.strong
    sizes = {"width": width, "images": images}
    add("strong_dense", 0, "dense, strong stem", _dense, s.dense, **sizes, stem="strong")
    add_run(
        "strong_curve", 0, "ours, strong stem", dense=f"headline_w{width}_strong", **sizes, **OURS
    )
    at_once = [p for p in pieces if p.config["method"] == "ours, all at once" and p.seed == 0]
    add("clock", 0, "clock", partial(_clock, at_once), 0, dense=f"{start}_dense_seed0")
    if profile == "paper":
        add_run(
            "published",
            0,
            "published algorithm, its epochs",
            160,
            s.ablation_depth,
            **PUBLISHED,
            **SCHEDULE,
        )
    return pieces


def _dense(piece: Piece, data: Data, out: Path):
    fresh, start = not list(out.glob(f"{piece.what}.s*")), time.perf_counter()
    model, epochs = dense_network(piece, data, out), piece.config["dense_epochs"]
    seconds = time.perf_counter() - start
    row = {"removed": 0, **_scores(model, data), **count(model, data)}
    row |= {"images_per_s": epochs * data.train.size / seconds} if fresh else {}
    return [row], epochs


def _collapse(piece: Piece, data: Data, out: Path):
    c = piece.config
    how = {k: c[k] for k in (*OURS, *SCHEDULE, "gradual", "padding") if k in c}
    options = {"epochs": c["epochs_each"], "seed": piece.seed, "out": out / piece.what}
    model = dense_network(piece, data, out)
    run = collapse(model, data, c["remove"], **how, **options, resume=True)
    return run.table.to_dict("records"), float(run.table["epochs"].sum())


def _once(piece: Piece, data: Data, out: Path):
    run = _all_at_once(piece, data, out)
    return run.table.to_dict("records"), float(run.table["epochs"].sum())


def _all_at_once(piece: Piece, data: Data, out: Path) -> Run:
    """All activations of a piece go, then comes one long tuning: see :func:`one_shot`."""
    c, model = piece.config, dense_network(piece, data, out)
    task = Task(c["remove"], _tuning(c), piece.seed, c["lr"], out / piece.what, True, True)
    return one_shot(model, data, task, c["rank"], c["rule"], c.get("again", False))


def _tuning(config: dict) -> float:
    """Epochs of the one long tuning: as many as one at a time, or ``longer`` times that."""
    return config["remove"] * config["epochs_each"] * config.get("longer", 1)


def _tuned_on(piece: Piece, data: Data, out: Path):
    """The dense network, tuned as long by the same teacher, with nothing removed."""
    c, teacher = piece.config, dense_network(piece, data, out)
    model, epochs = copy.deepcopy(teacher), _tuning(c)
    how = {"teacher": teacher, "seed": piece.seed, "progress": piece.what}
    fit(model, data, epochs, c["lr"], **how)
    return [{"removed": 0, "epochs": epochs, **_scores(model, data), **count(model, data)}], epochs


def _clock(at_once: list[Piece], piece: Piece, data: Data, out: Path):
    """Milliseconds of the networks that lost their activations at once, merged for each batch that
    is measured."""
    model, device = dense_network(piece, data, out), best_device()
    linear = {p.config["remove"]: _all_at_once(p, data, out).linear.eval() for p in at_once}
    rows = []
    for batch in usual_batches(device):
        x = first_images(data, batch, device)
        merged = {0: model} | {n: merge(network, x) for n, network in linear.items()}
        times = latency(merged, x).to_dict("records")
        counts = [count(network, data) for network in merged.values()]
        rows += [
            {"removed": n, "batch": batch, "threads": torch.get_num_threads()} | counted | ms
            for n, counted, ms in zip(merged, counts, times, strict=True)
        ]
    return rows, 0.0


def dense_network(piece: Piece, data: Data, out: Path) -> nn.Module:
    """The dense network that a piece starts from, of its seed and stem."""
    c = piece.config
    name = c.get("dense", piece.what)
    stem = "strong" if "_strong_" in name else "paper"
    build = partial(resnet18, len(data.classes), c["width"], stem)
    return trained(out / f"{name}.safetensors", build, data, c["dense_epochs"], piece.seed)


def _scores(model: nn.Module, data: Data) -> dict[str, float]:
    return {split: evaluate(model, data, split).accuracy for split in ("val", "test")}
