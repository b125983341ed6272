"""Checks of lesson 05, ResNet-18 on CIFAR-10."""

import torch

from .compare import compare


def _given(answers: list):
    return None if any(a is None or a is ... for a in answers) else answers


def conv_macs(f) -> None:
    """MACs of a convolution, f(c_in, c_out, kernel, stride, side of the input map)."""
    i, o, k, s, n = torch.tensor([[3, 64, 3, 1, 32], [64, 128, 3, 2, 16], [8, 16, 1, 2, 4]]).T
    want = k**2 * i * o * (n // s) ** 2
    mistakes = {
        "the stride was forgotten: count the output pixels.": want * s**2,
        "the map has side² pixels: divide both sides by the stride.": want * s,
        "the kernel has kernel² taps, not kernel.": want // k,
        "the input channels are missing: each output sums over all of them.": want // i,
        "a multiply-accumulate is one operation here, not two.": 2 * want,
    }
    got = [f(*map(int, case)) for case in zip(i, o, k, s, n)]
    compare(_given(got), want, mistakes)


def block_share(f) -> None:
    """Share of a strided block's MACs left when a share q of its inner channels is cut, f(q)."""
    q = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    mistakes = {
        "the shortcut is not cut: its 0.5 of 14 stays.": 1 - q,
        "the second convolution loses input channels too.": (4.5 * (1 - q) + 9.5) / 14,
        "the first convolution loses output channels too.": (9 * (1 - q) + 5) / 14,
        "each convolution is cut on one side only: no square.": (13.5 * (1 - q) ** 2 + 0.5) / 14,
        "what is left was asked for, not what is saved.": 13.5 * q / 14,
    }
    got = [f(float(share)) for share in q]
    compare(_given(got), (13.5 * (1 - q) + 0.5) / 14, mistakes)


def activation_kinds(f) -> None:
    """(activations after a sum, straight after a batch norm) of two networks, f(model, example)."""
    from ..models import resnet18, simple_cnn

    x, want = torch.zeros(1, 3, 32, 32), torch.tensor([8, 9, 0, 6])
    mistakes = {
        "the pair is swapped: sums come first.": want[[1, 0, 3, 2]],
        "the stem was forgotten: it has an activation of its own.": torch.tensor([8, 8, 0, 6]),
        "a sum is not a batch norm: norm is None there.": torch.tensor([8, 17, 0, 6]),
    }
    got = [f(model, x) for model in (resnet18(width=4), simple_cnn(width=4))]
    compare(_given(got) and torch.tensor(got).flatten(), want, mistakes)
