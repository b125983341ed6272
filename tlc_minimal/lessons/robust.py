"""Does a network survive the world? Corrupted and unknown inputs, calibration, stable states."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..data import Data
from ..gaussian import Gaussian
from ..reading.fits import data_for
from ..reading.images import read_digits, resize
from ..reading.refuse import in_eval
from ..train import like_of
from .corruptions import CORRUPTIONS, corrupt


def unknown_inputs(data: Data, count: int = 1000) -> dict[str, Tensor]:
    """Images of none of the classes, as large as those of ``data``: {name: uint8 (N, C, H, W)}.

    "digits" (all 1,797 of scikit-learn, unless the data are digits), "photographs" (``count``
    random pieces of its two photographs), "noise" (``count`` of uniform noise).
    """
    from sklearn.datasets import load_sample_images

    _, channels, height, width = data.test.images.shape
    generator, found = torch.Generator().manual_seed(0), {}
    if data.name not in ("digits", "mnist"):
        digits = torch.cat([s.images for s in read_digits(None, None)[1:3]])
        found["digits"] = resize(digits, height).expand(-1, channels, -1, -1)
    photos = torch.stack([torch.from_numpy(p.copy()) for p in load_sample_images().images])
    sides = zip(photos.shape[1:3], (height, width))
    corners = [torch.randint(side - cut + 1, (count,), generator=generator) for side, cut in sides]
    places = enumerate(zip(*corners))
    pieces = [photos[i % 2, y : y + height, x : x + width] for i, (y, x) in places]
    pieces = torch.stack(pieces).permute(0, 3, 1, 2)
    if channels == 1:
        pieces = pieces.float().mean(1, keepdim=True).round().byte()
    shape = (count, channels, height, width)
    noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return found | {"photographs": pieces, "noise": noise}


@torch.no_grad()
def probabilities(model: nn.Module, data: Data, images: Tensor) -> Tensor:
    """Softmax outputs, float32 (N, classes) on the CPU, of uint8 images normalised as ``data``."""
    like, data = like_of(model), data_for(model, data)
    with in_eval(model):
        outputs = [model(data.normalize(x.to(like.device)).to(like)) for x in images.split(500)]
    return torch.cat(outputs).float().softmax(1).cpu()


def reliability(confidence: Tensor, correct: Tensor, bins: int = 15) -> pd.DataFrame:
    """The points of a reliability diagram (Guo et al., arXiv 1706.04599, section 2): a row for each
    bin ((m-1)/bins, m/bins] that is not empty, with the mean confidence, the accuracy, both 0 to 1,
    and the share of the predictions that it holds.

    ``confidence`` (N,) in [0, 1], ``correct`` (N,) boolean; ValueError if they are not.
    """
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence):
        shapes = f"{tuple(confidence.shape)} and {tuple(correct.shape)}"
        raise ValueError(f"confidence and correct are vectors of one length, not {shapes}.")
    if correct.dtype is not torch.bool:
        raise ValueError(f"correct is boolean, right or wrong, not {correct.dtype}.")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence is a probability, 0 to 1: take the softmax first.")
    table = pd.DataFrame({"confidence": confidence, "accuracy": correct.double()})
    edges = np.linspace(0, 1, bins + 1)
    each = table.groupby(pd.cut(table["confidence"], edges, labels=False, include_lowest=True))
    return each.mean().assign(share=each.size() / len(table)).rename_axis("bin")


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Expected calibration error, 0 to 1: the mean over the bins, weighted by their share, of
    |accuracy - confidence| (Guo et al., equation 3); errors as in :func:`reliability`."""
    points = reliability(confidence, correct, bins)
    return float((points["share"] * (points["accuracy"] - points["confidence"]).abs()).sum())


def auroc(known: Tensor, unknown: Tensor) -> float:
    """P(a known input scores above an unknown one), ties counting one half, 0 to 1: the area under
    the ROC curve. ``known`` (N,), ``unknown`` (M,).

    With the largest softmax probability as the score, it is the detector of Hendrycks and Gimpel
    (arXiv 1610.02136). ValueError if one is empty or holds NaN.
    """
    if not (len(known) and len(unknown)) or known.isnan().any() or unknown.isnan().any():
        raise ValueError("auroc needs scores of both kinds, none of them NaN.")
    from sklearn.metrics import roc_auc_score

    is_known = torch.arange(len(known) + len(unknown)) < len(known)
    return float(roc_auc_score(is_known, torch.cat([known, unknown])))


def assess(
    models: dict[str, nn.Module], data: Data, unknown: dict[str, Tensor] | None = None,
    names=tuple(CORRUPTIONS), severities=(1, 2, 3, 4, 5),
) -> pd.DataFrame:  # fmt: skip
    """Each model on the test split, clean and corrupted, and on unknown inputs; all in percent.

    Columns: model, kind ("clean", "corrupted" or "unknown"), inputs (which), severity (0: clean);
    test accuracy, mean confidence, ece (15 bins); and for unknown inputs auroc, by confidence.
    """
    clean, labels = data.test
    rows, known = [], {}
    conditions = [("clean", "clean", 0)] + [("corrupted", n, s) for n in names for s in severities]
    for kind, name, severity in conditions:
        images = clean if kind == "clean" else corrupt(clean, name, severity)
        for label, model in models.items():
            confidence, predicted = probabilities(model, data, images).max(1)
            correct = predicted == labels.cpu()
            known.setdefault(label, confidence)  # the first condition is the clean one
            about = {"model": label, "kind": kind, "inputs": name, "severity": severity}
            scores = {"test": correct.double().mean(), "confidence": confidence.mean()}
            scores["ece"] = calibration_error(confidence, correct)
            rows.append(about | {what: 100 * float(score) for what, score in scores.items()})
    for name, images in (unknown or {}).items():
        for label, model in models.items():
            confidence = probabilities(model, data, images).amax(1)
            about = {"model": label, "kind": "unknown", "inputs": name}
            scores = {"confidence": confidence.mean(), "auroc": auroc(known[label], confidence)}
            rows.append(about | {what: 100 * float(score) for what, score in scores.items()})
    return pd.DataFrame(rows)


def agreement(one: dict[str, Gaussian], other: dict[str, Gaussian]) -> pd.DataFrame:
    """How far two networks agree on who is ON: one row a layer, all columns between 0 and 1.

    off, off_other: their shares of OFF channels; same: the share of channels with the same state;
    chance: what ``same`` would be if the two sets of OFF channels were drawn independently.
    ValueError if the networks differ in layers or channels.
    """
    sizes = [{name: len(g.mean) for name, g in stats.items()} for stats in (one, other)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"the two networks differ in layers or channels: {sizes[0]}, {sizes[1]}.")
    rows = {}
    for name in one:
        on, on_other = one[name].on.cpu(), other[name].on.cpu()
        p, q = (float((~state).double().mean()) for state in (on, on_other))
        same = float((on == on_other).double().mean())
        rows[name] = {"off": p, "off_other": q, "same": same, "chance": p * q + (1 - p) * (1 - q)}
    return pd.DataFrame(rows).T
