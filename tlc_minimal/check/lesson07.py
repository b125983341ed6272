"""Checks of lesson 07, beyond batch norm."""

import torch

from .compare import compare


def layer_norm(f) -> None:
    """``f(x, weight, bias, eps)``: LayerNorm over the features of x (N, T, d)."""
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).double() * 2 + 1
    weight, bias = (
        torch.tensor(v).double() for v in ([1.0, 2.0, -1.0, 0.5], [0.3, 0.0, -1.0, 2.0])
    )
    eps = 0.1

    def normed(axes, correction=0, outside=0.0, inside=eps):
        mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=correction, keepdim=True)
        return (x - mean) / ((var + inside).sqrt() + outside)

    mistakes = {
        "these are a batch norm's axes: LayerNorm looks at one token at a time.": (
            weight * normed((0, 1)) + bias
        ),
        "one mean for all tokens of an input: each token has its own.": weight * normed((1, 2))
        + bias,
        "the variance was divided by d - 1.": weight * normed(2, 1) + bias,
        "eps was added outside the root.": weight * normed(2, 0, eps, 0.0) + bias,
        "weight and bias are missing.": normed(2),
    }
    compare(f(x, weight, bias, eps), weight * normed(2) + bias, mistakes)


def between_positions(f) -> None:
    """``f(z)``: of each channel of z (N, T, C), the share of its variance between the positions."""
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(5, 4, 3, generator=draw) + 2 * torch.randn(1, 4, 3, generator=draw)
    z = z.double()
    at, total = z.mean(0), z.var((0, 1), correction=0)
    want = at.var(0, correction=0) / total
    mistakes = {
        "this is the share inside the positions.": 1 - want,
        "Var over n - 1 here and over n there: use n in both.": at.var(0) / total,
        "average over the inputs first: z.mean(0), one mean a position.": (
            z.mean(1).var(0, correction=0) / total
        ),
        "variances add up to the whole, standard deviations do not.": want.sqrt(),
        "one number a channel: do not average over the channels.": want.mean(),
    }
    compare(f(z), want, mistakes)


def mean_gelu(f) -> None:
    """``f(mean, std)``: E[gelu(z)] of z ~ N(mean, std²), gelu(z) = z Phi(z)."""
    mean, std = torch.tensor([[-1.0, 0.5, 2.0], [2.0, 1.5, 0.5]], dtype=torch.float64)
    s = (1 + std**2).sqrt()
    bell = lambda x: torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5
    cdf, square = torch.special.ndtr, std**2
    want = mean * cdf(mean / s) + square * bell(mean / s) / s
    mistakes = {
        "this is the rectifier's: gelu's own step adds 1 to the variance.": (
            mean * cdf(mean / std) + std * bell(mean / std)
        ),
        "this is gelu of the mean: it bends, so the spread matters.": mean * cdf(mean),
        "Stein's lemma multiplies by the variance: std² is missing.": (
            mean * cdf(mean / s) + bell(mean / s) / s
        ),
        "the density of N(0, s²) at the mean is φ(mean/s) / s: the 1/s is missing.": (
            mean * cdf(mean / s) + square * bell(mean / s)
        ),
        "s is the root of 1 + std².": mean * cdf(mean / s**2) + square * bell(mean / s**2) / s**2,
        "only the first of the two terms.": mean * cdf(mean / s),
    }
    compare(f(mean, std), want, mistakes)


def one_matrix(f) -> None:
    """``f(w1, b1, a, b, w2, b2)``: weight and bias of w2 (a * (w1 x + b1) + b) + b2."""
    w1, w2 = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[2.0, -1.0], [1.0, 4.0]])
    b1, b2 = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 5.0])
    a, b = torch.tensor([0.5, 0.25]), torch.tensor([0.1, -0.3])
    both = lambda weight, bias: torch.cat([weight, bias[:, None]], 1)
    weight, bias = w2 @ (a[:, None] * w1), w2 @ (a * b1 + b) + b2
    mistakes = {
        "the slopes are forgotten.": both(w2 @ w1, w2 @ (b1 + b) + b2),
        "a slope belongs to a row of w1: a[:, None] * w1.": both(w2 @ (a * w1), bias),
        "the order is swapped: w1 acts first, so it stands on the right.": both(
            w1 @ (a[:, None] * w2), bias
        ),
        "the shifts b are forgotten.": both(weight, w2 @ (a * b1) + b2),
        "the first bias goes through the slopes, too.": both(weight, w2 @ (b1 + b) + b2),
        "b must pass through w2.": both(weight, w2 @ (a * b1) + b + b2),
    }
    got = f(w1, b1, a, b, w2, b2)
    compare(both(*got) if isinstance(got, tuple | list) else got, both(weight, bias), mistakes)


def block_left(f) -> None:
    """``f(d, tokens)``: the share of a transformer block's multiplications that is left when its
    MLP (d → 4 d → d) has become one matrix."""
    d, t = torch.tensor([[48, 192, 768], [65, 65, 197]], dtype=torch.float64)
    all_of_it = 12 * d * d + 2 * t * d
    want = (5 * d * d + 2 * t * d) / all_of_it
    mistakes = {
        "this is the MLP alone: attention stays as it is.": torch.full_like(want, 1 / 8),
        "tokens look at tokens, twice: 2 · tokens · d for each token.": torch.full_like(
            want, 5 / 12
        ),
        "scores are one product, their sums of values a second one.": (
            (5 * d * d + t * d) / (12 * d * d + t * d)
        ),
        "one matrix of d² stays of the MLP.": (4 * d * d + 2 * t * d) / all_of_it,
        "what is left was asked for, not what is saved.": 1 - want,
        "attention has four matrices: query, key, value and output.": (
            (4 * d * d + 2 * t * d) / (11 * d * d + 2 * t * d)
        ),
    }
    got = [f(float(width), float(tokens)) for width, tokens in zip(d, t)]
    empty = next((v for v in got if v is None or v is ...), got)
    compare(empty, want, mistakes)
