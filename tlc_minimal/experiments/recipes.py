"""Does the recipe decide? The projected network and those of its size from scratch once more, at a
larger rate and with less weight decay: chosen for the projection, on validation (study rates)."""

from functools import partial

from . import headline
from .controls import NARROW, SHAPE
from .pieces import Piece
from .rates import DECAY, with_decay

METHODS = {"ours, projected": "", SHAPE: "scratch", NARROW: "narrow"}
RATE = 0.4  # else FRESH_LR


def plan(profile: str) -> list[Piece]:
    """Three pieces a seed: those of the headline, at its first share of the MACs, trained so."""
    share, pieces, like = headline.PROFILES[profile].shares[0], [], {}
    for usual in headline.plan(profile):
        if usual.config.get("share") != share or usual.config["method"] not in METHODS:
            continue
        config = with_decay(usual.config | {"study": "recipes", "lr": RATE}, DECAY)
        piece = usual._replace(what=usual.what.replace("headline", "recipes"), config=config)
        if control := METHODS[usual.config["method"]]:  # as large as the one projected so
            piece = piece._replace(run=partial(headline.from_scratch, like[usual.seed], control))
        else:
            like[usual.seed] = piece
        pieces.append(piece)
    return pieces
