"""More questions to the projected network and those of its size from scratch. Does the recipe
decide? All at a larger rate and with less weight decay, chosen for the projection on validation
(study rates). And whoever has a trained network, but few images? All on a ninth of them, nine times
as many epochs. And if the dense network, too, has the rate of those from scratch?
"""

from functools import partial

from . import headline, work
from .controls import CONTROLS, FRESH_LR, NARROW, SHAPE
from .pieces import Piece
from .rates import DECAY, with_decay

RATE = 0.4  # else FRESH_LR
METHODS = {"ours, projected": "", SHAPE: "scratch", NARROW: "narrow"}
SEEN = 1 / 9  # 5,000 images of CIFAR-10
FEW = {"ours, projected": "", headline.UNTAUGHT: ""}
FEW |= {CONTROLS[name]: name for name in ("scratch", "short", "alone")}

STRONGER = {"dense": "", "tuned on": "", "thrifty, all at once": "", "ours, projected": ""}
STRONGER |= {SHAPE: "scratch"}


def plan(profile: str) -> list[Piece]:
    """The other recipe: three pieces a seed, those of the headline at its first share of the MACs,
    trained so."""
    change = lambda config: with_decay(config | {"lr": RATE}, DECAY)
    return again(profile, "recipes", METHODS, change)


def few(profile: str) -> list[Piece]:
    """Few images: five pieces a seed, as many steps as those of the headline."""
    change = lambda config: config | {"seen": SEEN, "epochs": round(config["epochs"] / SEEN)}
    return again(profile, "few", FEW, change)


def stronger(profile: str) -> list[Piece]:
    """A stronger start: five pieces a seed, whose dense network was trained at ``FRESH_LR``."""

    def change(config):
        parent = config.get("dense", "").replace("headline", "stronger")
        return config | {"dense_lr": FRESH_LR} | ({"dense": parent} if parent else {})

    return again(profile, "stronger", STRONGER, change)


def again(profile: str, study: str, methods: dict[str, str], change) -> list[Piece]:
    """The pieces of the headline by these methods, those of a share of the MACs at its first, with
    their configurations changed; ``methods``: {name: the control that it is, "" if none}."""
    share, pieces, like = headline.PROFILES[profile].shares[0], [], {}
    for usual in headline.plan(profile):
        if usual.config.get("share", share) != share or usual.config["method"] not in methods:
            continue
        config = change(usual.config) | {"study": study}
        piece = usual._replace(what=usual.what.replace("headline", study), config=config)
        if control := methods[usual.config["method"]]:  # as large as the one projected so
            piece = piece._replace(run=partial(work.from_scratch, like[usual.seed], control))
        elif usual.config["method"] == "ours, projected":
            like[usual.seed] = piece
        pieces.append(piece)
    return pieces
