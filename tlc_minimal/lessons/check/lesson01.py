"""Checks of lesson 01, batch-norm statistics."""

import torch

from .exercise import exercise, normal

OVER = (0, 2, 3)  # images and pixels: all axes but the channels'


def _batch(seed):
    x = normal(seed, 3, 2, 4, 5)
    return x * _wide(torch.tensor([0.5, 2.0])) + _wide(torch.tensor([1.0, -0.5]))


def _wide(channels):
    return channels[:, None, None]


@exercise(lambda: (_batch(1),), lambda: (_batch(2),))
def biased_variance(x):
    """Each channel's variance as batch norm takes it; x (N, C, H, W)."""
    return x.var(OVER, correction=0)


biased_variance.mistakes = {
    "divided by n - 1, where batch norm divides by n": lambda x: x.var(OVER),
    "this is the standard deviation, not its square": lambda x: x.std(OVER, correction=0),
    "one number a channel, (C,): keep no other axis": lambda x: x.var(OVER, False, keepdim=True),
    "this is the variance inside each image, averaged": lambda x: x.var((2, 3), correction=0).mean(
        0
    ),
    "the mean must be subtracted before squaring": lambda x: x.square().mean(OVER),
}


def _normed(x, gamma, beta, root):
    return _wide(gamma) * (x - _wide(x.mean(OVER))) / _wide(root) + _wide(beta)


@exercise(*(lambda i=i: (_batch(i), *torch.tensor([[2.0, -0.5], [-1, 0.3]]), 0.1) for i in (1, 2)))
def batch_norm(x, gamma, beta, eps):
    """Batch norm in train mode; x (N, C, H, W), gamma and beta (C,)."""
    return _normed(x, gamma, beta, (x.var(OVER, correction=0) + eps).sqrt())


batch_norm.mistakes = {
    "the variance was divided by n - 1": lambda x, g, b, e: _normed(
        x, g, b, (x.var(OVER) + e).sqrt()
    ),
    "eps was added outside the root": lambda x, g, b, e: _normed(
        x, g, b, x.std(OVER, correction=0) + e
    ),
    "eps was forgotten": lambda x, g, b, e: batch_norm.right(x, g, b, 0.0),
    "the root is missing, for var is a square": lambda x, g, b, e: _normed(
        x, g, b, x.var(OVER, correction=0) + e
    ),
    "gamma is missing": lambda x, g, b, e: batch_norm.right(x, 1 + 0 * g, b, e),
    "beta is missing": lambda x, g, b, e: batch_norm.right(x, g, 0 * b, e),
    "running statistics 0 and 1 were used, as in eval mode": lambda x, g, b, e: (
        _wide(g) * x / (1 + e) ** 0.5 + _wide(b)
    ),
    "gamma and beta were swapped": lambda x, g, b, e: batch_norm.right(x, b, g, e),
}


@exercise(([2.0, -0.5], [0.04, 0.9], 0.01), ([-1.0, 3.0], [0.1, 0.2], 0.1))
def output_std(gamma, var, eps):
    """The exact standard deviation of a batch norm's output, per channel."""
    return gamma.abs() * (var / (var + eps)).sqrt()


output_std.mistakes = {
    "a standard deviation is never negative": lambda g, v, e: g * (v / (v + e)).sqrt(),
    "eps was forgotten, which shrinks the spread": lambda g, v, e: g.abs(),
    "this is the variance, not its root": lambda g, v, e: g**2 * v / (v + e),
    "a ratio of variances is no ratio of spreads": lambda g, v, e: g.abs() * v / (v + e),
}


@exercise(
    lambda: (4, *torch.tensor([3.0, 14.0]), 2, *torch.tensor([12.0, 8.0])),
    lambda: (1, *torch.tensor([5.0, 0.0]), 3, *torch.tensor([1.0, 6.0])),
)
def merge_tallies(n_a, mean_a, squares_a, n_b, mean_b, squares_b):
    """Mean and sum of squared distances from it of both tallies together."""
    delta, n = mean_b - mean_a, n_a + n_b
    return mean_a + delta * n_b / n, squares_a + squares_b + delta**2 * n_a * n_b / n


def _tally(n_a, mean_a, squares_a, n_b, mean_b, squares_b, far=None, divide=1):
    """With the distance between the means weighed by ``far`` and the squares divided."""
    mean, squares = merge_tallies.right(n_a, mean_a, squares_a, n_b, mean_b, squares_b)
    if far is not None:
        squares = squares_a + squares_b + far * (mean_b - mean_a) ** 2
    return mean, squares / divide


merge_tallies.mistakes = {
    "the means were averaged without their counts": lambda *t: ((t[1] + t[4]) / 2, _tally(*t)[1]),
    "the distance between the two means is missing": lambda *t: _tally(*t, far=0),
    "the distance between the means weighs too much": lambda *t: _tally(*t, far=t[0] * t[3]),
    "a sum of squares is not yet a variance": lambda *t: _tally(*t, divide=t[0] + t[3]),
}


@exercise(
    lambda: tuple(torch.tensor([-0.3, 1.0, 0.7, 0.8, 0.25])),
    lambda: tuple(torch.tensor([0.5, 0.6, -1.1, 1.5, -0.3])),
)
def residual_sum(beta, std, shortcut_mean, shortcut_std, covariance):
    """Mean and standard deviation of the sum of a batch norm and a shortcut."""
    return beta + shortcut_mean, (std**2 + shortcut_std**2 + 2 * covariance).sqrt()


residual_sum.mistakes = {
    "these are the batch norm's own numbers, without the shortcut": lambda b, s, m, t, c: (b, s),
    "standard deviations do not add, variances do": lambda b, s, m, t, c: (b + m, s + t),
    "a mean may be below 0": lambda b, s, m, *rest: (
        (b + m).abs(),
        residual_sum.right(b, s, m, *rest)[1],
    ),
    "the covariance is missing": lambda b, s, m, t, c: (b + m, (s**2 + t**2).sqrt()),
    "the covariance is added, not subtracted": lambda b, s, m, t, c: (
        b + m,
        (s**2 + t**2 - 2 * c).sqrt(),
    ),
    "the covariance counts twice": lambda b, s, m, t, c: (b + m, (s**2 + t**2 + c).sqrt()),
    "the root is missing": lambda b, s, m, t, c: (b + m, s**2 + t**2 + 2 * c),
}
