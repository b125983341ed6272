"""Which learning rate? What the headline tunes, at several rates, judged on validation alone; the
projected network and its shape from scratch with less weight decay, too.

One rate for all would favour the method that it suits: each has its own, chosen here at the width
where an epoch takes seconds, and keeps it at the others.
"""

from functools import partial
from pathlib import Path

from ..data import Data
from . import headline
from .pieces import Piece

RATES = (0.02, 0.05, 0.1, 0.2, 0.4)
DECAY = 2e-4  # else that of fit
PROFILES = {"smoke": ((0.1,), 1), "laptop": (RATES, 2), "paper": (RATES, 1)}  # and how many seeds
COLUMNS = ("removed", "macs", "val", "epochs")


def plan(profile: str) -> list[Piece]:
    """A piece a seed and way of tuning: the headline's own piece, at each rate."""
    (rates, seeds), size = PROFILES[profile], headline.PROFILES[profile]
    share = f"{100 * size.shares[0]:.0f}"
    small = (f"project_{share}", f"scratch_{share}")
    tuned = (f"once{size.depth:02d}", "published", "tuned_on", *headline.RIVALS)
    pieces, likes = [], {piece.what: piece for piece in headline.plan(profile)}
    for seed in size.seeds[:seeds]:
        start = headline.prefix(profile, size.width)
        of = {name: likes[f"{start}_{name}_seed{seed}"] for name in (*tuned, *small)}
        pieces += [_swept(like, rates) for like in of.values()]
        pieces += [_swept(of[name], rates, DECAY) for name in small]
    return pieces


def _swept(like: Piece, rates: tuple[float, ...], decay: float | None = None) -> Piece:
    what, config = like.what.replace("headline", "rates"), like.config | {"study": "rates"}
    if decay is not None:
        what, config = what.replace("_seed", "_decay_seed"), with_decay(config, decay)
        config["method"] += f", weight decay {decay:g}"
    about = {"what": what, "config": config | {"rates": rates}, "run": partial(_sweep, like)}
    return like._replace(minutes=len(rates) * like.minutes, **about)


def with_decay(config: dict, decay: float) -> dict:
    """The configuration of a piece, but with that weight decay."""
    return config | {"options": config.get("options", {}) | {"weight_decay": decay}}


def _sweep(like: Piece, piece: Piece, data: Data, out: Path) -> tuple[list[dict], float]:
    rows, total = [], 0.0
    for rate in piece.config["rates"]:
        at = like._replace(what=f"{piece.what}_{rate:g}", config=piece.config | {"lr": rate})
        made, epochs = like.run(at, data, out)
        rows.append({"rate": rate} | {name: made[-1][name] for name in COLUMNS})
        total += epochs
    return rows, total
