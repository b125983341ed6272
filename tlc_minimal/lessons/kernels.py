"""The algebra of convolutions, as lesson 03 derives it: fold a batch norm, compose, add, identity.
The library does without it (:mod:`tlc_minimal.piece`), so each proves the other.

A ``Conv`` is a value: what a convolution computes, and nothing else. It covers 1-, 2- and
3-dimensional convolutions and, with no spatial dimension at all, ``nn.Linear``. Every function
takes values and returns a new one. Borders are the one thing to watch: ``compose`` refuses a
second convolution that pads, because zeros put *between* two convolutions do not compose.

Sources: fold_batch_norm, compose, add are equations 1-3 of RepVGG (arXiv 2101.03697) and
DiverseBranchBlock (arXiv 2103.13425), here with strides, dilation, groups and border conditions.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..channels import slope_and_shift
from ..nodes import left_padding, width


class Conv(NamedTuple):
    """y = W * x + b: weight (out, in / groups, *kernel), bias (out,), one number a dimension."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def dims(self) -> int:
        """Number of spatial dimensions; 0 for a linear layer."""
        return self.weight.ndim - 2

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:])


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def read(module: nn.Module) -> Conv:
    """The value of an nn.Conv1d/2d/3d or nn.Linear that pads with zeros, as many on either side;
    ValueError for another."""
    if getattr(module, "padding_mode", "zeros") != "zeros":
        raise ValueError(f"{module} pads with something else than zeros.")
    weight = module.weight.detach()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
    if isinstance(module, nn.Linear):
        return Conv(weight, bias)
    if module.padding == "same" and any(w % 2 for w in width(module)):
        raise ValueError(f"{module} pads one side more than the other; an odd kernel would not.")
    padding = tuple(left_padding(module))
    return Conv(weight, bias, module.stride, padding, module.dilation, module.groups)


def write(conv: Conv) -> nn.Module:
    """An ordinary nn.Linear or nn.Conv1d/2d/3d that computes ``conv``."""
    if conv.dims == 0:
        module = nn.Linear(conv.weight.shape[1], conv.weight.shape[0], device="meta")
    else:
        module = CONVOLUTIONS[conv.dims](
            conv.weight.shape[1] * conv.groups,
            conv.weight.shape[0],
            conv.kernel,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            device="meta",
        )
    module.weight = nn.Parameter(conv.weight.clone())
    module.bias = nn.Parameter(conv.bias.clone())
    return module


def scale_output(conv: Conv, slope: Tensor, shift: Tensor) -> Conv:
    """slope * conv(x) + shift, per output channel; both (out,)."""
    slope, shift = slope.to(conv.weight), shift.to(conv.weight)
    weight = conv.weight * slope.reshape(-1, *[1] * (conv.weight.ndim - 1))
    return conv._replace(weight=weight, bias=conv.bias * slope + shift)


def fold_batch_norm(conv: Conv, norm: nn.Module) -> Conv:
    """The convolution that computes norm(conv(x)); errors as in ``slope_and_shift``."""
    return scale_output(conv, *slope_and_shift(norm))


def identity(channels: int, dims: int, like: Tensor) -> Conv:
    """The Dirac kernel: y = x."""
    weight = torch.eye(channels, dtype=like.dtype, device=like.device)
    one = (1,) * dims
    return Conv(weight.reshape(channels, channels, *one), weight[0] * 0, one, (0,) * dims, one)


def dense(conv: Conv) -> Conv:
    """The same convolution with groups = 1 (zeros where groups did not meet)."""
    blocks = conv.weight.flatten(1).chunk(conv.groups)
    weight = torch.block_diag(*blocks).reshape(len(conv.weight), -1, *conv.kernel)
    return conv._replace(weight=weight, groups=1)


