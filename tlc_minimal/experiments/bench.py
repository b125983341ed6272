"""The bench: what removing activations buys in milliseconds, network by network, in two pieces.

``<network>_train`` trains and collapses a network and keeps all weights (long, may be interrupted);
``<network>_clock`` races it after some removals (short, wants a quiet machine) and records that.
"""

import gc
import json
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import psutil
import torch
from torch import nn
from torchvision.models import mobilenet_v2, vgg16_bn

from ..collapse import collapse, load_run
from ..data import Data, load_data
from ..fold import fold
from ..measure import count, first_images, latency, usual_batches
from ..merge import merge
from ..models import resnet18
from ..refuse import check_known
from ..results import FOLDER, record
from ..run_folder import run_of
from ..train import best_device
from ..train import profile as default_profile
from .pieces import Piece, check_alone, this_command, trained

BUILD = {
    "resnet18": resnet18,
    "vgg16_bn": lambda classes, **options: vgg16_bn(num_classes=classes, **options),
    "mobilenet_v2": lambda classes, **options: mobilenet_v2(num_classes=classes, **options),
}


class Plan(NamedTuple):
    """How one network is trained, and after how many removals it is clocked."""

    network: str  # a key of BUILD
    options: dict
    images: int | None  # to train on; None: all
    dense_epochs: float
    lr: float
    epochs: float  # of tuning after each removal
    steps: tuple[int, ...] = (0, 4, 8, 12)


SMOKE = {
    "resnet18_w4": Plan("resnet18", {"width": 4}, 300, 0.5, 0.1, 0.2, (0, 1, 2)),
    "mobilenet_v2_small": Plan("mobilenet_v2", {"width_mult": 0.25}, 300, 0.5, 0.1, 0.2, (0, 1)),
}
LAPTOP = {
    "resnet18_w64": Plan("resnet18", {"width": 64}, None, 5, 0.1, 0.25),
    "resnet18_strong_w64": Plan("resnet18", {"width": 64, "stem": "strong"}, 5_000, 3, 0.02, 0.1),
    "vgg16_bn": Plan("vgg16_bn", {}, 3_000, 2, 0.02, 0.1),
    "mobilenet_v2": Plan("mobilenet_v2", {}, None, 4, 0.05, 0.1),
    "resnet18_w16": Plan("resnet18", {"width": 16}, None, 8, 0.1, 0.5),
}
LONG = {f"{n}_paper": p._replace(images=None, dense_epochs=60, epochs=2) for n, p in LAPTOP.items()}
PROFILES = {"smoke": SMOKE, "laptop": LAPTOP, "paper": LONG}
NOISE = 0.05  # with a larger spread, a speedup around 1 says nothing


def bench(
    profile: str = "", data: str = "cifar10", only: str = "", out: Path = Path("runs/bench"),
    folder: Path = FOLDER,
) -> list[Path]:  # fmt: skip
    """Train, collapse and clock several networks; what is trained or recorded is not repeated.

    Profile: smoke, laptop or paper. Data: where CIFAR-10 is (a folder of images will do). Only:
    pieces whose name contains it: a network, train, clock. Out: where weights and runs live.
    Folder: where the records go.
    """
    check_alone()
    check_known("profile", profile := profile or default_profile(), PROFILES)
    plans = PROFILES[profile]
    pieces = {name + part.__name__: (name, part) for name in plans for part in (_train, _clock)}
    chosen = {what: piece for what, piece in pieces.items() if only in what}
    if not chosen:
        raise ValueError(f"there is no piece {only!r}; there are: {', '.join(pieces)}.")

    def is_missing(name, part) -> bool:
        trained = part is _train and _is_trained(plans[name], out / name)
        return not (trained or (folder / f"bench_{name}.json").exists())

    missing = {what: piece for what, piece in chosen.items() if is_missing(*piece)}
    print(f"{len(chosen)} pieces, {len(missing)} to do: {', '.join(missing) or '-'}", flush=True)
    images, written = load_data(data) if missing else None, []
    for what, (name, part) in missing.items():
        few, start = plans[name].images, time.perf_counter()
        written += part(name, plans[name], images.subset(few) if few else images, out, folder)
        print(f"{what}: {time.perf_counter() - start:.0f} s", flush=True)
    for name in dict(chosen.values()):
        if (folder / f"bench_{name}.json").exists():
            print(f"\n{name}\n{report(name, folder)}")
    return written


def report(name: str, folder: Path = FOLDER) -> str:
    """What a person reads of a network's record: the table and the verdict."""
    rows = pd.DataFrame(json.loads((folder / f"bench_{name}.json").read_text())["rows"])
    units = {"accuracy": "accuracy, %", "macs": "million MACs", "params": "thousand parameters"}
    table = rows.assign(macs=rows["macs"] / 1e6, params=rows["params"] / 1e3)
    first = ["removed", "how", "batch", "accuracy"]
    table = table[first + [c for c in table if c not in (*first, "threads", "busy")]]
    return f"{table.rename(columns=units).round(3).to_string(index=False)}\n{verdict(rows)}"


