"""The few modules that linearising and merging leave behind in a network, and why."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels
from .kernels import Conv


class Affine(nn.Module):
    """slope * x + shift per channel: what is left of an activation that nothing can absorb yet.

    ``slope`` and ``shift`` have shape (channels,), or slope is None for x + shift. Channels whose
    slope is 0 are OFF: a mask, not a parameter, so that no tuning brings them back. ``learn=False``
    freezes everything (the paper's rule: 0 or identity).
    """

    def __init__(self, slope: Tensor | None, shift: Tensor, dim: int = 1, learn: bool = True):
        super().__init__()
        self.dim = dim
        self.shift = nn.Parameter(shift.clone(), requires_grad=learn)
        self.slope = None if slope is None else nn.Parameter(slope.clone(), requires_grad=learn)
        self.register_buffer("on", None if slope is None else (slope != 0).to(slope.dtype))

    def forward(self, x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[self.dim] = -1
        shift = self.shift.reshape(shape)
        if self.slope is None:
            return x + shift
        # One pass through memory, as cheap as the rectifier was; x * slope + shift takes two.
        return torch.addcmul(shift, x, (self.slope * self.on).reshape(shape))


class ScaledSum(nn.Module):
    """branch + slope * x, slope per channel (dimension 1): a residual sum and the map behind it."""

    def __init__(self, slope: Tensor):
        super().__init__()
        self.slope = nn.Parameter(slope.clone())

    def forward(self, branch: Tensor, x: Tensor) -> Tensor:
        return torch.addcmul(branch, x, self.slope.reshape(-1, *[1] * (x.ndim - 2)))


class Ones(nn.Module):
    """x with one more channel behind it, of ones: it carries the constants of OFF channels into a
    convolution that pads with zeros, whose border sees less of them (MATHS, section 4)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x[:, :1])], 1)


class BiasMap(nn.Module):
    """x plus what a padded convolution (one input channel) makes of ones: an all-OFF branch."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.ones_like(x[:1, :1]))


class Bordered(nn.Module):
    """second(first(x)) where the second one pads: one convolution inside, both on the border.

    No single convolution is exact at the border (MATHS, section 4), so outputs whose window sees a
    zero of the second padding are computed as they were trained, by the pair; all others by the
    composition. ValueError for a second padding that is wider than its kernel reaches.
    """

    def __init__(self, first: Conv, second: Conv):
        super().__init__()
        reach = [d * (k - 1) for d, k in zip(second.dilation, second.kernel, strict=True)]
        if any(p > r for p, r in zip(second.padding, reach, strict=True)):
            raise ValueError("the second convolution pads more than its kernel reaches.")
        none = (0,) * first.dims
        self.paddings = first.padding, second.padding
        first, second = first._replace(padding=none), second._replace(padding=none)
        self.one = kernels.write(kernels.compose(first, second))
        self.first, self.second = kernels.write(first), kernels.write(second)

    def has_inside(self, size) -> bool:
        """Whether any output of an input of this spatial size is not on the border."""
        padded = [n + 2 * p for n, p in zip(size, self.paddings[0])]
        return all(low < high for low, high, *_ in self.regions(padded))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, [p for p in reversed(self.paddings[0]) for _ in (0, 1)])
        return self._assemble(x, [], self.regions(x.shape[2:]))

    def regions(self, size) -> list[tuple[int, int, int, int]]:
        """(first inside, first behind, outputs, size of the middle map) along each dimension, for a
        padded input of this size."""
        found = []
        for d, (n, pad, s) in enumerate(zip(size, self.paddings[1], self.second.stride)):
            middle = (n - _reach(self.first, d) - 1) // self.first.stride[d] + 1
            last = middle + 2 * pad - _reach(self.second, d) - 1
            outputs, low = last // s + 1, min(-(-pad // s), last // s + 1)
            found.append((low, max(low, (last - pad) // s + 1), outputs, middle))
        return found

    def _assemble(self, x: Tensor, box: list, regions: list) -> Tensor:
        """Outputs of ``box`` (ranges along the first dimensions), cut along the next one into the
        border in front, the inside and the border behind."""
        if len(box) == len(regions):
            return self.one(self._window(x, box, regions)[0])
        low, high, outputs, _ = regions[len(box)]
        rest = [(0, r[2]) for r in regions[len(box) + 1 :]]
        parts = []
        for a, b in ((0, low), (low, high), (high, outputs)):
            if (a, b) == (low, high) and all(r[0] < r[1] for r in regions):
                parts.append(self._assemble(x, [*box, (a, b)], regions))
            elif a < b:
                window, zeros = self._window(x, [*box, (a, b), *rest], regions)
                parts.append(self.second(F.pad(self.first(window), zeros)))
        return torch.cat(parts, 2 + len(box))

    def _window(self, x: Tensor, box: list, regions: list):
        """What the outputs in ``box`` see of x, and the zeros that the middle map then needs."""
        where, zeros = [slice(None)] * 2, []
        for d, ((a, b), (*_, middle)) in enumerate(zip(box, regions, strict=True)):
            start = self.second.stride[d] * a - self.paddings[1][d]
            stop = self.second.stride[d] * (b - 1) - self.paddings[1][d] + _reach(self.second, d)
            low, high, step = max(start, 0), min(stop, middle - 1), self.first.stride[d]
            where.append(slice(step * low, step * high + _reach(self.first, d) + 1))
            zeros = [low - start, stop - high, *zeros]  # F.pad begins with the last dimension
        return x[tuple(where)], zeros


def _reach(conv: nn.Module, d: int) -> int:
    """Pixels from the first to the last tap of a kernel along dimension ``d``."""
    return conv.dilation[d] * (conv.kernel_size[d] - 1)


LEAVES = (Affine, ScaledSum, Ones, BiasMap, Bordered)  # tracing does not look into them