def compose(first: Conv, second: Conv) -> Conv:
    """second(first(x)) as one convolution: kernel k1 + s1 (k2 - 1), stride s1 s2, padding p1.

    (With dilations d1, d2 the kernel is 1 + d1 (k1 - 1) + s1 d2 (k2 - 1).) Exact everywhere, and
    therefore refused (ValueError) if the second one pads: move its padding to the first before,
    making it p1 + s1 p2, as ``linearize`` can. Summed in float64. Two convolutions with the same
    groups stay grouped.
    """
    if any(second.padding):
        raise ValueError(
            "the second convolution pads its input with zeros, so the two are not one convolution "
            "at the border: move the padding to the first one (linearize can)."
        )
    if first.groups == second.groups > 1:
        pairs = zip(_split(first), _split(second), strict=True)
        parts = [compose(one, two) for one, two in pairs]
        weight, bias = torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])
        return parts[0]._replace(weight=weight, bias=bias, groups=first.groups)
    one, two = dense(first), dense(second)
    w1, w2 = one.weight.double(), two.weight.double()
    bias = torch.einsum("om,m->o", w2.flatten(2).sum(2) if two.dims else w2, one.bias.double())
    bias = (bias + two.bias.double()).to(second.bias)
    if first.dims == 0:
        return Conv((w2 @ w1).to(first.weight), bias)
    spread = tuple(s * d for s, d in zip(one.stride, two.dilation, strict=True))
    # A transposed convolution adds W1[i] W2[j] into tap d1 i + s1 d2 j: that is the composition.
    transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[first.dims - 1]
    taps = transpose(w1.transpose(0, 1), w2.transpose(0, 1), stride=one.dilation, dilation=spread)
    stride = tuple(a * b for a, b in zip(one.stride, two.stride, strict=True))
    weight = taps.transpose(0, 1).contiguous().to(first.weight)
    return Conv(weight, bias, stride, one.padding, (1,) * one.dims)


def _split(conv: Conv) -> list[Conv]:
    """The groups of a convolution, each on its own."""
    parts = zip(conv.weight.chunk(conv.groups), conv.bias.chunk(conv.groups), strict=True)
    return [conv._replace(weight=weight, bias=bias, groups=1) for weight, bias in parts]


def add(a: Conv, b: Conv) -> Conv:
    """a(x) + b(x) as one convolution: both kernels embedded in their common support [-p, k-1-p].

    ValueError if the strides or the sizes of the outputs differ.
    """
    a, b = (_undilate(dense(c)) for c in (a, b))
    if a.stride != b.stride:
        raise ValueError(f"branches with strides {a.stride} and {b.stride} cannot be added.")
    sizes = [
        [k - 2 * p for k, p in zip(c.kernel, c.padding, strict=True)] for c in (a, b)
    ]  # what each takes off the size of its input
    if sizes[0] != sizes[1]:
        raise ValueError("branches whose outputs differ in size cannot be added.")
    padding = tuple(max(p, q) for p, q in zip(a.padding, b.padding, strict=True))
    kernel = tuple(
        max(k + p - c, m + p - d)
        for p, k, c, m, d in zip(padding, a.kernel, a.padding, b.kernel, b.padding, strict=True)
    )
    return a._replace(
        weight=_embed(a, kernel, padding) + _embed(b, kernel, padding),
        bias=a.bias + b.bias,
        padding=padding,
    )


def _undilate(conv: Conv) -> Conv:
    """The same convolution with dilation 1 (zeros between the taps)."""
    if all(d == 1 for d in conv.dilation):
        return conv
    size = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel, strict=True)]
    weight = conv.weight.new_zeros(*conv.weight.shape[:2], *size)
    weight[(..., *[slice(None, None, d) for d in conv.dilation])] = conv.weight
    return conv._replace(weight=weight, dilation=(1,) * conv.dims)


def _embed(conv: Conv, kernel: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """The weight of ``conv`` inside a larger kernel whose support starts at -padding."""
    weight = conv.weight.new_zeros(*conv.weight.shape[:2], *kernel)
    start = [p - q for p, q in zip(padding, conv.padding, strict=True)]
    window = [slice(s, s + k) for s, k in zip(start, conv.kernel, strict=True)]
    weight[(..., *window)] = conv.weight
    return weight


def apply(conv: Conv, x: Tensor) -> Tensor:
    """conv(x) for x of shape (N, in, *spatial), or (..., in) for a linear layer."""
    if conv.dims == 0:
        return F.linear(x, conv.weight, conv.bias)
    run = (F.conv1d, F.conv2d, F.conv3d)[conv.dims - 1]
    return run(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
