"""Which recipe for the dense network? One choice changed at a time, judged on validation alone.

The choices are those of short trainings of CIFAR-10: airbench (Jordan, arXiv 2404.00498; its code
has cutout, and flips that alternate) and what goes with it elsewhere: a larger rate that falls
linearly, larger batches, more smoothing, averaged weights.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..data import Data, Split
from ..models import resnet18
from ..train import SCHEDULES, best_device, evaluate, fit
from . import headline
from .pieces import Piece

SIDE = 8  # of the square that cutout takes, in pixels
DECAY = 0.99  # of averaged weights, a step


@dataclass(frozen=True, eq=False, repr=False)
class Augmented(Data):
    """``alternating``: half of the images are mirrored for good, then all of them in every other
    epoch. ``cutout``: a square somewhere in each image is zero, which is the mean."""

    alternating: bool = False
    cutout: bool = False
    batches: count = field(default_factory=count)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        x, device = super().augment(images, generator), images.device
        if self.alternating and next(self.batches) * len(images) // self.train.size % 2:
            x = x.flip(3)
        if self.cutout:
            last, pixels = x.shape[3] - SIDE, torch.arange(x.shape[3], device=device)
            first = torch.randint(last + 1, (len(x), 2, 1), generator=generator, device=device)
            inside = (pixels >= first) & (pixels < first + SIDE)  # (B, 2, W)
            x = x.masked_fill((inside[:, 0, :, None] & inside[:, 1, None])[:, None], 0)
        return x


def augmented(data: Data, alternating: bool = False, cutout: bool = False) -> Augmented:
    """``data`` with these augmentations beside its own."""
    about = vars(data) | {"alternating": alternating, "cutout": cutout}
    if alternating:
        images, labels = data.train
        half = torch.rand(len(labels), generator=torch.Generator().manual_seed(0)) < 0.5
        images = torch.where(half[:, None, None, None], images.flip(3), images)
        about |= {"train": Split(images, labels), "flip": False}
    return Augmented(**about)


LINEAR = lambda share, steps: min(5 * share, 1.25 * (1 - share)) + 1 / steps  # peaks at a fifth
FAST = {"lr": 0.4, "batch": 256, "schedule": "linear", "smoothing": 0.1}
CHANGES = {  # for fit, for the data, and whether the weights of all steps are averaged
    "rate 0.2": ({"lr": 0.2}, {}, False),
    "rate 0.4": ({"lr": 0.4}, {}, False),
    "rate 0.4, batches of 256": ({"lr": 0.4, "batch": 256}, {}, False),
    "linear schedule": ({"schedule": "linear"}, {}, False),
    "smoothing 0.1": ({"smoothing": 0.1}, {}, False),
    "alternating flips": ({}, {"alternating": True}, False),
    "cutout": ({}, {"cutout": True}, False),
    "averaged weights": ({}, {}, True),
    "all together": (FAST, {"alternating": True, "cutout": True}, True),
}


def plan(profile: str) -> list[Piece]:
    """A piece a change and seed; the usual recipe is the headline's own dense network."""
    pieces = []
    for like in headline.plan(profile):
        if like.config["method"] == "dense":
            for change in CHANGES:
                name = change.replace(",", "").replace(" ", "_")
                what = like.what.replace("headline", "baseline").replace("_dense_", f"_{name}_")
                config = like.config | {"study": "baseline", "method": change}
                pieces.append(like._replace(what=what, config=config, run=_trained))
    return pieces


def _trained(piece: Piece, data: Data, out: Path) -> tuple[list[dict], float]:
    options, more, averages = CHANGES[piece.config["method"]]
    torch.manual_seed(piece.seed)
    model, epochs = resnet18(len(data.classes), piece.config["width"]), piece.config["dense_epochs"]
    how = {"seed": piece.seed, "progress": piece.what} | options
    with patch.dict(SCHEDULES, linear=LINEAR), averaged(model, averages) as final:
        fit(model, augmented(data, **more), epochs, **how)
    return [{"removed": 0, "val": evaluate(final(), data).accuracy}], epochs


@contextmanager
def averaged(model, wanted: bool):
    """What gives the model at the end of the block, its weights averaged over the steps in it."""
    if not wanted:
        yield lambda: model
        return
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    mean.to(best_device())
    hook = register_optimizer_step_post_hook(lambda *_: mean.update_parameters(model))
    try:
        yield lambda: mean.module.eval()
    finally:
        hook.remove()
