"""Gaussian pre-activations: when is a neuron ON, and what does it cost to make it linear?

Everything here is a pure function of the mean and the standard deviation of a pre-activation z
(what a rectifier receives), elementwise on tensors of any shape. Costs are expected squared errors
E[(replacement(z) - relu(z))²] in squared units of z, under z ~ N(mean, std²).

Sources: the ON/OFF view is TLC (arXiv 2412.15077, section 3); the affine rows are Stein's lemma.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

hermegauss = functools.cache(np.polynomial.hermite_e.hermegauss)


@dataclass(frozen=True)
class Gaussian:
    """Mean and standard deviation of every channel of a pre-activation, both (channels,), and along
    which axis of it the channels are (None: where the layer that makes them puts them)."""

    mean: Tensor
    std: Tensor
    dim: int | None = None

    @property
    def p_on(self) -> Tensor:
        """Probability that each neuron is ON, shape (channels,)."""
        return p_on(self.mean, self.std)

    @property
    def on(self) -> Tensor:
        """State of each neuron, boolean: ON where the mean is positive (TLC, section 3.2)."""
        return self.mean > 0

    @property
    def entropy(self) -> Tensor:
        """Entropy of the layer in bits: the mean over its channels of H(P(ON)); a scalar."""
        return entropy(self.p_on).mean()


def p_on(mean: Tensor, std: Tensor) -> Tensor:
    """P(z > 0) = Phi(mean / std); where std is 0 it is 1 if mean > 0, else 0."""
    return _evaluate(_cdf, mean, std, 0, mean > 0)


def entropy(p: Tensor) -> Tensor:
    """Entropy in bits of a coin that shows ON with probability p; 0 at p = 0 and p = 1."""
    return (torch.special.entr(p) + torch.special.entr(1 - p)) / math.log(2)


def mean_relu(mean: Tensor, std: Tensor) -> Tensor:
    """E[relu(z)] = mean Phi(r) + std phi(r) with r = mean / std."""
    return _evaluate(_first_moment, mean, std, 1, torch.relu(mean))


def cost_off(mean: Tensor, std: Tensor) -> Tensor:
    """Cost of the OFF state, z → 0: E[relu(z)²] = (mean² + std²) Phi(r) + mean std phi(r)."""
    return _evaluate(_second_moment, mean, std, 2, torch.relu(mean) ** 2)


def cost_on(mean: Tensor, std: Tensor) -> Tensor:
    """Cost of the ON state, z → z: E[relu(-z)²], the cost of OFF seen from the other side."""
    return cost_off(-mean, std)


def cost_constant(mean: Tensor, std: Tensor) -> Tensor:
    """Cost of an OFF neuron that keeps its mean, z → E[relu(z)]: Var[relu(z)]."""
    return cost_affine(mean, std) + (std * p_on(mean, std)) ** 2


def cost_affine(mean: Tensor, std: Tensor) -> Tensor:
    """Cost of the best affine map: Var[relu(z)] - std² Phi(r)², the same for r and -r."""
    return _evaluate(_residual, mean, std, 2, torch.zeros_like(mean))


def cost_line(mean: Tensor, std: Tensor, slope: Tensor, shift: Tensor, f=torch.relu) -> Tensor:
    """Cost of any line in the place of any f: E[(slope z + shift - f(z))²], float64; of the
    rectifier in closed form (E[z relu(z)] = E[relu(z)²]), else by 200-node quadrature."""
    mean, std, slope, shift = (v.double() for v in (mean, std, slope, shift))
    if f is not torch.relu:
        z, weights = _nodes(mean, std)
        return ((slope[..., None] * z + shift[..., None] - f(z)).square() * weights).sum(-1)
    square, first = cost_off(mean, std), mean_relu(mean, std)
    line = (slope * mean + shift).square() + (slope * std).square()
    return (line - 2 * slope * square - 2 * shift * first + square).clamp_min(0)


def best_affine(mean: Tensor, std: Tensor, f=torch.relu) -> tuple[Tensor, Tensor]:
    """Slope a and shift b that minimise E[(a z + b - f(z))²], each of the shape of ``mean``.

    For the rectifier a = Phi(r), b = std phi(r) in closed form; any other elementwise ``f`` goes
    through 200-node Gauss-Hermite quadrature of a = Cov(f(z), z) / std² (Stein: = E[f'(z)]).
    """
    if f is torch.relu:
        return p_on(mean, std), _evaluate(_phi, mean, std, 1, torch.zeros_like(mean))
    wide_mean, wide_std = mean.double(), std.double()
    z, weights = _nodes(wide_mean, wide_std)
    value = (f(z) * weights).sum(-1)
    tangent = (f(wide_mean + 1e-4) - f(wide_mean - 1e-4)) / 2e-4  # the limit std → 0
    around = (z - wide_mean[..., None]) * weights
    slope = (around * (f(z) - value[..., None])).sum(-1) / wide_std**2
    spread = wide_std > 1e-9 * wide_mean.abs().clamp_min(1)  # with less, z is the mean but rounding
    slope = torch.where(spread, slope, tangent)
    shift = value - slope * wide_mean
    like = (mean * 1.0).dtype  # whole numbers give fractions
    return slope.to(like), shift.to(like)


def _nodes(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Where 200-node Gauss-Hermite quadrature looks, (..., 200), and its weights, float64."""
    nodes, weights = (torch.as_tensor(v, device=mean.device) for v in hermegauss(200))
    return mean[..., None] + std[..., None] * nodes, weights / weights.sum()


# In units of std² and as functions of r = mean / std. Written with the Mills ratio
# (1 - Phi(x)) / phi(x) = sqrt(pi/2) erfcx(x / sqrt(2)) so that the far tail keeps its digits.


def _phi(r: Tensor) -> Tensor:
    return torch.exp(-0.5 * r * r) / math.sqrt(2 * math.pi)


def _cdf(r: Tensor) -> Tensor:
    # Not torch.special.ndtr: it loses the lower tail (2 % off at r = -8, 0 from -10 on).
    return 0.5 * torch.erfc(-r / math.sqrt(2))


def _mills(x: Tensor) -> Tensor:
    return math.sqrt(math.pi / 2) * torch.special.erfcx(x / math.sqrt(2))


def _first_moment(r: Tensor) -> Tensor:
    x = r.abs()
    tail = _phi(x) * (1 - x * _mills(x)).clamp_min(0)
    return torch.where(r > 0, r + tail, tail)


def _second_moment(r: Tensor) -> Tensor:
    x = r.abs()
    tail = _phi(x) * ((x * x + 1) * _mills(x) - x).clamp_min(0)
    return torch.where(r > 0, r * r + 1 - tail, tail)


def _residual(r: Tensor) -> Tensor:
    x = -r.abs()
    return (_second_moment(x) - _first_moment(x) ** 2 - _cdf(x) ** 2).clamp_min(0)


def _evaluate(unit, mean: Tensor, std: Tensor, power: int, limit: Tensor) -> Tensor:
    """std^power unit(mean / std), computed in float64; ``limit`` where std is 0."""
    wide = std.double()
    value = wide**power * unit(mean.double() / wide)
    return torch.where(wide > 0, value, limit.double()).to((mean * 1.0).dtype)
