"""Lesson 07's records: networks without batch norm, and other architectures with one.

Every network is trained from scratch, then collapsed by ``tlc`` and by chance with the same rule,
by ``tlc`` with the other rule, and by projection; tuned on for as long, with nothing removed; and
one of the projected shape is trained from scratch for all these epochs. Records say what merged
networks cost and how fast they are, halfway and at the end, each in a race with the dense one. The
text, the transformers and the network without any norm come first.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torchvision.models import VGG, mobilenet_v2
from torchvision.models.vgg import make_layers

from ..collapse import collapse, load_run
from ..data import Data
from ..lessons.transformers import TextEncoder, load_text, swin, vit
from ..measure import count, first_images, latency, usual_batches
from ..merge import merge
from ..models import BasicBlock, simple_cnn
from ..train import best_device
from .bench import mlps
from .controls import SHAPE, reset, train, tuned_on
from .pieces import Piece, trained


class Network(NamedTuple):
    """How one network is built and treated."""

    build: Callable[[Data, int], nn.Module]  # of the data and a width
    width: int  # at laptop size
    rules: tuple[str, str]  # by tlc and by chance; and by tlc only
    keep: str  # how it is merged
    remove: int  # activations
    lr: float
    speed: float  # inputs a second in training on one quiet core, for the plan
    data: str | Callable[[], Data] = "cifar10"
    tune: float = 0.02  # the learning rate of tuning
    projected: int | None = None  # activations that go with a projection; None: half the MACs go
    longer: int = 1  # times the profile's epochs, in batches of ``batch``
    batch: int = 128


class Size(NamedTuple):
    """How large a profile runs everything; ``scale`` multiplies the widths."""

    images: int | None
    dense: float  # epochs
    each: float  # epochs of tuning after each removal
    seeds: tuple[int, ...]
    others: tuple[int, ...]  # the seeds of the networks with batch norm
    most: int  # removals, at most
    scale: float
    speed: float  # of this machine, in units of one core


def text_encoder(data: Data, width: int) -> TextEncoder:
    """Two blocks; the sizes that the text asks for."""
    return TextEncoder(len(data.words), data.train.images.shape[1], len(data.classes), width)


def vgg(data: Data, width: int, convolutions: tuple[int, ...], norm: bool) -> VGG:
    """torchvision's VGG with ``width`` channels where it has 64, and one linear layer at its end
    (torchvision fixes three that are far larger than all the rest)."""
    channels, layers = [width * c for c in (1, 2, 4, 8, 8)], []
    for c, repeats in zip(channels, convolutions, strict=True):
        layers += [c] * repeats + ["M"]
    model = VGG(make_layers(layers, batch_norm=norm))
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Linear(channels[-1], len(data.classes))
    return model


def resnet34(data: Data, width: int) -> nn.Sequential:
    """ResNet-34 (33 activations) of the course's blocks, with the paper's stem."""
    layers = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [nn.MaxPool2d(3, 2, 1)]
    before = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(BasicBlock(before, width * 2**stage, stride))
            before = width * 2**stage
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, len(data.classes)))
    return nn.Sequential(*layers, *head)


def mobilenet(data: Data, width: int) -> nn.Module:
    """torchvision's MobileNetV2, ``width`` percent wide, for images of 32x32: its first convolution
    does not halve them."""
    model = mobilenet_v2(num_classes=len(data.classes), width_mult=width / 100)
    model.features[0][0].stride = (1, 1)
    return model


ON_DIGITS = {"data": "digits", "projected": 6, "longer": 4, "batch": 32}
# Of an MLP one matrix is left, whether its channels were cut before or not: cutting only costs.
# Between convolutions cutting is what pays, and merging is for the clock to decide.
MLP, CONV = (("affine", "on_off_affine"), "all"), (("on_off_affine", "affine"), "fastest")
WITHOUT_NORM = {
    "text": Network(text_encoder, 48, *MLP, 2, 0.05, 1200, load_text, projected=2),
    # A vision transformer learns little from a few photographs, and then has nothing to lose.
    "vit": Network(lambda d, w: vit(len(d.classes), w), 48, *MLP, 6, 0.05, 350, **ON_DIGITS),
    # Without any norm 0.02 breaks even the dense network in the first steps of a short tuning.
    "vgg11": Network(
        lambda d, w: vgg(d, w, (1, 1, 2, 2, 2), False), 16, *CONV, 6, 0.02, 2000, tune=0.004
    ),
    "swin": Network(lambda d, w: swin(len(d.classes), w), 24, *MLP, 6, 0.05, 700, **ON_DIGITS),
}
OTHERS = {
    "simple_cnn": Network(lambda d, w: simple_cnn(len(d.classes), w), 16, *CONV, 5, 0.1, 2000),
    "resnet34": Network(resnet34, 8, *CONV, 16, 0.1, 1000),
    "vgg16_bn": Network(lambda d, w: vgg(d, w, (2, 2, 3, 3, 3), True), 8, *CONV, 9, 0.1, 1500),
    "mobilenet_v2": Network(mobilenet, 25, *CONV, 12, 0.1, 500),
}
NETWORKS = WITHOUT_NORM | OTHERS
PROFILES = {
    "smoke": Size(150, 0.5, 0.3, (0,), (0,), 2, 0.5, 2),
    "laptop": Size(5000, 10, 0.5, (0, 1, 2), (0, 1), 99, 1, 2),
    "paper": Size(None, 60, 5, (0, 1, 2), (0, 1, 2), 99, 4, 100),
}


def plan(profile: str) -> list[Piece]:
    """The two sides of every comparison; the clock on MLPs of several widths; the other rule."""
    size, pieces = PROFILES[profile], []
    for seeds, group in ((size.seeds, WITHOUT_NORM), (size.others, OTHERS)):
        pieces += [p for name in group for seed in seeds for p in _collapses(profile, name, seed)]
    main = lambda config: ("none", NETWORKS[config["network"]].rules[0])
    compared = [p for p in pieces if p.config["rule"] in main(p.config)]
    config = {"study": "beyond", "width": 0, "method": "clock", "tokens": 64}
    clock = Piece("beyond_mlp_clock", load_text, 0, config, mlps, 0.5)
    return [*compared, clock, *(p for p in pieces if p not in compared)]


def _collapses(profile: str, name: str, seed: int) -> list[Piece]:
    network, size = NETWORKS[name], PROFILES[profile]
    width, remove = round(network.width * size.scale), min(network.remove, size.most)
    data = "digits" if profile == "smoke" and network.data == "cifar10" else network.data
    images = size.images if data == "cifar10" or profile == "smoke" else None
    dense, each = network.longer * size.dense, network.longer * size.each
    (first, other), pieces = network.rules, []
    for rank, rule in (("tlc", first), ("random", first), ("tlc", other)):
        config = {"study": "beyond", "network": name, "width": width, "method": f"{rank}, {rule}"}
        config |= {"rank": rank, "rule": rule, "remove": remove, "images": images}
        config |= {"dense_epochs": dense, "epochs_each": each, "lr": network.lr}
        config |= {"tune_lr": network.tune, "batch": network.batch}
        epochs = dense / 3 + 1.5 * remove * each  # tuning asks the teacher, too
        length = images or (1_221 if data == "digits" else 7_000)
        minutes = epochs * length / network.speed / size.speed / 60
        what = f"beyond_{name}_{rank}_{rule}_seed{seed}"
        pieces.append(Piece(what, data, seed, config, _collapse, minutes, images))
    # Of an MLP a matrix is left; between convolutions the multiplications are the target.
    most = min(network.projected or 0, size.most)
    target = {"remove": most} if most else {"macs": 0.5}
    config = {k: v for k, v in config.items() if k not in ("rank", "remove")}
    config |= {"method": "projected", "rule": "project", "epochs": remove * each, **target}
    what = f"beyond_{name}_project_seed{seed}"
    like = Piece(what, data, seed, config, _project, minutes, images)
    fresh = config | {"method": SHAPE, "rule": "none", "epochs": dense + remove * each}
    what, run = what.replace("project", "scratch"), partial(_from_scratch, like)
    pieces += [like, Piece(what, data, seed, fresh, run, minutes, images)]
    config = {k: v for k, v in (config | {"rule": "none"}).items() if k not in target}
    what, config = f"beyond_{name}_tuned_on_seed{seed}", config | {"method": "tuned on"}
    on = Piece(what, data, seed, config, _tuned_on, minutes / 3, images)
    return [*pieces, on, _at_larger_rate(like), _at_larger_rate(on)]


def _at_larger_rate(usual: Piece) -> Piece:
    """Tuned at the rate that training from scratch has, lest the rate decide who is ahead."""
    method = f"{usual.config['method']}, at the rate of those from scratch"
    config = usual.config | {"method": method, "tune_lr": usual.config["lr"]}
    return usual._replace(what=usual.what.replace("_seed", "_larger_rate_seed"), config=config)


def _collapse(piece: Piece, data: Data, out: Path):
    model, folder, c = dense_of(piece, data, out), out / piece.what, piece.config
    how = {"rank": c["rank"], "rule": c["rule"], "lr": c["tune_lr"], "batch": c["batch"]}
    run = collapse(
        model, data, c["remove"], c["remove"] * c["epochs_each"], "one_by_one", piece.seed, folder,
        resume=True, progress=False, **how,
    )  # fmt: skip
    rows, keep = run.table.to_dict("records"), NETWORKS[c["network"]].keep
    stops = sorted({len(rows) // 2, len(rows) - 1})
    merged = {i: merge(load_run(model, folder, i).eval(), data, keep) for i in stops}
    return _with_clock(rows, model, merged, data), float(run.table["epochs"].sum())


def _tuned_on(piece: Piece, data: Data, out: Path):
    c, dense = piece.config, dense_of(piece, data, out)
    return tuned_on(piece, dense, data, out, c["tune_lr"], c["batch"])


def _projected(piece: Piece, data: Data, out: Path):
    model, folder, c = dense_of(piece, data, out), out / piece.what, piece.config
    how = {k: c[k] for k in ("remove", "macs") if k in c}
    return model, collapse(
        model, data, epochs=c["epochs"], method="project", seed=piece.seed, out=folder, resume=True,
        lr=c["tune_lr"], batch=c["batch"], progress=False, **how,
    )  # fmt: skip


def _project(piece: Piece, data: Data, out: Path):
    model, run = _projected(piece, data, out)
    rows = _with_clock(run.table.to_dict("records"), model, {1: run.model}, data)
    return rows, piece.config["epochs"]


def _from_scratch(like: Piece, piece: Piece, data: Data, out: Path):
    """A network of the shape that the piece ``like`` makes, taught by the dense one."""
    (dense, run), c = _projected(like, data, out), piece.config
    torch.manual_seed(piece.seed)
    model = reset(run.linear, NETWORKS[c["network"]].build(data, c["width"]))
    removed = int(run.table["removed"].iloc[-1])
    return train(piece, model, dense, removed, data, out, c["lr"], c["batch"])


def _with_clock(rows: list[dict], model: nn.Module, merged: dict[int, nn.Module], data: Data):
    """Rows of a table, some with counts and milliseconds of their merged networks."""
    for i, network in merged.items():
        rows[i] |= {f"{k}_merged": v for k, v in count(network, data).items()}
    for batch in usual_batches(best_device()):
        x = first_images(data, batch, best_device())
        for i, timed in latency({"dense": model, **merged}, x).drop("dense").iterrows():
            rows[i] |= {f"{k}_{batch}": float(v) for k, v in timed.items()}
    return rows


def dense_of(piece: Piece, data: Data, out: Path) -> nn.Module:
    """The trained network that the pieces of one network and seed start from."""
    c = piece.config
    size = f"w{c['width']}_{c['dense_epochs']}x{data.train.size}_seed{piece.seed}"
    path = out / f"beyond_{c['network']}_{size}.safetensors"
    build = partial(NETWORKS[c["network"]].build, data, c["width"])
    how = {"lr": c["lr"], "batch": c["batch"]}
    return trained(path, build, data, c["dense_epochs"], piece.seed, **how)
