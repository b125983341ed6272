"""Data sets in memory: three splits of bytes, and how they become a network's inputs."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .readers import READERS, Split, read_folder


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set in memory: three splits and what it takes to feed them to a network."""

    name: str  # "digits", "mnist", "cifar10", or the folder's name
    train: Split  # in random order
    val: Split  # a fixed part of the published training images
    test: Split
    classes: tuple[str, ...]
    mean: Tensor  # (3,) of the training images, read as values in [0, 1]
    std: Tensor  # (3,)
    flip: bool  # may training mirror an image?
    crop: int  # by how many pixels may training shift an image?
    sha256: str  # of all pixels and labels as read, whatever the seed, subset or device

    def __repr__(self) -> str:
        sizes = f"{self.train.size} train, {self.val.size} val, {self.test.size} test images"
        return f"Data({self.name}: {sizes}, {len(self.classes)} classes)"

    @property
    def example(self) -> Tensor:
        """Eight normalised training images, float32 (8, 3, H, W)."""
        return self.normalize(self.train.images[:8])

    def normalize(self, images: Tensor) -> Tensor:
        """Standardises uint8 (B, C, H, W) to float32 (B, 3, H, W) on the same device.

        One grey channel becomes three. ValueError if `images` are anything else.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            got = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"normalize takes uint8 images (B, 1 or 3, H, W), not {got}.")
        mean, std = (x.to(images.device).view(1, 3, 1, 1) for x in (self.mean, self.std))
        return (images / 255 - mean).div_(std)  # the subtraction spreads one channel over three

    def to(self, device) -> "Data":
        """The same data with every tensor on `device`."""
        train, val, test = (
            Split(*(x.to(device) for x in split)) for split in (self.train, self.val, self.test)
        )
        mean, std = self.mean.to(device), self.std.to(device)
        return replace(self, train=train, val=val, test=test, mean=mean, std=std)

    def subset(self, n: int) -> "Data":
        """The first n training images; validation and test thinned evenly to the same share.

        Mean and spread stay those of all images. ValueError unless 1 <= n <= N.
        """
        total = self.train.size
        if not 1 <= n <= total:
            raise ValueError(f"subset takes 1 to {total} training images of {self.name}, not {n}.")

        def thin(split: Split) -> Split:
            count = max(1, round(split.size * n / total))
            ids = torch.arange(count, device=split.labels.device) * split.size // count
            return Split(split.images[ids], split.labels[ids])

        train = Split(self.train.images[:n], self.train.labels[:n])
        return replace(self, train=train, val=thin(self.val), test=thin(self.test))


def load_data(name="digits", root="data", size: int | None = None, seed: int = 0) -> Data:
    """Loads "digits", "mnist", "cifar10", or the folder `name` of train/<class>/ and test/<class>/.

    Looks under `root` and downloads only what is not there; `size` resizes to (size, size), `seed`
    chooses the validation images and the order. ValueError: unknown name or unusable images;
    FileNotFoundError: a folder without train/ or test/; ConnectionError: no source was reached.
    """
    name = str(name)
    if name not in READERS and not Path(name).is_dir():
        close = difflib.get_close_matches(name.lower(), READERS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        known = ", ".join(map(repr, READERS))
        raise ValueError(
            f"There is no data set {name!r}{hint}: give {known} or the path of an "
            "image folder that has train/<class>/ and test/<class>/ in it."
        )
    if size is not None and size < 1:
        raise ValueError(f"size is the side of an image in pixels, at least 1, not {size}.")
    read = READERS[name](Path(root), size) if name in READERS else read_folder(Path(name), size)
    order = torch.randperm(read.train.size, generator=torch.Generator().manual_seed(seed))
    n_val = max(1, round(read.train.size * (0.15 if name == "digits" else 0.1)))
    val, train = (Split(*(x[i] for x in read.train)) for i in (order[:n_val], order[n_val:]))
    mean, std = channel_statistics(train.images)
    flip, crop = (False, 2) if name in ("digits", "mnist") else (True, train.images.shape[-1] // 8)
    return Data(read.name, train, val, read.test, read.classes, mean, std, flip, crop, read.sha256)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each (3,), of uint8 (N, C, H, W) read as values in [0, 1]."""
    histograms = [torch.bincount(c.flatten(), minlength=256).double() for c in images.unbind(1)]
    share = torch.stack(histograms) / histograms[0].sum()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    std = (share @ values.square() - mean.square()).clamp_min(1e-6).sqrt()  # constant: not zero
    return mean.float().expand(3).clone(), std.float().expand(3).clone()


def input_batches(data, batch: int = 250, limit: int | None = None) -> Iterator[Tensor]:
    """Float inputs (B, ...) from a tensor of ready inputs, a DataLoader or the training images.

    At most `limit` images in all. A DataLoader may yield inputs or (inputs, labels).
    TypeError for anything else or for integer inputs; ValueError for no inputs, NaN or infinity.
    """
    if isinstance(data, Data):
        batches = (data.normalize(x) for x in data.train.images.split(batch))
    elif isinstance(data, Tensor):
        batches = iter(data.split(batch))
    elif isinstance(data, DataLoader):
        batches = (x[0] if isinstance(x, tuple | list) else x for x in data)
    else:
        kind = type(data).__name__
        raise TypeError(f"Inputs come from a tensor, a DataLoader or load_data, not from {kind}.")
    return _checked(batches, limit)


def _checked(batches: Iterator[Tensor], limit: int | None) -> Iterator[Tensor]:
    seen = 0
    for x in batches:
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"Inputs must be floating-point tensors, not {kind}: normalise them.")
        x = x if limit is None else x[: limit - seen]
        if not x.isfinite().all():
            raise ValueError("The inputs contain NaN or infinity: check how they were normalised.")
        seen += len(x)
        if len(x):
            yield x
        if seen == limit:
            break
    if not seen:
        raise ValueError("There are no inputs: give at least one image.")
