"""How much is a start worth? The same activations go in several ways, then all networks are tuned
for a short and for a long time, with the dense network as a teacher and without.

The inner activations of every stage go, so that a convolution can take the stage's place. The rate
is that of the methods that have such a start.
"""

import copy
from pathlib import Path

import torch
from torch import nn

from ..data import Data
from ..graph import trace
from ..nodes import activation_nodes
from ..stages import METHODS
from ..train import fit
from .controls import reset, scores, without
from .fair import PROFILES as FAIR
from .fair import dense_network
from .pieces import Piece

FRESH = "projected, fresh weights"
STARTS = ("on_off", "on_off_affine", "thrifty", "affine", "projected", FRESH)
# profile: epochs of tuning with a teacher, those without, seeds, minutes a piece
PROFILES = {
    "smoke": ((0.3,), (0.3,), 1, 0.1),
    "laptop": ((1, 6, 30), (6,), 3, 8.0),
    "paper": ((1, 6, 30), (6,), 3, 20.0),
}


def plan(profile: str) -> list[Piece]:
    """A piece a seed and start, from the dense network of the fair comparison."""
    taught, alone, seeds, minutes = PROFILES[profile]
    size, pieces = FAIR[profile], []
    config = {"study": "ladder", "width": size["width"], "dense": size["dense"]}
    config |= {"taught": taught, "alone": alone}
    for seed in range(seeds):
        for start in STARTS:
            what = f"ladder_w{size['width']}_{start.replace(', ', '_').replace(' ', '_')}"
            about = (config | {"method": start}, _climb, minutes, size["images"])
            pieces.append(Piece(f"{what}_seed{seed}", "cifar10", seed, *about))
    return pieces


def inner(model: nn.Module) -> list[str]:
    """The activations of a ResNet that no stage ends with."""
    names = list(activation_nodes(trace(model)))
    ends = {name.split(".")[0]: name for name in names}
    return [name for name in names if name not in ends.values()]


def _start(method: str, dense: nn.Module, data: Data, seed: int) -> nn.Module:
    small = without(dense, inner(dense), data, "projected" if method == FRESH else method)
    if method != FRESH:
        return small
    torch.manual_seed(seed)
    return reset(small)


def _climb(piece: Piece, data: Data, out: Path) -> tuple[list[dict], float]:
    c, dense = piece.config, dense_network(piece, data, out)
    start, gone = _start(c["method"], dense, data, piece.seed), len(inner(dense))
    rate = METHODS["project" if c["method"].startswith("projected") else "at_once"].tuning
    tried = [(0.0, True), *((n, True) for n in c["taught"]), *((n, False) for n in c["alone"])]
    rows, how = [], {"seed": piece.seed} | rate
    for epochs, taught in tried:
        small, label = copy.deepcopy(start), f"{piece.what}_{epochs:g}_{taught}"
        if epochs:
            state, teacher = out / f"{label}.state", dense if taught else None
            fit(small, data, epochs, teacher=teacher, progress=label, state=state, **how)
        rows.append({"removed": gone, "epochs": epochs, "taught": taught} | scores(small, data))
    return rows, sum(epochs for epochs, _ in tried)
