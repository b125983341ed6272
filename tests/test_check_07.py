"""The checks of lesson 07 accept the right answer and name the usual mistakes."""

import pytest
import torch
from torch import nn

from tlc_minimal import check
from tlc_minimal.gaussian import best_affine

bell = lambda x: torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5
cdf = torch.special.ndtr


def normed(x, w, b, eps):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], w, b, eps)


def by_axes(axes, correction=0, outside=False):
    def answer(x, w, b, eps):
        mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=correction, keepdim=True)
        root = var.sqrt() + eps if outside else (var + eps).sqrt()
        return w * (x - mean) / root + b

    return answer


def between(z):
    return z.mean(0).var(0, correction=0) / z.var((0, 1), correction=0)


def mean_gelu(mean, std):
    """By the library's quadrature, not by the closed form that the check uses."""
    slope, shift = best_affine(mean, std, nn.GELU())
    return slope * mean + shift


def gelu_by_parts(mean, std, s, factor):
    return mean * cdf(mean / s) + factor * bell(mean / s)


def root(std):
    return (1 + std**2).sqrt()


def one_matrix(w1, b1, a, b, w2, b2):
    weight = w2 @ torch.diag(a) @ w1
    return weight, w2 @ (a * b1 + b) + b2


RIGHT = {
    check.layer_norm: normed,
    check.between_positions: between,
    check.mean_gelu: mean_gelu,
    check.one_matrix: one_matrix,
    check.block_left: lambda d, t: (4 * d + 2 * t + d) / (12 * d + 2 * t),
}
WRONG = [
    (check.layer_norm, by_axes((0, 1)), "batch norm's axes"),
    (check.layer_norm, by_axes((1, 2)), "each token has its own"),
    (check.layer_norm, by_axes(2, 1), "d - 1"),
    (check.layer_norm, by_axes(2, 0, True), "outside the root"),
    (check.layer_norm, lambda x, w, b, eps: normed(x, None, None, eps), "are missing"),
    (check.between_positions, lambda z: 1 - between(z), "inside the positions"),
    (check.between_positions, lambda z: z.mean(0).var(0) / z.var((0, 1), correction=0), "n - 1"),
    (
        check.between_positions,
        lambda z: z.mean(1).var(0, correction=0) / z.var((0, 1), correction=0),
        "over the inputs first",
    ),
    (check.between_positions, lambda z: between(z).sqrt(), "standard deviations do not"),
    (check.mean_gelu, lambda m, s: gelu_by_parts(m, s, s, s), "rectifier's"),
    (check.mean_gelu, lambda m, s: nn.functional.gelu(m), "gelu of the mean"),
    (check.mean_gelu, lambda m, s: gelu_by_parts(m, s, root(s), 1 / root(s)), "std² is missing"),
    (check.mean_gelu, lambda m, s: gelu_by_parts(m, s, root(s), s**2), "1/s is missing"),
    (
        check.mean_gelu,
        lambda m, s: gelu_by_parts(m, s, root(s) ** 2, s**2 / root(s) ** 2),
        "root of 1",
    ),
    (check.mean_gelu, lambda m, s: m * cdf(m / root(s)), "first of the two terms"),
    (check.one_matrix, lambda w1, b1, a, b, w2, b2: (w2 @ w1, w2 @ (b1 + b) + b2), "slopes are"),
    (
        check.one_matrix,
        lambda w1, b1, a, b, w2, b2: (w2 @ (a * w1), w2 @ (a * b1 + b) + b2),
        "row of w1",
    ),
    (
        check.one_matrix,
        lambda w1, b1, a, b, w2, b2: (w1 @ (a[:, None] * w2), w2 @ (a * b1 + b) + b2),
        "order is swapped",
    ),
    (
        check.one_matrix,
        lambda w1, b1, a, b, w2, b2: (w2 @ torch.diag(a) @ w1, w2 @ (a * b1) + b2),
        "shifts b are forgotten",
    ),
    (
        check.one_matrix,
        lambda w1, b1, a, b, w2, b2: (w2 @ torch.diag(a) @ w1, w2 @ (b1 + b) + b2),
        "through the slopes",
    ),
    (
        check.one_matrix,
        lambda w1, b1, a, b, w2, b2: (w2 @ torch.diag(a) @ w1, w2 @ (a * b1) + b + b2),
        "b must pass",
    ),
    (check.block_left, lambda d, t: 1 / 8, "MLP alone"),
    (check.block_left, lambda d, t: 5 / 12, "tokens look at tokens"),
    (check.block_left, lambda d, t: (5 * d + t) / (12 * d + t), "second one"),
    (check.block_left, lambda d, t: (4 * d + 2 * t) / (12 * d + 2 * t), "stays of the MLP"),
    (check.block_left, lambda d, t: 7 * d / (12 * d + 2 * t), "what is left"),
    (check.block_left, lambda d, t: (4 * d + 2 * t) / (11 * d + 2 * t), "four matrices"),
]


@pytest.mark.parametrize("exercise", RIGHT, ids=lambda f: f.__name__)
def test_right_answer_is_accepted(exercise, capsys):
    exercise(RIGHT[exercise])
    assert capsys.readouterr().out == "correct\n"


@pytest.mark.parametrize(("exercise", "answer", "cause"), WRONG)
def test_mistake_is_named(exercise, answer, cause):
    with pytest.raises(AssertionError, match=f"Likely cause: .*{cause}"):
        exercise(answer)


@pytest.mark.parametrize("exercise", RIGHT, ids=lambda f: f.__name__)
@pytest.mark.parametrize("nothing", [None, ...])
def test_no_answer_yet(exercise, nothing):
    with pytest.raises(AssertionError, match="no answer yet"):
        exercise(lambda *inputs: nothing)
