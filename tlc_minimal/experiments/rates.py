"""Which learning rate? What the headline tunes, at several rates, judged on validation alone.

One rate for all would favour the method that it suits: each has its own, chosen here at the width
where an epoch takes seconds, and keeps it at the others.
"""

from functools import partial
from pathlib import Path

from ..data import Data
from . import headline
from .pieces import Piece

RATES = (0.02, 0.05, 0.1, 0.2, 0.4)
PROFILES = {"smoke": ((0.1,), 1), "laptop": (RATES, 2), "paper": (RATES, 1)}  # and how many seeds
COLUMNS = ("removed", "macs", "val", "epochs")


def plan(profile: str) -> list[Piece]:
    """A piece a seed and way of tuning: the headline's own piece, at each rate."""
    (rates, seeds), size = PROFILES[profile], headline.PROFILES[profile]
    share = f"{100 * size.shares[0]:.0f}"
    tuned = (f"once{size.depth:02d}", "published", "tuned_on", f"project_{share}")
    pieces, likes = [], {piece.what: piece for piece in headline.plan(profile)}
    for seed in size.seeds[:seeds]:
        for name in (*tuned, f"scratch_{share}"):
            like = likes[f"{headline.prefix(profile, size.width)}_{name}_seed{seed}"]
            config = like.config | {"study": "rates", "rates": rates}
            about = {"run": partial(_sweep, like), "minutes": len(rates) * like.minutes}
            what = like.what.replace("headline", "rates")
            pieces.append(like._replace(what=what, config=config, **about))
    return pieces


def _sweep(like: Piece, piece: Piece, data: Data, out: Path) -> tuple[list[dict], float]:
    rows, total = [], 0.0
    for rate in piece.config["rates"]:
        at = like._replace(what=f"{piece.what}_{rate:g}", config=like.config | {"lr": rate})
        made, epochs = like.run(at, data, out)
        rows.append({"rate": rate} | {name: made[-1][name] for name in COLUMNS})
        total += epochs
    return rows, total
