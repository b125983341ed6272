"""The images of somebody's DataLoaders, as the bytes that a Data holds."""

import torch
from torch import Tensor

from .images import Split
from .refuse import quoted


def read_loaders(train, test) -> tuple[str, Split, Split, tuple[str, ...]]:
    """What a reader of the library returns, of two loaders."""
    splits = [read_loader(loader) for loader in (train, test)]
    first, other = (tuple(split.images.shape[1:]) for split in splits)
    if first != other:
        raise ValueError(f"images of both loaders are of one size, not {first} and {other}.")
    classes = 1 + max(int(split.labels.max()) for split in splits)
    return "loaders", *splits, tuple(map(str, range(classes)))


def read_loader(loader) -> Split:
    """Everything that a loader of (images, labels) yields in one run. TypeError for what yields no
    such pairs, ValueError for floats that are no bytes, divided by 255."""
    batches = list(loader) if hasattr(loader, "__iter__") else [loader]
    pairs = [b for b in batches if isinstance(b, tuple | list) and len(b) == 2]
    if len(pairs) < len(batches) or not all(isinstance(x, Tensor) for b in pairs for x in b):
        raise TypeError(
            f"a loader yields batches of (images, labels), two tensors, and {type(loader).__name__}"
            " does not: wrap it in one that does."
        )
    sizes = {tuple(images.shape[1:]) for images, _ in pairs}
    if len(sizes) > 1 or any(not x.ndim for pair in pairs for x in pair):
        raise ValueError(f"a loader yields batches of images of one size, not of {quoted(sizes)}.")
    if not sum(len(labels) for _, labels in pairs):
        raise ValueError("the loader yields nothing: give at least one image of each class.")
    images, labels = (torch.cat(part).cpu() for part in zip(*pairs))
    numbers = not labels.is_floating_point() and labels.shape == (len(images),)
    if not (numbers and 0 <= labels.min() <= labels.max() < 2**20):
        least = f" from {labels.min()} on" if numbers else ""
        raise ValueError(
            f"labels are whole numbers from 0 on, one an image, not {labels.dtype} "
            f"{tuple(labels.shape)}{least}: give the number of each image's class."
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ValueError(f"images are (B, 1 or 3, H, W), not {tuple(images.shape)}.")
    if images.is_complex() or not images.isfinite().all():
        raise ValueError("images hold complex numbers, NaN or inf: give bytes, or bytes / 255.")
    if images.dtype != torch.uint8:
        shares = images.is_floating_point() or images.dtype is torch.bool  # else whole bytes
        wide = images.double() * (255 if shares else 1)
        whole, digits = wide.round(), 0.2 if images.element_size() == 2 else 0.01
        near = (wide - whole).abs().max() < digits
        if not near or whole.min() < 0 or whole.max() > 255:
            raise ValueError(
                "images of a loader are bytes, or bytes divided by 255, and these are not: leave "
                "Normalize and what blends pixels out of its transforms; a Data standardises."
            )
        images = whole.byte()
    return Split(images, labels.long())
