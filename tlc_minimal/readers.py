"""One function per source, offline first; each returns (name, train, test, classes)."""

import hashlib
import os
from contextlib import suppress
from glob import escape, glob
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from .download import download

IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Split(NamedTuple):
    """Images uint8 (N, C, H, W), C = 1 or 3, and labels int64 (N,); `.size` is N, `len` is 2."""

    images: Tensor
    labels: Tensor
    size = property(lambda self: len(self.labels))


def resize(images: Tensor, size: int | None) -> Tensor:
    """(N, C, H, W) with values 0..255 to uint8 (N, C, size, size), bilinearly; None: unchanged."""
    if size is None:
        return images
    how = {"size": (size, size), "mode": "bilinear", "antialias": True}
    return torch.cat([interpolate(x.float(), **how).round().byte() for x in images.split(1000)])


def read_digits(root: Path, size: int | None):
    """1,797 digits that scikit-learn carries, 8x8 enlarged to 32x32; a fixed fifth is the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    images = resize(images.view(-1, 1, 8, 8) * (255 / 16), size or 32)
    ids = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    train, test = (Split(images[i], labels[i].long()) for i in ids)
    return "digits", train, test, tuple("0123456789")


def read_mnist(root: Path, size: int | None):
    """MNIST as 28x28 grey images from root/MNIST/raw, whose missing files are fetched."""
    from torchvision.datasets import MNIST  # slow to import, so only when needed

    for packed in (root / "MNIST" / "raw" / name for name, _ in MNIST.resources):
        if not packed.with_suffix("").exists():
            download("mnist", packed)
    parts = [MNIST(root, train, download=True) for train in (True, False)]  # it only unpacks now
    train, test = (Split(resize(x.data.unsqueeze(1), size), x.targets) for x in parts)
    return "mnist", train, test, tuple("0123456789")


def read_cifar10(root: Path, size: int | None):
    """CIFAR-10 from root/cifar-10-batches-py, its archive, root/cifar10-jpeg or a download."""
    packed, jpeg = root / "cifar-10-python.tar.gz", root / "cifar10-jpeg"
    if not (root / "cifar-10-batches-py").is_dir():
        if jpeg.is_dir() and not packed.exists():
            return read_folder(jpeg, size)
        download("cifar10", packed)
    from torchvision.datasets import CIFAR10

    parts = [CIFAR10(root, train, download=packed.exists()) for train in (True, False)]
    images = (torch.from_numpy(x.data).permute(0, 3, 1, 2).contiguous() for x in parts)
    train, test = (Split(resize(i, size), torch.tensor(x.targets)) for i, x in zip(images, parts))
    return "cifar10", train, test, tuple(parts[0].classes)


def read_folder(folder: Path, size: int | None):
    """Any images as folder/train/<class>/ and folder/test/<class>/, decoded once, then cached."""
    found = (glob(f"{escape(str(folder))}/{part}/*/*") for part in ("train", "test"))
    parts = [sorted(file for file in x if file.lower().endswith(IMAGE_TYPES)) for x in found]
    if not all(parts):
        raise FileNotFoundError(f"{folder} needs {IMAGE_TYPES} in train/<class>/, test/<class>/.")
    names = [[Path(file).parent.name for file in part] for part in parts]
    classes, others = (sorted(set(x)) for x in names)
    if classes != others or len(classes) < 2:
        raise ValueError(f"{folder} has classes {classes} and {others}: give the same two or more.")
    files = parts[0] + parts[1]
    stats = ((file.removeprefix(str(folder)), os.stat(file)) for file in files)
    state = repr([(name, x.st_size, x.st_mtime_ns) for name, x in stats])
    state = hashlib.sha256(state.encode()).hexdigest()  # any change means decoding again
    cache, images = folder / f".tlc_cache_{size or 'native'}.safetensors", None
    with suppress(OSError, SafetensorError), safe_open(cache, "pt") as file:
        if file.metadata()["files"] == state:
            images = file.get_tensor("images")
    if images is None:
        images, fresh = decode_all(files, size), cache.with_suffix(".part")
        with suppress(OSError, SafetensorError):  # where nothing can be written, just go on
            save_file({"images": images}, fresh, {"files": state})
            fresh.replace(cache)
    labels = (torch.from_numpy(np.searchsorted(classes, x)) for x in names)
    train, test = map(Split, images.split([len(x) for x in names]), labels)
    return folder.resolve().name, train, test, tuple(classes)


def decode_all(files: list[str], size: int | None) -> Tensor:
    """uint8 (N, 3, H, W) of N files, decoded in parallel; ValueError if their sizes differ."""
    first = decode(files[0], size)
    images = np.empty((len(files), *first.shape), np.uint8)
    with ThreadPool() as pool:
        decoded = pool.imap(lambda file: decode(file, size), files, chunksize=100)
        for i, image in enumerate(tqdm(decoded, "images", len(files), leave=False)):
            if image.shape != first.shape:
                raise ValueError(f"{files[0]} and {files[i]} differ in size: pass size=64, say.")
            images[i] = image
    return torch.from_numpy(images)


def decode(file: str, size: int | None) -> np.ndarray:
    """One image as uint8 (3, H, W); with `size`, scaled and cropped at the centre."""
    try:
        with Image.open(file) as image:
            image = image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{file} cannot be read ({error}): replace or delete it.") from error
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)