def verdict(rows: pd.DataFrame) -> str:
    """Whether a merged network is ever slower than the dense one, beyond the ratio's spread."""
    slower, unclear = [], []
    for r in rows[rows["how"] == "merged"].itertuples():
        text = f"{r.removed} removed at batch {r.batch}: {r.speedup:.3f} ± {r.speedup_spread:.3f}"
        if r.speedup + r.speedup_spread < 1:
            slower.append(text)
        elif r.speedup - r.speedup_spread < 1 and r.speedup_spread > NOISE:
            unclear.append(text)
    said = [f"broken by {', '.join(slower)}"] if slower else []
    said += [f"too noisy to say for {', '.join(unclear)}"] if unclear else []
    said += [f"others kept the machine {b:.0f} % busy" for b in [rows["busy"].max()] if b > 10]
    return f"never slower than dense: {'; '.join(said or ['holds'])}"


def _train(name: str, plan: Plan, data: Data, out: Path, folder: Path) -> list[Path]:
    """The dense network, then its collapse; both are taken up where they were."""
    how = (plan.steps[-1], plan.steps[-1] * plan.epochs, "one_by_one", 0, out / name)
    collapse(_dense(name, plan, data, out), data, *how, resume=True, lr=plan.lr / 5)
    return []


def _clock(name: str, plan: Plan, data: Data, out: Path, folder: Path) -> list[Path]:
    """Each network in two and merged, at the batch that it is merged for; a record."""
    start, rows = time.perf_counter(), []
    if not _is_trained(plan, out / name):
        raise FileNotFoundError(
            f"{out / name} holds no finished run: run `python -m tlc_minimal bench --only "
            f"{name}_train` first, with the same --profile, --data and --out."
        )
    model, run = _dense(name, plan, data, out), run_of(out / name)
    in_two = {}
    for step in plan.steps:
        in_two[step] = fold(load_run(model, out / name, step).eval())
        gc.collect()  # a GraphModule refers to itself: copies of vgg16_bn would fill the memory
    for batch in usual_batches(best_device()):
        more = _race(in_two, first_images(data, batch, best_device()))
        rows += [row | {"accuracy": run["rows"][row["removed"]]["test"]} for row in more]
        gc.collect()
    config = {"network": plan.network, **plan.options, "dense_epochs": plan.dense_epochs}
    config |= {"images": run["config"]["train"], "epochs_each": plan.epochs}
    config |= {"rank": "tlc", "rule": "on_off_affine", "padding": "as_trained"}
    about = (f"bench_{name}", data, config | {"method": "bench"}, 0, rows)
    took = (time.perf_counter() - start, 0.0)  # seconds, and no epochs: nothing was trained
    return [record(*about, *took, this_command(), folder)]


def _race(in_two: dict[int, nn.Module], x: torch.Tensor) -> list[dict]:
    """A row for each network after so many removals, in two and merged for ``x``, the first one
    being the baseline."""
    networks = {(step, "in two"): network for step, network in in_two.items()}
    networks |= {(step, "merged"): merge(network, x) for step, network in in_two.items()}
    same = {"batch": len(x), "threads": torch.get_num_threads()}
    same["busy"] = psutil.cpu_percent(interval=1)  # by others, for we wait
    times = latency(networks, x).to_dict("records")
    return [
        {"removed": step, "how": how} | same | count(network, x) | ms
        for ((step, how), network), ms in zip(networks.items(), times, strict=True)
    ]


def _dense(name: str, plan: Plan, data: Data, out: Path) -> nn.Module:
    build = partial(BUILD[plan.network], len(data.classes), **plan.options)
    return trained(out / f"{name}.safetensors", build, data, plan.dense_epochs, 0, lr=plan.lr)


def _is_trained(plan: Plan, run: Path) -> bool:
    """Whether the run has all its removals, and was tested."""
    rows = run_of(run)["rows"] if (run / "run.json").exists() else []
    return len(rows) > plan.steps[-1] and rows[plan.steps[-1]]["test"] is not None


@torch.no_grad()
def mlps(piece: Piece, data: Data, out: Path):
    """Milliseconds of a transformer's MLP, and of the one matrix that is left without its GELU."""
    rows, device = [], best_device()
    for width in (64, 128, 256, 384, 768):
        torch.manual_seed(piece.seed)
        wide = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        models = {"MLP": nn.Sequential(*wide), "two matrices": nn.Sequential(wide[0], wide[2])}
        models["one matrix"] = merge(models["two matrices"].eval(), torch.randn(8, width), "all")
        models = {name: model.eval().to(device) for name, model in models.items()}
        for batch in usual_batches(device):
            x = torch.randn(batch, piece.config["tokens"], width, device=device)
            timed = latency(models, x).reset_index(names="what_ran").to_dict("records")
            for row, model in zip(timed, models.values()):
                rows.append({"d": width, "batch": batch, "macs": count(model, x)["macs"]} | row)
    return rows, 0.0
