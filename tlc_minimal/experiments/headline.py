"""The headline: how many of its 17 activations a ResNet-18 loses on CIFAR-10, and at what price.

In order of importance: throughput, the curve of accuracy against removals, the same networks tuned
to the end, the published algorithm, one choice changed at a time, the strong stem, the clock.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..collapse import collapse, load_run
from ..data import Data
from ..measure import count, first_images, latency, usual_batches
from ..merge import merge
from ..models import resnet18, save_weights
from ..train import best_device, evaluate, fit
from .pieces import Piece, trained
from .throughput import throughput


class Size(NamedTuple):
    """How large a profile runs everything."""

    width: int
    images: int | None
    dense: float  # epochs
    each: float  # epochs of tuning after each removal
    finish: float  # epochs of tuning to the end
    seeds: tuple[int, ...]
    ablated: tuple[int, ...]  # the seeds of the ablation
    remove: int  # on the curve
    depths: tuple[int, ...]  # that are tuned to the end; the last but one is also the ablation's
    strong: tuple[int, int | None]  # width and images of the strong stem
    speed: float  # images a second in training, for the plan's estimates


PROFILES = {
    "smoke": Size(4, 300, 0.5, 0.34, 0.34, (0,), (0,), 3, (0, 2, 3), (4, 300), 300),
    "laptop": Size(16, None, 10, 0.5, 2, (0, 1, 2), (0, 1), 16, (0, 8, 12, 14), (8, 20_000), 1_500),
    "paper": Size(
        64, None, 60, 6, 60, (0, 1, 2), (0, 1, 2), 16, (0, 8, 12, 14), (64, None), 30_000
    ),
}
OURS = {"rank": "tlc", "rule": "on_off_affine", "distil": True}
PUBLISHED = {"rank": "reference", "rule": "published", "distil": False}
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
        for depth in s.depths:
            config = {"curve": f"{start}_curve_seed{seed}", "dense": f"{start}_dense_seed{seed}"}
            config |= {"after": depth, "finish_epochs": s.finish}
            add(f"finish{depth:02d}", seed, "ours, tuned to the end", _finish, s.finish, **config)
    for seed in s.seeds:
        add_run("reference", seed, "published algorithm, our epochs", **PUBLISHED)
    for seed in s.ablated:
        for arm, change in ARMS.items():
            name = f"ablation_{arm.replace(' ', '_')}"
            add_run(name, seed, arm, remove=s.depths[-2], **OURS | change)
    width, images = s.strong
    sizes = {"width": width, "images": images}
    add("strong_dense", 0, "dense, strong stem", _dense, s.dense, **sizes, stem="strong")
    add_run(
        "strong_curve", 0, "ours, strong stem", dense=f"headline_w{width}_strong", **sizes, **OURS
    )
    add("clock", 0, "clock", _clock, 0, curve=f"{start}_curve_seed0", dense=f"{start}_dense_seed0")
    if profile == "paper":
        add_run(
            "published",
            0,
            "published algorithm, its epochs",
            160,
            s.depths[-2],
            **PUBLISHED,
            **SCHEDULE,
        )
    return pieces


def _dense(piece: Piece, data: Data, out: Path):
    model = dense_network(piece, data, out)
    row = {"removed": 0, **_scores(model, data), **count(model, data)}
    return [row], piece.config["dense_epochs"]


def _collapse(piece: Piece, data: Data, out: Path):
    c = piece.config
    how = {k: c[k] for k in (*OURS, *SCHEDULE, "gradual", "padding") if k in c}
    options = {"epochs": c["epochs_each"], "seed": piece.seed, "out": out / piece.what}
    model = dense_network(piece, data, out)
    run = collapse(model, data, c["remove"], **how, **options, resume=True)
    return run.table.to_dict("records"), float(run.table["epochs"].sum())


def _finish(piece: Piece, data: Data, out: Path):
    """A network of the curve, tuned for longer: what its architecture can do."""
    c = piece.config
    model = dense_network(piece, data, out)
    tuned = load_run(model, out / c["curve"], c["after"])
    options = {"lr": 0.05, "teacher": model, "seed": piece.seed, "progress": piece.what}
    fit(tuned, data, c["finish_epochs"], **options)
    row = {"removed": c["after"], **_scores(tuned, data), **count(tuned, data)}
    save_weights(tuned, out / f"{piece.what}.safetensors")
    return [row], c["finish_epochs"]


def _clock(piece: Piece, data: Data, out: Path):
    """Milliseconds of every network of the curve, merged for each batch that is measured."""
    model, c, device = dense_network(piece, data, out), piece.config, best_device()
    run, rows = out / c["curve"], []
    steps = range(len(list(run.glob("step_*.safetensors"))))
    linear = {step: load_run(model, run, step).eval() for step in steps}
    for batch in usual_batches(device):
        x = first_images(data, batch, device)
        merged = {0: model} | {step: merge(linear[step], x) for step in steps if step}
        times = latency(merged, x).to_dict("records")
        counts = [count(network, data) for network in merged.values()]
        rows += [
            {"removed": step, "batch": batch, "threads": torch.get_num_threads()} | n | ms
            for step, n, ms in zip(merged, counts, times, strict=True)
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
