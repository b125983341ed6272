"""Corruptions in the style of CIFAR-10-C (Hendrycks and Dietterich, arXiv 1903.12261), with the
strengths of its five severities, on batches of bytes. Not the published files: compare with ours.
"""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms


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
    pictures = (transforms.jpeg(transforms.to_pil_image(image), quality) for image in _bytes(x))
    return torch.stack([transforms.pil_to_tensor(picture) for picture in pictures]) / 255


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


def _bytes(x: Tensor) -> Tensor:
    return (255 * x).round().clamp(0, 255).byte()
