"""One function per source, offline first; each returns (name, train, test, classes)."""

import gzip
import hashlib
import os
import shutil
import warnings
from collections import Counter
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from ..files import load_weights, save_weights, write_whole
from .download import download, is_whole

IMAGE_TYPES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
TESTS = ("test", "val", "valid")
RULES = "16 bits / 257, EXIF turned, white behind alpha"  # change with as_rgb: caches go stale
CIFAR10_SIZES = (50_000, 10_000)


class Split(NamedTuple):
    """Images uint8 (N, C, H, W), C = 1 or 3, and labels int64 (N,); `.size` is N, `len` is 2."""

    images: Tensor
    labels: Tensor
    size = property(lambda self: len(self.labels))


def check_size(size: int | None) -> int | None:
    """`size` itself; ValueError unless it is None or a number of pixels."""
    if size is None or (type(size) is int and size > 0):
        return size
    raise ValueError(f"size is a number of pixels, 1 or more, or None, not {size!r}.")


def resize(images: Tensor, size: int | None) -> Tensor:
    """(N, C, H, W) with values 0..255 to uint8 (N, C, size, size), bilinearly; None: unchanged."""
    if check_size(size) is None:
        return images
    how = {"size": (size, size), "mode": "bilinear", "antialias": True}
    return torch.cat([interpolate(x.float(), **how).round().byte() for x in images.split(1000)])


def read_digits(root: Path, size: int | None):
    """1,797 digits that scikit-learn carries, 8x8 enlarged to 32x32; a fixed fifth is the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    images = resize(images.view(-1, 1, 8, 8) * (255 / 16), 32 if size is None else size)
    ids = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    train, test = (Split(images[i], labels[i].long()) for i in ids)
    return "digits", train, test, tuple("0123456789")


def read_mnist(root: Path, size: int | None):
    """MNIST as 28x28 grey images from root/MNIST/raw, which is mended where a file is not whole."""

    def content(name: str, head: int) -> Tensor:
        """What follows the `head` bytes of an IDX file, which is unpacked again if damaged."""
        file, packed = (root / "MNIST" / "raw" / x for x in (name, f"{name}.gz"))
        if not is_whole(file):
            download("mnist", packed)
            write_whole(file, gzip.decompress(packed.read_bytes()))
        return torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8, offset=head)

    def split(part: str) -> Split:
        images = content(f"{part}-images-idx3-ubyte", 16).view(-1, 1, 28, 28)
        return Split(resize(images, size), content(f"{part}-labels-idx1-ubyte", 8).long())

    return "mnist", split("train"), split("t10k"), tuple("0123456789")


def read_cifar10(root: Path, size: int | None):
    """CIFAR-10, the same from the image folder root/cifar10, root/cifar-10-batches-py, its archive
    or a download; from the lossy root/cifar10-jpeg only where none of the first three is."""
    folder, packed = root / "cifar10", root / "cifar-10-python.tar.gz"
    if (folder / "train").is_dir():
        _, train, test, classes = read_folder(folder, size)
        if (sizes := (train.size, test.size)) != CIFAR10_SIZES:
            raise ValueError(f"{folder} has {sizes} images, not {CIFAR10_SIZES}: fill it again.")
        return "cifar10", train, test, classes
    from torchvision.datasets import CIFAR10  # slow to import, so only when needed

    try:
        parts = [CIFAR10(root, train) for train in (True, False)]
    except RuntimeError:  # the batches are missing or damaged
        if (root / "cifar10-jpeg").is_dir() and not packed.exists():
            return read_folder(root / "cifar10-jpeg", size)
        download("cifar10", packed)
        shutil.unpack_archive(packed, root)
        parts = [CIFAR10(root, train) for train in (True, False)]
    images = (torch.from_numpy(x.data).permute(0, 3, 1, 2).contiguous() for x in parts)
    train, test = (Split(resize(i, size), torch.tensor(x.targets)) for i, x in zip(images, parts))
    return "cifar10", train, test, tuple(parts[0].classes)


def read_folder(folder: Path, size: int | None):
    """Any images as folder/train/<class>/ and folder/test/<class>/, decoded once, then cached.

    Class by class; by number where the files of all classes are numbered through. What is not read
    is counted in one warning.
    """
    check_size(size)
    parts, said = find_images(folder)
    names = [[os.path.basename(os.path.dirname(f)) for f in part] for part in parts]
    classes, others = map(set, names)
    if odd := sorted(classes ^ others):
        one = f"{odd[0]!r}" + (f" (and {len(odd) - 1} more)" if odd[1:] else "")
        raise ValueError(f"{folder} has the class {one} in only one of train and test: give both.")
    if len(classes) < 2:
        raise ValueError(f"{folder} has only the class {classes.pop()!r}: give two or more.")
    files, classes = parts[0] + parts[1], sorted(classes)
    try:
        stats = [(file.removeprefix(str(folder)), os.stat(file)) for file in files]
    except OSError as error:  # a broken link
        why = f"{error.filename} cannot be read ({error.strerror}): replace or delete it."
        raise ValueError(why) from error
    state = repr([RULES, *((name, x.st_size, x.st_mtime_ns) for name, x in stats)])
    state = hashlib.sha256(state.encode()).hexdigest()  # any change means decoding again
    cache, images = folder / f".tlc_cache_{size or 'native'}.safetensors", None
    with suppress(OSError, ValueError):  # no cache, or a damaged one
        tensors, about = load_weights(cache)
        images = tensors["images"] if about.get("files") == state else None
    if images is None:
        images = decode_all(files, size)
        with suppress(OSError):  # where nothing can be written, just go on
            save_weights({"images": images}, cache, files=state)
    if said:
        warnings.warn(f"{folder}: {said}.", stacklevel=3)
    labels = (torch.from_numpy(np.searchsorted(classes, x)) for x in names)
    train, test = map(Split, images.split([len(x) for x in names]), labels)
    return folder.resolve().name, train, test, tuple(classes)


def find_images(folder: Path) -> tuple[list[list[str]], str]:
    """The images of train/<class>/ and of test/<class>/ (of val/ or valid/ where there is none),
    and what else the user should know: which is the test set, and how many files are left out."""
    found, left = {}, Counter()
    for path, folders, names in os.walk(folder, followlinks=True):
        here, where = os.path.realpath(path), Path(path).relative_to(folder).parts
        inner = {f: os.path.realpath(os.path.join(path, f)) for f in folders}
        folders[:] = [f for f in folders if os.path.commonpath([here, inner[f]]) != inner[f]]
        for name in names:
            end = os.path.splitext(name)[1].lower()
            if any(x.startswith(".") for x in (*where, name)):
                kind = "hidden"
            elif end not in IMAGE_TYPES:
                kind = end or "without an ending"
            elif len(where) == 2:
                found.setdefault(where[0], []).append(os.path.join(path, name))
                continue
            else:
                kind = "images not directly in train/<class>/ or test/<class>/"
            left[kind] += bool(where) and where[0] in ("train", *TESTS) or end in IMAGE_TYPES
    test = next((part for part in TESTS if part in found), "test")
    parts = [in_order(found.pop(part, [])) for part in ("train", test)]
    left = +(left + Counter({f"in {part}/": len(files) for part, files in found.items()}))
    kinds = ", ".join(f"{n} {kind}" for kind, n in left.most_common(6))
    said = [f"{test}/ is the test set, for there is no test/<class>/"] * (test != "test")
    said = "; ".join(said + [f"files left out: {left.total()} ({kinds})"] * bool(left))
    if not all(parts):
        empty = test if parts[0] else "train"
        raise FileNotFoundError(
            f"{folder} has no {', '.join(IMAGE_TYPES)} in {empty}/<class>/: split the images into "
            f"train/<class>/ and test/<class>/{said and '; '}{said}."
        )
    return parts, said


def in_order(files: list[str]) -> list[str]:
    """By path; by name alone where no two files have the same, as in CIFAR-10's own order."""
    names = {os.path.basename(file) for file in files}
    return sorted(files, key=os.path.basename if len(names) == len(files) else None)


