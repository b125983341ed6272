"""Does a network survive the world? Corrupted and unknown inputs, honest confidence, stable states.

Corruptions are in the style of CIFAR-10-C (Hendrycks and Dietterich, arXiv 1903.12261), with the
strengths of its five severities, on batches of bytes. Not the published files: compare with ours.
"""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from ..data import Data
from ..gaussian import Gaussian
from ..readers import read_digits, resize
from ..train import device_of


def gaussian_noise(x: Tensor, std: float) -> Tensor:
    """Adds independent normal noise of standard deviation ``std``."""
    return transforms.gaussian_noise(x, 0.0, std)


def shot_noise(x: Tensor, photons: float) -> Tensor:
    """Counts photons: Poisson of mean ``photons`` x, so bright pixels are the noisy ones."""
    return torch.poisson(x * photons) / photons


def gaussian_blur(x: Tensor, std: float) -> Tensor:
    """Averages over neighbours with a Gaussian of ``std`` pixels, cut off at four of them."""
    return transforms.gaussian_blur(x, 2 * [2 * math.ceil(4 * std) + 1], 2 * [std])


def contrast(x: Tensor, factor: float) -> Tensor:
    """Pulls every pixel towards the mean of its image and channel, to ``factor`` of the way
    (torchvision's contrast: towards the mean of the grey image)."""
    return x.mean((2, 3), keepdim=True).lerp(x, factor)


def brightness(x: Tensor, shift: float) -> Tensor:
    """Raises the value (the largest channel) by ``shift``, hue and saturation as they were
    (torchvision's brightness: times a factor)."""
    value = x.amax(1, keepdim=True)
    raised = (value + shift).clamp(max=1)
    return torch.where(value > 0, x * raised / value.clamp_min(1e-6), raised)


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Saves each image as JPEG of that quality, and loads it again."""
    return transforms.jpeg(_bytes(x), quality) / 255


def pixelate(x: Tensor, share: float) -> Tensor:
    """Replaces each pixel by the mean of its block, for blocks in ``share`` as many rows as pixels
    (shrinking and enlarging with a box filter, which torchvision has for single pictures only)."""
    for dim in (2, 3):
        side, blocks = x.shape[dim], max(1, int(share * x.shape[dim]))
        block = ((torch.arange(side) + 0.5) * blocks / side).long()
        size = block.bincount()[block].view(-1, *[1] * (3 - dim))
        sums = torch.zeros_like(x).index_add(dim, block, x)
        x = sums.index_select(dim, block) / size
    return x


CORRUPTIONS = {  # a function of values in [0, 1] and a level, and its levels at severities 1 to 5
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "jpeg": (jpeg, (80, 65, 58, 50, 40)),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
}


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """The corruption ``name`` of uint8 images (N, C, H, W), the same for the same seed.

    ValueError for another kind of images, an unknown name, or a severity that is not 1 to 5.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images are uint8 (N, C, H, W), not {images.dtype} {[*images.shape]}.")
    if name not in CORRUPTIONS:
        raise ValueError(f"there is no corruption {name!r}; there are: {', '.join(CORRUPTIONS)}.")
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"a severity is 1, 2, 3, 4 or 5, not {severity!r}.")
    apply, levels = CORRUPTIONS[name]
    with torch.random.fork_rng([]):  # torchvision draws from the default generator
        torch.default_generator.manual_seed(seed)
        return _bytes(apply(images.cpu() / 255, levels[severity - 1])).to(images.device)


def unknown_inputs(data: Data, count: int = 1000, seed: int = 0) -> dict[str, Tensor]:
    """Images of none of the classes, as large as those of ``data``: {name: uint8 (N, C, H, W)}.

    "digits" (all 1,797 of scikit-learn, unless the data are digits), "photographs" (``count``
    random pieces of its two photographs), "noise" (``count`` of uniform noise).
    """
    from sklearn.datasets import load_sample_images

    _, channels, height, width = data.test.images.shape
    generator, found = torch.Generator().manual_seed(seed), {}
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
def probabilities(model: nn.Module, data: Data, images: Tensor, batch: int = 500) -> Tensor:
    """Softmax outputs, float32 (N, classes) on the CPU, of uint8 images normalised as ``data``."""
    device, mode = device_of(model), model.training
    model.eval()
    outputs = [model(data.normalize(part.to(device))) for part in images.split(batch)]
    model.train(mode)
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
    names=tuple(CORRUPTIONS), severities=(1, 2, 3, 4, 5), seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Each model on the test split, clean and corrupted, and on unknown inputs; all in percent.

    Columns: model, kind ("clean", "corrupted" or "unknown"), inputs (which), severity (0: clean);
    test accuracy, mean confidence, ece (15 bins); and for unknown inputs auroc, by confidence.
    """
    clean, labels = data.test
    rows, known = [], {}
    conditions = [("clean", "clean", 0)] + [("corrupted", n, s) for n in names for s in severities]
    for kind, name, severity in conditions:
        images = clean if kind == "clean" else corrupt(clean, name, severity, seed)
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


def _bytes(x: Tensor) -> Tensor:
    return (255 * x).round().clamp(0, 255).byte()
