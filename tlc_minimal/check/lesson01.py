"""Checks of lesson 01, batch-norm statistics."""

import torch
from torch import Tensor

from .compare import compare


def _wide(*values: Tensor) -> list[Tensor]:
    return [v[:, None, None] for v in values]


def _batch01() -> Tensor:
    x = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    spread, shift = _wide(torch.tensor([0.5, 2.0]), torch.tensor([1.0, -0.5]))
    return x * spread + shift


def biased_variance(f) -> None:
    """``f(x)``: each channel's variance as batch norm takes it; x (N, C, H, W)."""
    x = _batch01()
    over, want = (0, 2, 3), x.var((0, 2, 3), unbiased=False)
    inside = x.var((2, 3), unbiased=False).mean(0)
    mistakes = {
        "divided by n - 1; batch norm divides by n.": x.var(over),
        "this is the standard deviation; square it.": want.sqrt(),
        "the variance inside each image, averaged: take images and pixels together.": inside,
        "the mean of the squares: subtract the mean first.": x.square().mean(over),
    }
    compare(f(x), want, mistakes)


def batch_norm(f) -> None:
    """``f(x, gamma, beta, eps)``: batch norm in train mode; x (N, C, H, W)."""
    x, gamma, beta, eps = _batch01(), torch.tensor([2.0, -0.5]), torch.tensor([-1.0, 0.3]), 0.1
    var, n1 = x.var((0, 2, 3), unbiased=False), x.var((0, 2, 3))
    g, b, m, v, n1 = _wide(gamma, beta, x.mean((0, 2, 3)), var, n1)
    want = g * (x - m) / (v + eps).sqrt() + b
    mistakes = {
        "the variance was divided by n - 1.": g * (x - m) / (n1 + eps).sqrt() + b,
        "eps was added outside the root.": g * (x - m) / (v.sqrt() + eps) + b,
        "eps was forgotten.": g * (x - m) / v.sqrt() + b,
        "running statistics 0 and 1 were used: this is eval mode.": g * x / (1 + eps) ** 0.5 + b,
        "gamma and beta were swapped.": b * (x - m) / (v + eps).sqrt() + g,
    }
    compare(f(x, gamma, beta, eps), want, mistakes)


def output_std(f) -> None:
    """``f(gamma, var, eps)``: the exact standard deviation of a batch norm's output."""
    gamma, var, eps = torch.tensor([2.0, -0.5]), torch.tensor([0.04, 0.9]), 0.01
    want = gamma.abs() * (var / (var + eps)).sqrt()
    mistakes = {
        "the sign of gamma stayed; a standard deviation is never negative.": want * gamma.sign(),
        "eps was forgotten: it shrinks the spread.": gamma.abs(),
        "this is the variance; take its root.": want**2,
        "the root is missing over var / (var + eps).": gamma.abs() * var / (var + eps),
    }
    compare(f(gamma, var, eps), want, mistakes)


def merge_tallies(f) -> None:
    """``f(n_a, mean_a, squares_a, n_b, mean_b, squares_b)``: stacked mean and squares of both."""
    a, b = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([10.0, 14.0])
    n, s = (len(a), len(b)), [((x - x.mean()) ** 2).sum() for x in (a, b)]
    both, d = torch.cat([a, b]), b.mean() - a.mean()
    mean, squares = both.mean(), ((both - both.mean()) ** 2).sum()
    mistakes = {
        "the means were averaged without their counts.": [(a.mean() + b.mean()) / 2, squares],
        "the distance between the two means is missing.": [mean, s[0] + s[1]],
        "delta² n_a n_b must still be divided by n_a + n_b.": [mean, s[0] + s[1] + d**2 * 8],
        "squares is a sum, not yet a variance: do not divide by n.": [mean, squares / 6],
    }
    mistakes = {cause: torch.stack(value) for cause, value in mistakes.items()}
    got = f(n[0], a.mean(), s[0], n[1], b.mean(), s[1])
    compare(got, torch.stack([mean, squares]), mistakes)


def residual_sum(f) -> None:
    """``f(beta, std, shortcut_mean, shortcut_std, covariance)``: mean and std of the sum."""
    beta, std, mean, other, cov = (torch.tensor(v) for v in (-0.3, 1.0, 0.7, 0.8, 0.25))
    total = beta + mean
    mistakes = {
        "the shortcut is missing: these are bn2's own numbers.": [beta, std],
        "standard deviations do not add; variances do.": [total, std + other],
        "the covariance is missing.": [total, (std**2 + other**2).sqrt()],
        "the covariance counts twice.": [total, (std**2 + other**2 + cov).sqrt()],
        "this is the variance; take its root.": [total, std**2 + other**2 + 2 * cov],
    }
    mistakes = {cause: torch.stack(value) for cause, value in mistakes.items()}
    want = torch.stack([total, (std**2 + other**2 + 2 * cov).sqrt()])
    compare(f(beta, std, mean, other, cov), want, mistakes)
