"""Checks of lesson 02, ON and OFF."""

import torch
from torch import Tensor

from .compare import compare, short


def p_on(answer) -> None:
    """Exercise 1: P(ON) of channels from mean and standard deviation, three of which are 0."""
    mean, std = torch.tensor([[-1.0, 0.5, 2.0, 0.3, 0.0, -0.3], [2.0, 1.5, 0.5, 0, 0, 0]]).double()
    certain, r = (mean > 0).double(), mean / std
    phi = lambda x, at_zero=certain: torch.where(std > 0, torch.special.ndtr(x), at_zero)
    mistakes = {
        "divided by the variance instead of the standard deviation.": phi(r / std),
        "the sign: this is the probability of being OFF.": 1 - phi(r),
        "the sign of the ratio: this is P(z < 0).": phi(-r),
        "a mean of 0 that never varies is OFF: z > 0 never holds.": phi(r, (mean >= 0).double()),
    }
    compare(
        _no_nan(answer(mean, std), "0 / 0 where the standard deviation is 0."), phi(r), mistakes
    )


def layer_entropy(answer) -> None:
    """Exercise 2: entropy in bits of a layer, among its neurons a p of 0 and one of 1."""
    p = torch.tensor([0.5, 0.1, 0.0, 1.0, 0.8], dtype=torch.float64)
    one_side, both = torch.special.entr(p), torch.special.entr(p) + torch.special.entr(1 - p)
    middle = p.mean()
    of_mean = torch.special.entr(middle) + torch.special.entr(1 - middle)
    bits = 1 / torch.log(torch.tensor(2.0, dtype=torch.float64))
    mistakes = {
        "a natural logarithm: these are nats, divide by ln 2.": both.mean(),
        "only one side of the coin: 1 - p counts too.": one_side.mean() * bits,
        "the entropy of the mean: take the entropy first, the mean last.": of_mean * bits,
        "the sum over the neurons instead of their mean.": both.sum() * bits,
        "one number per neuron: take the mean over the layer.": both * bits,
    }
    got = _no_nan(answer(p), "0 · log 0: at p = 0 and p = 1 the entropy is 0.")
    compare(got, both.mean() * bits, mistakes)


def cost_on(answer) -> None:
    """Exercise 3: expected squared error of the identity in the place of a rectifier."""
    mean, std = torch.tensor([[-1.0, 0.5, 2.0], [2.0, 1.5, 0.5]], dtype=torch.float64)
    p, edge = torch.special.ndtr(-mean / std), mean * std * _bell(mean / std)
    square = mean**2 + std**2
    mistakes = {
        "this is the price of OFF: the sign of the mean is not changed.": square * (1 - p) + edge,
        "the sign of the second term: it has the mean in it.": square * p + edge,
        "Φ is not symmetric: it takes -r.": square * (1 - p) - edge,
        "the standard deviation where the variance belongs.": (mean**2 + std) * p - edge,
    }
    compare(answer(mean, std), square * p - edge, mistakes)


def best_line(answer) -> None:
    """Exercise 4: least-squares line through (z, f(z)), a slope and a shift per channel."""
    z = torch.tensor([[-2.0, -1.0, 0.5, 3.0], [0.0, 1.0, 2.0, 5.0]], dtype=torch.float64)
    y, u, n = z.square(), z - z.mean(1, keepdim=True), z.shape[1]
    v = y - y.mean(1, keepdim=True)
    slope, raw = (u * v).sum(1) / (u * u).sum(1), (z * y).sum(1) / (z * z).sum(1)
    per_std = (u * v).mean(1) / z.std(1, correction=0)
    pair = lambda a: torch.stack([a, y.mean(1) - a * z.mean(1)])
    mistakes = {
        "no centring: this is the slope of a line through 0.": pair(raw),
        "divided by the standard deviation instead of the variance.": pair(per_std),
        "Cov over n, Var over n - 1: use the same number in both.": pair(slope * (n - 1) / n),
        "the shift is E[f(z)] - slope · E[z].": torch.stack([slope, y.mean(1)]),
        "shift and slope are swapped.": pair(slope).flip(0),
    }  # fmt: skip
    got = answer(z, torch.square)
    compare(
        torch.stack(tuple(got)) if isinstance(got, tuple | list) else got, pair(slope), mistakes
    )


def on_is_cheaper(answer) -> None:
    """Exercise 5: where z → z has the smaller squared error than z → 0, on samples."""
    z = torch.tensor([[-1.0, -1, -1, 2.5], [1, 1, 1, -2.5], [-1, -1, -1, 5], [1, 2, 3, -1]])
    want = z.relu().square().mean(1) > (-z).relu().square().mean(1)
    mistakes = {
        "the sign of the mean: these samples are not Gaussian, compare the errors.": z.mean(1) > 0,
        "the firing rate: how far z is on each side counts, not how often.": (
            (z > 0).float().mean(1) > 0.5
        ),
        "swapped: this is where 0 is the cheaper one.": ~want,
    }
    compare(answer(z), want, mistakes)


def _bell(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x) / (2 * torch.pi) ** 0.5


def _no_nan(got, cause: str):
    if isinstance(got, Tensor) and got.isnan().any():
        raise AssertionError(
            f"there is a nan in {short(got.detach().double())}. Likely cause: {cause}"
        )
    return got
