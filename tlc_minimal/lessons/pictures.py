"""Ten kinds of shape on coloured grounds, drawn by rule: a picture set that is nobody's.

Place, size, angle and all colours are random; behind the shape lie spots of other colours, and
everything is noisy. Numbers come from numpy's frozen generator, and colours are mixed in whole
numbers: a seed draws the same pictures everywhere, but for what a sine rounds at an edge.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..reading.images import Split, resize

SIDE, FINE = 32, 64  # pixels, and points at which a shape is asked for
GRID = (np.arange(FINE, dtype=np.float32) + 0.5) / FINE * 2 - 1  # -1 to 1
TURN = 2 * np.pi


def disc(x, y):
    return x**2 + y**2 < 0.64


def ring(x, y):
    return abs(np.hypot(x, y) - 0.68) < 0.17


def square(x, y):
    return np.maximum(abs(x), abs(y)) < 0.7


def triangle(x, y):
    return np.hypot(x, y) * np.cos(np.arctan2(y, x) % (TURN / 3) - TURN / 6) < 0.5


def cross(x, y):
    return (np.minimum(abs(x), abs(y)) < 0.24) & (np.maximum(abs(x), abs(y)) < 0.85)


def star(x, y):
    return np.hypot(x, y) < 1 - 0.65 * np.sin(np.arctan2(y, x) % (TURN / 5) * 2.5)


def crescent(x, y):
    return (x**2 + y**2 < 0.72) & ((x - 0.45) ** 2 + y**2 > 0.42)


def half(x, y):
    return (x**2 + (y + 0.4) ** 2 < 0.81) & (y > -0.4)


def bars(x, y):
    return (np.maximum(abs(x), abs(y)) < 0.8) & (np.floor((y + 0.8) / 0.32) % 2 == 0)


def checks(x, y):
    return (np.maximum(abs(x), abs(y)) < 0.8) & (x * y > 0)


KINDS = (disc, ring, square, triangle, cross, star, crescent, half, bars, checks)
CLASSES = tuple(kind.__name__ for kind in KINDS)


def share(inside: np.ndarray) -> np.ndarray:
    """How many of the four points of each pixel lie inside, (N, 32, 32, 1)."""
    return inside.reshape(-1, SIDE, 2, SIDE, 2).sum((2, 4), dtype=np.int16)[..., None]


def drawn(kind: Callable, count: int, random: np.random.RandomState) -> np.ndarray:
    """Pictures of one kind, uint8 (count, 3, 32, 32)."""
    whole = lambda low, high, *size: random.randint(low, high, (count, *size)).astype(np.int16)
    some = lambda low, high: random.uniform(low, high, (count, 1, 1)).astype(np.float32)
    image = np.repeat(np.repeat(whole(40, 216, 4, 4, 3), 8, 1), 8, 2)  # a ground of 4 x 4 colours
    for _ in range(2):  # which flow into each other
        for axis in (1, 2):
            image = (np.roll(image, 4, axis) + 2 * image + np.roll(image, -4, axis)) // 4
    x, y = GRID[None, None, :], GRID[None, :, None]
    for _ in range(3):
        spot = share((x - some(-1, 1)) ** 2 + (y - some(-1, 1)) ** 2 < some(0.08, 0.2) ** 2)
        image = (image * (4 - spot) + whole(0, 256, 1, 1, 3) * spot) // 4
    angle, size, x, y = some(0, TURN), some(0.5, 0.8), x - some(-0.25, 0.25), y - some(-0.25, 0.25)
    along, across = np.cos(angle) / size, np.sin(angle) / size
    shape = share(kind(x * along + y * across, y * along - x * across))
    ground = image.mean((1, 2), keepdims=True).astype(np.int16)
    colour = (ground + whole(70, 186, 1, 1, 3)) % 256  # not the ground's
    image = (image * (4 - shape) + colour * shape) // 4 + whole(-12, 13, SIDE, SIDE, 3)
    return image.clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2)


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures, uint8 (10 count, 3, 32, 32), and their kinds, int64: ``count`` of each, mixed."""
    random = np.random.RandomState(seed)
    kinds = tqdm(KINDS, "drawing pictures", leave=False)
    images = np.concatenate([drawn(kind, count, random) for kind in kinds])
    order = random.permutation(len(images))
    return images[order], np.repeat(np.arange(len(KINDS)), count)[order]


def read_pictures(root: Path, size: int | None):
    """8,000 to train and 2,000 to test, as :func:`tlc_minimal.load_data` has them; ``root`` is not
    looked at, for there is nothing to fetch."""
    parts = (map(torch.from_numpy, pictures(count, seed)) for count, seed in ((800, 0), (200, 1)))
    train, test = (Split(resize(images, size), labels) for images, labels in parts)
    return "pictures", train, test, CLASSES
