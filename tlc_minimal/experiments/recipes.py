"""Does the recipe decide? The projected network and its shape from scratch once more, both at a
larger rate and with less weight decay: chosen for the projection, on validation (study rates)."""

from functools import partial

from . import headline
from .controls import SHAPE
from .pieces import Piece
from .rates import DECAY, with_decay

METHODS = ("ours, projected", SHAPE)
RATE = 0.4  # else FRESH_LR


def plan(profile: str) -> list[Piece]:
    """Two pieces a seed: those of the headline, at its first share of the MACs, trained so."""
    share, pieces = headline.PROFILES[profile].shares[0], []
    for usual in headline.plan(profile):
        if usual.config.get("share") != share or usual.config["method"] not in METHODS:
            continue
        config = with_decay(usual.config | {"study": "recipes", "lr": RATE}, DECAY)
        name, run = usual.what.replace("headline", "recipes"), usual.run
        if usual.config["method"] == SHAPE:
            run = partial(headline.from_scratch, pieces[-1], "scratch")  # the one projected so
        pieces.append(usual._replace(what=name, config=config, run=run))
    return pieces