def decode_all(files: list[str], size: int | None) -> Tensor:
    """uint8 (N, 3, H, W) of N files, decoded in parallel; ValueError if their sizes differ."""
    first = decode(files[0], size)
    images = np.empty((len(files), *first.shape), np.uint8)
    with ThreadPool() as pool:
        decoded = pool.imap(lambda file: decode(file, size), files, chunksize=100)
        for i, image in enumerate(tqdm(decoded, "images", len(files), leave=False)):
            if image.shape != first.shape:
                (_, h, w), (_, height, width) = first.shape, image.shape
                raise ValueError(
                    f"{files[0]} is {w} x {h} pixels and {files[i]} {width} x {height}: give one "
                    "size to all, with size=64, say."
                )
            images[i] = image
    return torch.from_numpy(images)


def decode(file: str, size: int | None) -> np.ndarray:
    """One image as uint8 (3, H, W); with `size`, scaled and cropped at the centre."""
    try:
        with Image.open(file) as image:
            image = as_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # each of Pillow's readers has its own
        reason = str(error).removesuffix(repr(file)).strip() or type(error).__name__
        raise ValueError(f"{file} cannot be read ({reason}): replace or delete it.") from error
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def as_rgb(image: Image.Image) -> Image.Image:
    """Eight bits of red, green and blue: of 16 bits 65535 is white; white lies behind alpha."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode.startswith(("I", "F")):
        raise OSError(f"32 bits a pixel, Pillow's mode {image.mode}, where 8 or 16 are read")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
