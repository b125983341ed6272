"""``reproduce``: every recorded experiment of the course again, in order of importance."""

from importlib import import_module
from pathlib import Path

import torch

from ..refuse import check_known
from ..results import FOLDER
from ..train import profile as default_profile
from . import headline, recipes
from .pieces import Piece, run_pieces

ALL = ("headline", "baseline", "rates", "recipes", "fair", "predicts", "ladder", "beyond")
ALL += ("matrices", "robust", "mnist")
STUDIES = {name: import_module(f".{name}", __package__).plan for name in ALL}
STUDIES |= {"few": recipes.few, "stronger": recipes.stronger}


def plan(profile: str) -> list[Piece]:
    """All pieces of a profile in order ("half": of four studies); ValueError if there is none."""
    check_known("profile", profile, headline.PROFILES)
    half = (headline.plan, STUDIES["baseline"], recipes.plan, recipes.stronger)
    studies = half if profile == "half" else STUDIES.values()
    return [piece for study in studies for piece in study(profile)]


def reproduce(
    profile: str = "", data: str = "cifar10", mnist: str = "mnist", budget: float | None = None,
    only: str = "", out: Path = Path("runs/reproduce"), folder: Path = FOLDER,
) -> list[Path]:  # fmt: skip
    """Make the recorded results again; whatever is already recorded is left as it is.

    Profile: smoke, laptop or paper; half: four studies, at width 32. Data and mnist: where
    CIFAR-10 and MNIST are (folders of images will do). Budget: minutes; a piece that does not fit
    into what is left is not begun. Only: pieces whose name contains it (headline, baseline, rates,
    recipes, few, stronger, fair, predicts, ladder, beyond, matrices, robust, mnist, curve, seed0).
    Out: where runs live, and what was interrupted is taken up. Folder: where the records go.
    """
    profile, paths = profile or default_profile(), {"cifar10": data, "mnist": mnist}
    pieces = plan(profile)
    if profile == "paper" and not torch.cuda.is_available():
        print(
            "No GPU is here: this takes a hundred times as long; --profile laptop is made for it."
        )
    return run_pieces(pieces, paths, out, folder, budget, only)
