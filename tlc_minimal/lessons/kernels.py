"""The algebra of convolutions, as lesson 03 derives it: fold a batch norm, compose, add, identity.

A ``Conv`` is a value: what a convolution without groups and dilation (or, with no spatial dimension
at all, a linear layer) computes. Every function takes values and returns a new one. The library
does without this algebra (:mod:`tlc_minimal.piece`), so that each proves the other.

Sources: fold_batch_norm, compose, add are equations 1-3 of RepVGG (arXiv 2101.03697) and
DiverseBranchBlock (arXiv 2103.13425), here with strides and border conditions.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..channels import slope_and_shift
from ..nodes import CONV


class Conv(NamedTuple):
    """y = W * x + b: weight (out, in, *kernel), bias (out,), one number a dimension."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:])


def read(module: nn.Module) -> Conv:
    """The value of an nn.Conv1d/2d/3d or nn.Linear; ValueError for what a ``Conv`` cannot say."""
    weight = module.weight.detach()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
    if isinstance(module, nn.Linear):
        return Conv(weight, bias)
    plain = isinstance(module, CONV) and not isinstance(module.padding, str)
    plain = plain and module.padding_mode == "zeros"
    if not plain or module.groups > 1 or max(module.dilation) > 1:
        raise ValueError(f"{module} has groups, dilation or a padding that is no number of zeros.")
    return Conv(weight, bias, module.stride, module.padding)


def write(conv: Conv) -> nn.Module:
    """An ordinary nn.Linear or nn.Conv1d/2d/3d that computes ``conv``."""
    out, into = conv.weight.shape[:2]
    if conv.kernel:
        make, options = CONV[len(conv.kernel) - 1], (conv.kernel, conv.stride, conv.padding)
    else:
        make, options = nn.Linear, ()
    module = make(into, out, *options, device="meta")
    module.weight, module.bias = (nn.Parameter(v.clone()) for v in conv[:2])
    return module


def apply(conv: Conv, x: Tensor) -> Tensor:
    """conv(x) for x of shape (N, in, *spatial), or (..., in) for a linear layer."""
    run = (F.linear, F.conv1d, F.conv2d, F.conv3d)[len(conv.kernel)]
    return run(x, *(conv if conv.kernel else conv[:2]))


def fold_batch_norm(conv: Conv, norm: nn.Module) -> Conv:
    """The convolution that computes norm(conv(x)); ValueError for a batch norm in training mode or
    without running statistics, whose output depends on the batch."""
    if norm.running_var is None:
        raise ValueError(
            "a batch norm with track_running_stats=False is no map: give it statistics."
        )
    slope, shift = (v.to(conv.weight) for v in slope_and_shift(norm))
    weight = conv.weight * slope.reshape(-1, *[1] * (conv.weight.ndim - 1))
    return conv._replace(weight=weight, bias=conv.bias * slope + shift)


def identity(channels: int, dims: int, like: Tensor) -> Conv:
    """The Dirac kernel: y = x."""
    weight = torch.eye(channels, dtype=like.dtype, device=like.device)
    shape, one = (channels, channels, *[1] * dims), (1,) * dims
    return Conv(weight.reshape(shape), weight[0] * 0, one, (0,) * dims)


def compose(first: Conv, second: Conv) -> Conv:
    """second(first(x)) as one: kernel k1 + s1 (k2 - 1), stride s1 s2, padding p1; in float64.

    Exact everywhere, and therefore refused (ValueError) if the second one pads: move its padding to
    the first before, making it p1 + s1 p2, as ``linearize`` can.
    """
    if any(second.padding):
        raise ValueError(
            "the second convolution pads its input with zeros, so the two are not one convolution "
            "at the border: move the padding to the first one (linearize can)."
        )
    w1, w2 = first.weight.double(), second.weight.double()
    bias = w2.flatten(2).sum(2) @ first.bias.double() if first.kernel else w2 @ first.bias.double()
    bias = (bias + second.bias).to(second.bias)
    if not first.kernel:
        return Conv((w2 @ w1).to(first.weight), bias)
    # A transposed convolution adds W1[i] W2[j] into tap i + s1 j: that is the composition.
    spread = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(first.kernel) - 1]
    taps = spread(w1.transpose(0, 1), w2.transpose(0, 1), dilation=first.stride).transpose(0, 1)
    stride = tuple(a * b for a, b in zip(first.stride, second.stride))
    return Conv(taps.contiguous().to(first.weight), bias, stride, first.padding)


def add(a: Conv, b: Conv) -> Conv:
    """a(x) + b(x) as one: both kernels embedded in their common support [-p, k-1-p]; ValueError if
    strides or the sizes of outputs differ."""
    if a.stride != b.stride:
        raise ValueError(f"branches with strides {a.stride} and {b.stride} cannot be added.")
    taken = [[k - 2 * p for k, p in zip(c.kernel, c.padding)] for c in (a, b)]
    if taken[0] != taken[1]:
        raise ValueError("branches whose outputs differ in size cannot be added.")
    padding = tuple(map(max, a.padding, b.padding))
    size = [t + 2 * p for t, p in zip(taken[0], padding)]
    weight = a.weight.new_zeros(*a.weight.shape[:2], *size)
    for conv in (a, b):
        starts = zip(padding, conv.padding, conv.kernel)
        weight[(..., *[slice(p - q, p - q + k) for p, q, k in starts])] += conv.weight
    return Conv(weight, a.bias + b.bias, a.stride, padding)
