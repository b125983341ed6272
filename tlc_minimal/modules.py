"""The few modules that linearising and merging leave behind in a network, and why."""

import torch
from torch import Tensor, fx, nn


@fx.wrap  # another tracer calls it as it is
def along(x: Tensor, dim: int, v: Tensor) -> Tensor:
    """``v``, (channels,), as a view that broadcasts along ``dim`` of ``x``."""
    shape = [1] * x.ndim
    shape[dim] = -1
    return v.reshape(shape)


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
        shift = along(x, self.dim, self.shift)
        if self.slope is None:
            return x + shift
        # One pass through memory, as cheap as the rectifier was; x * slope + shift takes two.
        return torch.addcmul(shift, x, along(x, self.dim, self.slope * self.on))


class ScaledSum(nn.Module):
    """branch + slope * x, slope per channel (dimension 1): a residual sum and the map behind it."""

    def __init__(self, slope: Tensor):
        super().__init__()
        self.slope = nn.Parameter(slope.clone())

    def forward(self, branch: Tensor, x: Tensor) -> Tensor:
        return torch.addcmul(branch, x, along(x, 1, self.slope))


class Ones(nn.Module):
    """x with one more channel behind it, of ones: it carries the constants of OFF channels into a
    convolution that pads with zeros, whose border sees less of them (lesson 03)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x[:, :1])], 1)


class BiasMap(nn.Module):
    """x plus what a padded convolution (one input channel) makes of ones: an all-OFF branch."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.ones_like(x[:1, :1]))


LEAVES = (Affine, ScaledSum, Ones, BiasMap)  # tracing does not look into them
