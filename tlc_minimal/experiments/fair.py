"""The fair comparison of lesson 06: all methods, then all rankings, at equal cost, over seeds."""

from functools import partial
from pathlib import Path

from torch import nn

from ..collapse import collapse
from ..data import Data
from ..models import resnet18
from ..stages import METHODS
from .controls import scores
from .pieces import Piece, trained

PROFILES = {
    "smoke": dict(width=4, dense=1, tune=1.5, remove=(2, 4), seeds=2, ranked=1, images=600),
    "laptop": dict(width=8, dense=12, tune=3.6, remove=(4, 8, 12), seeds=3, ranked=3, images=20000),
    "paper": dict(width=64, dense=60, tune=96, remove=(4, 8, 12), seeds=5, ranked=5, images=None),
}
AT_ONCE = (  # a run of its own for each number removed
    "at_once", "project", "blocks", "layer_folding", "lacoot_without_regulariser", "published",
)  # fmt: skip
RECIPE = {"lr": 0.02, "progress": False}  # the same for all
LIMIT = {"egp": 8}  # what can go before a residual network is dead: not the stem
RANKINGS = ("gaussian", "gaussian_entropy", "entropy", "magnitude", "reference")
MINUTES = {"smoke": 0.2, "laptop": 1.5, "paper": 4.0}


def plan(profile: str) -> list[Piece]:
    """Three seeds of every method, then the rankings, then more seeds.

    ``tune``: epochs of tuning until the last removal; at fewer removals, that share of it.
    """
    size = PROFILES[profile]
    shared = {k: size[k] for k in ("width", "dense", "tune")} | {"study": "fair"}

    def piece(name: str, seed: int, run, **config) -> Piece:
        what = f"fair_w{size['width']}_{name}_seed{seed}"
        config = shared | config | {"remove": list(size["remove"])}
        minutes = MINUTES[profile] * (2 if name in (*AT_ONCE, "one_by_one") else 1)
        return Piece(what, "cifar10", seed, config, run, minutes, size["images"])

    def methods(seed: int) -> list[Piece]:
        dense = piece("dense", seed, _dense, method="dense", set="methods")
        rivals = [piece(m, seed, partial(_method, m), method=m, set="methods") for m in METHODS]
        return [dense, *rivals]

    def rankings(seed: int) -> list[Piece]:
        ranked = partial(piece, run=partial(_method, "one_by_one"), set="rankings")
        return [ranked(f"rank_{r}", seed, method=f"rank: {r}", rank=r) for r in RANKINGS]

    first = [p for seed in range(min(3, size["seeds"])) for p in methods(seed)]
    ranks = [p for seed in range(size["ranked"]) for p in rankings(seed)]
    return first + ranks + [p for seed in range(3, size["seeds"]) for p in methods(seed)]


def dense_network(piece: Piece, data: Data, out: Path) -> nn.Module:
    """The dense parent of a seed, of all methods: trained once in ``out``, then loaded."""
    c, seed = piece.config, piece.seed
    path = out / f"fair_w{c['width']}_dense_seed{seed}.safetensors"
    return trained(path, partial(resnet18, len(data.classes), c["width"]), data, c["dense"], seed)


def _dense(piece: Piece, data: Data, out: Path) -> tuple[list[dict], float]:
    model = dense_network(piece, data, out)
    return [{"removed": 0} | scores(model, data)], piece.config["dense"]


def _method(method: str, piece: Piece, data: Data, out: Path) -> tuple[list[dict], float]:
    """Iterative methods go all the way once; the others start anew for every number removed. The
    rankings are all of one method."""
    model = dense_network(piece, data, out)
    how = RECIPE | {k: v for k, v in piece.config.items() if k == "rank"}
    numbers = [n for n in piece.config["remove"] if n <= LIMIT.get(method, n)]
    rows, epochs = [], 0.0
    for remove in numbers if method in AT_ONCE else numbers[-1:]:
        share = piece.config["tune"] * remove / piece.config["remove"][-1]
        folder = out / f"{piece.what}_{remove}"
        run = collapse(model, data, remove, share, method, piece.seed, folder, resume=True, **how)
        table = run.table.to_dict("records")  # on the way to 12 a run may pass 8, with more to come
        rows += [*table[: 1 - bool(rows)], table[-1]] if method in AT_ONCE else table
        epochs += share
    return rows, epochs
