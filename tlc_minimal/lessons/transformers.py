"""Networks without batch norm: torchvision's ViT and Swin made small, an encoder of text, a text.

The images' networks are torchvision's own, unmodified; the library takes them as they are. What the
course calls text is the source of the Python that runs it: six packages of the standard library,
cut into windows of words; which package is a window from? Nothing is downloaded.
"""

import hashlib
import re
import sysconfig
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer

from ..data import Data
from ..reading.images import Split

PACKAGES = ("asyncio", "email", "importlib", "multiprocessing", "unittest", "xml")


def vit(classes: int = 10, width: int = 64, depth: int = 6, size: int = 32) -> VisionTransformer:
    """A ViT (arXiv 2010.11929) on patches of 4x4; (N, 3, size, size) to (N, classes).

    Pre-norm, four heads, MLPs of 4 ``width``: ``depth`` GELUs can be removed.
    """
    return VisionTransformer(size, 4, depth, 4, width, 4 * width, num_classes=classes)


def swin(classes: int = 10, width: int = 32) -> SwinTransformer:
    """A Swin transformer (arXiv 2103.14030) of three stages on 32x32 images; 6 GELUs.

    Patches of 2x2, windows of 4x4; ``width`` doubles from stage to stage.
    """
    heads, depths = [2, 4, 8], [2, 2, 2]
    return SwinTransformer([2, 2], width, depths, heads, [4, 4], 4.0, 0.0, 0.0, 0.0, classes)


class Block(nn.Module):
    """Attention, then an MLP, each with its shortcut and the LayerNorm behind the sum, as in BERT
    (arXiv 1810.04805); (N, T, width) to the same."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        return self.norm2(x + self.mlp(x))


class TextEncoder(nn.Module):
    """A BERT-style classifier of one-hot words (N, ``length``, ``words``), to (N, classes)."""

    def __init__(
        self, words: int, length: int, classes: int, width: int = 64, depth: int = 2, heads: int = 4
    ):
        super().__init__()
        self.embedding = nn.Linear(words, width)  # of one-hot inputs: floats go in, as everywhere
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.norm(self.embedding(x) + self.positions))
        return self.head(x.mean(1))


@dataclass(frozen=True, eq=False, repr=False)
class TextData(Data):
    """Windows of words: ``images`` of its splits are uint8 (N, T), an index into ``words`` each."""

    words: tuple[str, ...]  # the vocabulary; the first stands for all that is not in it

    def __repr__(self) -> str:
        sizes = f"{self.train.size} train, {self.val.size} val, {self.test.size} test windows"
        return (
            f"TextData({self.name}: {sizes}, {len(self.words)} words, {len(self.classes)} classes)"
        )

    def normalize(self, images: Tensor) -> Tensor:
        """One-hot float32 (B, T, words) of uint8 (B, T); ValueError if not that."""
        if images.dtype != torch.uint8 or images.ndim != 2:
            raise ValueError(f"Words are uint8 (B, T), not {images.dtype} {tuple(images.shape)}.")
        return F.one_hot(images.long(), len(self.words)).float()

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The same as :meth:`normalize`: a text is not mirrored."""
        return self.normalize(images)


def load_text(length: int = 64, vocabulary: int = 256, library: str | Path | None = None):
    """The standard library's source as :class:`TextData`, a class for each of ``PACKAGES``.

    Windows of ``length`` words (identifiers, numbers, signs), half overlapping. No file has windows
    in two splits: by size, every fifth is test, every fifth val. The words are the most frequent of
    the training files. ``library``: the folder with the packages (default: this Python's); another
    version of Python has other texts, which ``sha256`` tells. ValueError for a vocabulary that is
    not 2 to 256; FileNotFoundError where Python comes without source.
    """
    if not 2 <= vocabulary <= 256:
        raise ValueError(f"a vocabulary is 2 to 256 words, which fit a byte, not {vocabulary}.")
    library = Path(library or sysconfig.get_paths()["stdlib"])
    parts = {"train": [], "val": [], "test": []}  # of (label, words of a file)
    for label, package in enumerate(PACKAGES):
        paths = (library / package).rglob("*.py")
        files = [p.read_text("utf-8") for p in paths if "test" not in p.relative_to(library).parts]
        texts = sorted(files, key=lambda text: (-len(text), text))
        if len(texts) < 5:
            raise FileNotFoundError(
                f"{library} has no source of {package}: use a full install of Python."
            )
        for i, text in enumerate(texts):
            name = {1: "test", 3: "val"}.get(i % 5, "train")
            parts[name].append((label, re.findall(r"\w+|[^\w\s]", text)))
    counts = Counter(word for _, words in parts["train"] for word in words)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    words = ("?other?", *ranked[: vocabulary - 1])
    index = {word: i for i, word in enumerate(words)}
    splits = {name: _windows(texts, index, length) for name, texts in parts.items()}
    digest = hashlib.sha256("\n".join(words).encode())
    for split in splits.values():
        for x in split:
            digest.update(x.numpy())
    order = torch.randperm(splits["train"].size, generator=torch.Generator().manual_seed(0))
    splits["train"] = Split(*(x[order] for x in splits["train"]))
    no_scale = dict(mean=torch.zeros(1), std=torch.ones(1), flip=False, crop=0)
    about = dict(name="python-source", classes=PACKAGES, sha256=digest.hexdigest(), words=words)
    return TextData(**splits, **no_scale, **about)


def _windows(texts: list[tuple[int, list[str]]], index: dict[str, int], length: int) -> Split:
    rows, labels = [], []
    for label, words in texts:
        codes = torch.tensor([index.get(word, 0) for word in words], dtype=torch.uint8)
        if len(codes) >= length:
            rows.append(codes.unfold(0, length, length // 2))
            labels += [label] * len(rows[-1])
    if not rows:
        raise ValueError(f"no file of one of the splits has {length} words: lower length.")
    return Split(torch.cat(rows), torch.tensor(labels))
