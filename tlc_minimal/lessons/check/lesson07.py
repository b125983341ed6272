"""Checks of lesson 07, beyond batch norm."""

import math

import torch
from torch.special import ndtr

from .exercise import exercise, normal

FEATURES = [1.0, 2.0, -1.0, 0.5], [0.3, 0.0, -1.0, 2.0]  # a weight and a bias


@exercise(*(lambda i=i: (2 * normal(i, 3, 2, 4) + 1, *FEATURES, 0.1) for i in (1, 2)))
def layer_norm(x, weight, bias, eps):
    """LayerNorm over the features of x (N, T, d)."""
    return _normed(x, weight, bias, eps)


def _normed(x, weight, bias, eps, axes=2, correction=0, outside=0.0):
    mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=correction, keepdim=True)
    return weight * (x - mean) / ((var + eps).sqrt() + outside) + bias


layer_norm.mistakes = {
    "these are a batch norm's axes": lambda *given: _normed(*given, axes=(0, 1)),
    "each token has a mean of its own": lambda *given: _normed(*given, axes=(1, 2)),
    "the variance was divided by d - 1": lambda *given: _normed(*given, correction=1),
    "eps was added outside the root": lambda x, w, b, eps: _normed(x, w, b, 0.0, outside=eps),
    "eps is missing": lambda x, w, b, eps: _normed(x, w, b, 0.0),
    "these are a token's neighbours, each feature has its own": lambda *given: _normed(
        *given, axes=1
    ),
    "the root is missing, for var is a square": lambda x, w, b, eps: (
        w * (x - x.mean(2, keepdim=True)) / (x.var(2, correction=0, keepdim=True) + eps) + b
    ),
    "bias is missing": lambda x, w, b, eps: _normed(x, w, 0.0, eps),
    "weight is missing": lambda x, w, b, eps: _normed(x, 1.0, b, eps),
    "weight and bias are missing": lambda x, w, b, eps: _normed(x, 1.0, 0.0, eps),
}


@exercise(*(lambda i=i: (normal(i, 5, 4, 3) + 2 * normal(i + 1, 1, 4, 3),) for i in (1, 2)))
def between_positions(z):
    """Of each channel of z (N, T, C), the share of its variance between the positions."""
    return _share(z.mean(0), z)


def _share(means, z, correction=0):
    return means.var(0, correction=correction) / z.var((0, 1), correction=0)


between_positions.mistakes = {
    "this is the share inside the positions": lambda z: 1 - _share(z.mean(0), z),
    "one variance is over n - 1, the other over n": lambda z: _share(z.mean(0), z, correction=1),
    "averaged over the positions, not over the inputs": lambda z: _share(z.mean(1), z),
    "variances add up, standard deviations do not": lambda z: _share(z.mean(0), z).sqrt(),
    "each channel has a share of its own": lambda z: _share(z.mean(0), z).mean(),
}


@exercise(([-1.0, 0.5, 2.0], [2.0, 1.5, 0.5]), ([0.2, -3.0], [0.4, 1.2]))
def mean_gelu(mean, std):
    """E[gelu(z)] of z ~ N(mean, std²), gelu(z) = z Phi(z)."""
    s = (1 + std**2).sqrt()
    return _two_terms(mean, s, std**2 / s)


def _two_terms(mean, s, factor):
    bell = torch.exp(-((mean / s) ** 2) / 2) / math.sqrt(2 * math.pi)
    return mean * ndtr(mean / s) + factor * bell


def _root(std):
    return (1 + std**2).sqrt()


mean_gelu.mistakes = {
    "this is the rectifier's mean, whose step is sharp": lambda m, s: _two_terms(m, s, s),
    "the bell stands behind a variance, not a spread": lambda m, s: _two_terms(
        m, _root(s), s / _root(s)
    ),
    "this is gelu of the mean, as if nothing varied": lambda m, s: m * ndtr(m),
    "Stein's lemma has the variance in it": lambda m, s: _two_terms(m, _root(s), 1 / _root(s)),
    "a wider density is also lower": lambda m, s: _two_terms(m, _root(s), s**2),
    "s² was taken for s": lambda m, s: _two_terms(m, 1 + s**2, s**2 / (1 + s**2)),
    "this is only the first of the two terms": lambda m, s: _two_terms(m, _root(s), 0),
}

W1, B1, W2, B2 = [[1.0, 2.0], [0.0, 3.0]], [1.0, -2.0], [[2.0, -1.0], [1.0, 4.0]], [0.5, 5.0]
A, B = [0.5, 0.25], [0.1, -0.3]


@exercise((W1, B1, A, B, W2, B2), (W2, B2, B, A, W1, B1))
def one_matrix(w1, b1, a, b, w2, b2):
    """Weight and bias of w2 (a * (w1 x + b1) + b) + b2."""
    return w2 @ (a[:, None] * w1), w2 @ (a * b1 + b) + b2


one_matrix.mistakes = {
    "the slopes are forgotten": lambda w1, b1, a, b, w2, b2: (w2 @ w1, w2 @ (b1 + b) + b2),
    "a slope belongs to a row of the first matrix": lambda w1, b1, a, b, w2, b2: (
        w2 @ (a * w1),
        w2 @ (a * b1 + b) + b2,
    ),
    "what acts first stands on the right": lambda w1, b1, a, b, w2, b2: (
        w1 @ (a[:, None] * w2),
        w2 @ (a * b1 + b) + b2,
    ),
    "the shifts b are forgotten": lambda w1, b1, a, b, w2, b2: one_matrix.right(
        w1, b1, a, 0 * b, w2, b2
    ),
    "the first bias goes through the slopes, too": lambda w1, b1, a, b, w2, b2: (
        w2 @ (a[:, None] * w1),
        w2 @ (b1 + b) + b2,
    ),
    "the second bias is forgotten": lambda w1, b1, a, b, w2, b2: one_matrix.right(
        w1, b1, a, b, w2, 0 * b2
    ),
    "the second matrix acts on the shifts b, too": lambda w1, b1, a, b, w2, b2: (
        w2 @ (a[:, None] * w1),
        w2 @ (a * b1) + b + b2,
    ),
}


@exercise((48, 65), (192, 65), (768, 197))
def block_left(d, tokens):
    """The share of a transformer block's multiplications that is left when its MLP (d → 4 d → d)
    has become one matrix."""
    return _left(d, tokens)


def _left(d, tokens, attention=4, meetings=2, mlp=1):
    rest = attention * d + meetings * tokens
    return (rest + mlp * d) / (rest + 8 * d)


block_left.mistakes = {
    "this is in percent, not a share": lambda d, t: 100 * _left(d, t),
    "this is the MLP alone, but attention stays": lambda d, t: 1 / 8,
    "tokens that look at tokens are missing": lambda d, t: _left(d, t, meetings=0),
    "tokens meet twice, for the scores and for the sum": lambda d, t: _left(d, t, meetings=1),
    "one matrix stays of the MLP": lambda d, t: _left(d, t, mlp=0),
    "this is what is saved, not what is left": lambda d, t: 1 - _left(d, t),
    "attention has four matrices, with that of its output": lambda d, t: _left(d, t, attention=3),
}
