"""Does the loss right after the surgery tell how accurate the tuned network will be?

Random sets of equally many activations, each such that single layers can take their place, go in
two ways: by a line a channel, and by projection. Both are tuned alike.
"""

import random
from pathlib import Path

from ..data import Data
from ..graph import trace
from ..methods.stretches import best_sets, find_stretches, names_in
from ..nodes import activation_nodes
from ..stages import METHODS
from ..train import evaluate, fit
from .controls import scores, without
from .fair import PROFILES as FAIR
from .fair import dense_network
from .pieces import Piece

# profile: sets, activations that go, epochs of tuning, seeds, minutes a seed
PROFILES = {
    "smoke": (2, 3, 0.3, 1, 0.2),
    "laptop": (10, 8, 1, 3, 12.0),
    "paper": (20, 8, 6, 3, 20.0),
}


def plan(profile: str) -> list[Piece]:
    """A piece a seed, from the dense network of the fair comparison."""
    sets, remove, epochs, seeds, minutes = PROFILES[profile]
    size = FAIR[profile]
    config = {"study": "predicts", "method": "predicts", "width": size["width"]}
    config |= {"dense": size["dense"], "sets": sets, "remove": remove, "epochs": epochs}
    name = f"predicts_w{size['width']}_seed"
    return [
        Piece(f"{name}{seed}", "cifar10", seed, config, _predicts, minutes, size["images"])
        for seed in range(seeds)
    ]


def _predicts(piece: Piece, data: Data, out: Path) -> tuple[list[dict], float]:
    c, dense = piece.config, dense_network(piece, data, out)
    names, draw, rows = list(activation_nodes(trace(dense))), random.Random(piece.seed), []
    stretches = find_stretches(trace(dense), data, len(names), 3)
    how = {"teacher": dense, "seed": piece.seed} | METHODS["project"].tuning
    for i in range(c["sets"]):
        costs = {stretch: draw.random() for stretch in stretches}
        gone = names_in(names, best_sets(len(names), costs)[c["remove"]][1])
        for rule in ("on_off_affine", "projected"):
            small = without(dense, gone, data, rule)
            before = evaluate(small, data)
            fit(small, data, c["epochs"], progress=f"{piece.what}: {rule} {i}", **how)
            row = {"rule": rule, "draw": i, "removed": len(gone), "layer": ", ".join(gone)}
            row |= {"val_loss": before.loss, "val_before": before.accuracy}
            rows.append(row | scores(small, data, ["val"]))
    return rows, len(rows) * c["epochs"]
