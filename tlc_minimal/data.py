"""Data sets in memory: three splits of bytes, and how they become a network's inputs."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from numbers import Integral
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .files import digest
from .reading.images import Split, read_cifar10, read_digits, read_folder, read_mnist
from .reading.loaders import read_loaders
from .reading.refuse import check_input, quoted
from .refuse import check_number, check_ranges

SPLITS = ("train", "val", "test")
READERS = {"digits": read_digits, "mnist": read_mnist, "cifar10": read_cifar10}
READERS["pictures"] = lambda *of: import_module("tlc_minimal.lessons.pictures").read_pictures(*of)


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set in memory: three splits and what it takes to feed them to a network."""

    name: str  # "digits", "pictures", "mnist", "cifar10", or the folder's name
    train: Split  # in random order
    val: Split  # a part of the published training images, by seed
    test: Split
    classes: tuple[str, ...]
    mean: Tensor  # (3,) of the training images, read as values in [0, 1]
    std: Tensor  # (3,)
    flip: bool  # may training mirror an image?
    crop: int  # by how many pixels may training shift an image?
    sha256: str  # of all pixels and labels as read, whatever the seed, subset or device

    @staticmethod
    def from_loader(train, test, seed: int = 0) -> "Data":
        """Data of two DataLoaders, read once into memory; a tenth of ``train`` is for validation,
        none is flipped or shifted. They yield images (B, 1 or 3, H, W), bytes or floats as ToTensor
        makes them, not normalised, and int labels (B,); TypeError, ValueError for anything else."""
        return replace(load_data((train, test), seed=seed), flip=False, crop=0)

    def __repr__(self) -> str:
        sizes = f"{self.train.size} train, {self.val.size} val, {self.test.size} test images"
        return f"Data({self.name}: {sizes}, {len(self.classes)} classes)"

    @property
    def example(self) -> Tensor:
        """Eight normalised training images, float32 (8, 3, H, W)."""
        return self.normalize(self.train.images[:8])

    def normalize(self, images: Tensor) -> Tensor:
        """Standardised float32 (B, 3, H, W) of uint8 (B, 1 or 3, H, W); ValueError if not that.
        (B, 1, H, W) where the network takes one channel (:func:`data_for`)."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            got = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"Images are uint8 (B, 1 or 3, H, W), not {got}.")
        mean, std = (x.to(images.device).view(1, -1, 1, 1) for x in (self.mean, self.std))
        return (images / 255 - mean).div_(std)  # the subtraction spreads one channel over three

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Normalised images (B, 3, H, W), each shifted by up to ``crop`` pixels and, if ``flip``,
        mirrored with probability one half; drawn from ``generator``, on its device."""
        x = F.pad(self.normalize(images), [self.crop] * 4).permute(0, 2, 3, 1).contiguous()
        (count, height, width, _), device = x.shape, x.device
        shift = torch.randint(2 * self.crop + 1, (2, count, 1), generator=generator, device=device)
        rows = shift[0] + torch.arange(images.shape[2], device=device)
        columns = shift[1] + torch.arange(images.shape[3], device=device)
        if self.flip:
            mirrored = torch.rand(count, 1, generator=generator, device=device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        each = torch.arange(count, device=device)[:, None, None]
        pixels = (each * height + rows[:, :, None]) * width + columns[:, None, :]  # (B, H, W)
        shifted = x.view(-1, x.shape[3]).index_select(0, pixels.flatten())
        return shifted.view(*pixels.shape, -1).permute(0, 3, 1, 2)  # channels_last

    @property
    def identity(self) -> str:
        """SHA-256 of the splits as they are here, and of how they become inputs."""
        parts = {f"{k}.{i}": x for k in SPLITS for i, x in enumerate(getattr(self, k))}
        how = {"read": self.sha256, "flip": str(self.flip), "crop": str(self.crop)}
        return digest(parts | {"mean": self.mean, "std": self.std}, how)

    def to(self, device) -> "Data":
        """The same data with every tensor on `device`."""
        parts = {k: Split(*(x.to(device) for x in getattr(self, k))) for k in SPLITS}
        return replace(self, **parts, mean=self.mean.to(device), std=self.std.to(device))

    def subset(self, n: int) -> "Data":
        """The first n training images, val and test in proportion; ValueError if n is not 1..N."""
        total = self.train.size
        check_number("a subset", n, Integral, lambda n: 1 <= n <= total, f"1 to {total} images")
        parts = {"train": Split(*(x[:n] for x in self.train))}
        for name, split in ("val", self.val), ("test", self.test):
            count = max(1, round(split.size * n / total))
            ids = torch.arange(count, device=split.labels.device) * split.size // count
            parts[name] = Split(*(x[ids] for x in split))
        return replace(self, **parts)


def load_data(name="digits", root="data", size: int | None = None, seed: int = 0) -> Data:
    """Loads "digits", "pictures", "mnist", "cifar10" or a folder of train/<class>/, test/<class>/.

    Looks under `root` and downloads only what is not there; `size` resizes to (size, size), `seed`
    chooses the validation images and the order. ValueError: unknown name or unusable images;
    FileNotFoundError: a folder without images; ConnectionError: no source was reached.
    """
    check_ranges(seed=seed)
    if isinstance(name, tuple) and len(name) == 2:
        title, train, test, classes = read_loaders(*name)
    elif name in [*READERS]:
        title, train, test, classes = READERS[name](Path(root).expanduser(), size)
    elif isinstance(name, str | Path) and os.path.isdir(os.path.expanduser(name)):
        title, train, test, classes = read_folder(Path(name).expanduser(), size)
    else:
        raise ValueError(f"No data set {quoted(name)}: give {', '.join(READERS)} or a folder.")
    sha256 = hashlib.sha256()
    for x in (*train, *test):
        sha256.update(str(tuple(x.shape)).encode())
        sha256.update(x.contiguous().numpy())
    order = torch.randperm(train.size, generator=torch.Generator().manual_seed(seed))
    n_val = max(1, round(train.size * (0.15 if name == "digits" else 0.1)))
    val, train = (Split(*(x[i] for x in train)) for i in (order[:n_val], order[n_val:]))
    if train.size < 2:
        raise ValueError("batch norm needs two training images, and one is kept for val: give 3.")
    mean, std = channel_statistics(train.images)
    flip, crop = (False, 2) if name in ("digits", "mnist") else (True, train.images.shape[-1] // 8)
    return Data(title, train, val, test, classes, mean, std, flip, crop, sha256.hexdigest())


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each (3,), of uint8 (N, C, H, W) read as values in [0, 1]."""
    counts = torch.stack([c.flatten().bincount(minlength=256) for c in images.unbind(1)])
    share = counts.double() / counts[0].sum()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    std = (share @ values.square() - mean.square()).clamp_min(1e-6).sqrt()  # constant: not zero
    return mean.float().expand(3).clone(), std.float().expand(3).clone()


def input_batches(data, limit: int, batch: int = 250) -> Iterator[Tensor]:
    """At most `limit` inputs from a tensor, a DataLoader (with or without labels) or a Data.

    Yields floats (B, ...). TypeError if the inputs are not floats, ValueError if there are none.
    """
    if isinstance(data, Data):
        data = map(data.normalize, data.train.images.split(batch))
    elif isinstance(data, Tensor):
        data = data.split(batch)
    left = limit
    for x in data:
        x = check_input(x[0] if isinstance(x, tuple | list) else x)
        yield x[:left]
        if (left := left - len(x)) <= 0:
            break
    if left == limit:
        raise ValueError("There are no inputs: give at least one image.")
