"""Checks of lesson 05, ResNet-18 on CIFAR-10."""

import torch

from ... import find_layers, resnet18, simple_cnn
from .exercise import exercise


@exercise((64, 128, 5, 4, 16), (3, 64, 3, 1, 32), (8, 16, 1, 2, 4))
def conv_macs(c_in, c_out, kernel, stride, side):
    """MACs of a convolution on side x side input pixels."""
    return kernel**2 * c_in * c_out * (side // stride) ** 2


conv_macs.mistakes = {
    "the stride leaves fewer output pixels": lambda i, o, k, s, n: conv_macs.right(i, o, k, 1, n),
    "only one side was divided by the stride": lambda i, o, k, s, n: k**2 * i * o * n * (n // s),
    "a square kernel has more taps than its side is long": lambda i, o, k, s, n: (
        k * i * o * (n // s) ** 2
    ),
    "each output sums over all input channels": lambda i, o, k, s, n: k**2 * o * (n // s) ** 2,
    "a multiply-accumulate is one operation, not two": lambda *case: 2 * conv_macs.right(*case),
}


@exercise((0.25,), (0.0,), (0.5,), (1.0,))
def block_share(q):
    """Share of a strided block's MACs that is left when a share q of its channels is cut."""
    return (13.5 * (1 - q) + 0.5) / 14


block_share.mistakes = {
    "the shortcut was cut, too, but has no inner channels": lambda q: 1 - q,
    "the second convolution loses input channels, too": lambda q: (4.5 * (1 - q) + 9.5) / 14,
    "the first convolution loses output channels, too": lambda q: (9 * (1 - q) + 5) / 14,
    "each convolution is cut on one side only": lambda q: (13.5 * (1 - q) ** 2 + 0.5) / 14,
    "this is what is saved, not what is left": lambda q: 13.5 * q / 14,
}


@exercise(*(lambda f=f: (f(width=4), torch.zeros(1, 3, 32, 32)) for f in (resnet18, simple_cnn)))
def activation_kinds(model, example):
    """The number of activations after a residual sum, and of those straight after a norm."""
    layers = find_layers(model, example)
    return sum(l.after_sum for l in layers), sum(l.norm is not None for l in layers)


def _kinds(*given, more=0):
    sums, norms = activation_kinds.right(*given)
    return sums, norms + more


activation_kinds.mistakes = {
    "sums come first, then norms": lambda *given: _kinds(*given)[::-1],
    "the stem was forgotten, which has an activation, too": lambda *given: _kinds(*given, more=-1),
    "behind a sum there is no batch norm": lambda *given: _kinds(*given, more=_kinds(*given)[0]),
}
