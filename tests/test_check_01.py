"""Lesson 01's checks accept the right answer and name the usual wrong ones."""

import pytest
import torch
from torch import nn

from tlc_minimal import check

OVER = (0, 2, 3)


def by_hand(x, gamma, beta, eps, unbiased=False, mean=None, root=None):
    var = x.var(OVER, unbiased=unbiased)
    mean = x.mean(OVER) if mean is None else mean
    root = (var + eps).sqrt() if root is None else root(var)
    wide = [v[:, None, None] for v in (gamma, beta, mean, root)]
    return wide[0] * (x - wide[2]) / wide[3] + wide[1]


def torch_bn(x, gamma, beta, eps, train=True):
    layer = nn.BatchNorm2d(len(gamma), eps=eps).train(train)
    layer.weight.data, layer.bias.data = gamma, beta
    return layer(x)


def merged(na, ma, sa, nb, mb, sb):
    d = mb - ma
    return torch.stack([ma + d * nb / (na + nb), sa + sb + d**2 * na * nb / (na + nb)])


def pair(mean, std):
    return torch.stack([mean, std])


RIGHT = [
    (check.biased_variance, lambda x: x.var(OVER, unbiased=False)),
    (check.biased_variance, lambda x: x.square().mean(OVER) - x.mean(OVER).square()),
    (check.batch_norm, by_hand),
    (check.batch_norm, torch_bn),
    (check.output_std, lambda g, v, e: g.abs() * (v / (v + e)).sqrt()),
    (check.output_std, lambda g, v, e: (g**2 * v / (v + e)).sqrt()),
    (check.merge_tallies, merged),
    (check.residual_sum, lambda b, s, m, t, c: pair(b + m, (s * s + t * t + 2 * c).sqrt())),
]
WRONG = [
    (check.biased_variance, lambda x: x.var(OVER), "n - 1"),
    (check.biased_variance, lambda x: x.std(OVER, unbiased=False), "standard deviation"),
    (check.biased_variance, lambda x: x.var((2, 3), unbiased=False).mean(0), "inside each image"),
    (check.biased_variance, lambda x: (x**2).mean(OVER), "subtract the mean"),
    (check.biased_variance, lambda x: x.var(0, unbiased=False), "expected shape"),
    (check.batch_norm, lambda x, g, b, e: by_hand(x, g, b, e, True), "n - 1"),
    (check.batch_norm, lambda x, g, b, e: torch_bn(x, g, b, e, False), "eval mode"),
    (
        check.batch_norm,
        lambda x, g, b, e: by_hand(x, g, b, e, root=lambda v: v.sqrt() + e),
        "outside",
    ),
    (check.batch_norm, lambda x, g, b, e: by_hand(x, g, b, 0), "eps was forgotten"),
    (check.batch_norm, lambda x, g, b, e: by_hand(x, b, g, e), "swapped"),
    (check.output_std, lambda g, v, e: g * (v / (v + e)).sqrt(), "sign"),
    (check.output_std, lambda g, v, e: g.abs(), "eps was forgotten"),
    (check.output_std, lambda g, v, e: g**2 * v / (v + e), "variance"),
    (check.output_std, lambda g, v, e: g.abs() * v / (v + e), "root is missing"),
    (
        check.merge_tallies,
        lambda na, ma, sa, nb, mb, sb: pair((ma + mb) / 2, merged(na, ma, sa, nb, mb, sb)[1]),
        "counts",
    ),
    (
        check.merge_tallies,
        lambda na, ma, sa, nb, mb, sb: pair((na * ma + nb * mb) / (na + nb), sa + sb),
        "distance",
    ),
    (
        check.merge_tallies,
        lambda na, ma, sa, nb, mb, sb: pair(
            (na * ma + nb * mb) / (na + nb), sa + sb + (mb - ma) ** 2 * na * nb
        ),
        "divided",
    ),
    (
        check.merge_tallies,
        lambda *a: merged(*a) / torch.tensor([1, a[0] + a[3]]),
        "not yet a variance",
    ),
    (check.residual_sum, lambda b, s, m, t, c: pair(b, s), "shortcut is missing"),
    (check.residual_sum, lambda b, s, m, t, c: pair(b + m, s + t), "do not add"),
    (check.residual_sum, lambda b, s, m, t, c: pair(b + m, (s * s + t * t).sqrt()), "is missing"),
    (check.residual_sum, lambda b, s, m, t, c: pair(b + m, (s * s + t * t + c).sqrt()), "twice"),
    (check.residual_sum, lambda b, s, m, t, c: pair(b + m, s * s + t * t + 2 * c), "root"),
]
CHECKS = sorted({f for f, _ in RIGHT}, key=lambda f: f.__name__)


@pytest.mark.parametrize(("checks", "answer"), RIGHT)
def test_right_answers_pass(checks, answer, capsys):
    checks(answer)
    assert capsys.readouterr().out == "correct\n"


@pytest.mark.parametrize(("checks", "answer", "cause"), WRONG)
def test_wrong_answers_are_named(checks, answer, cause):
    with pytest.raises(AssertionError, match=cause) as error:
        checks(answer)
    assert "Likely cause" in str(error.value) or cause == "expected shape"


@pytest.mark.parametrize("checks", CHECKS, ids=lambda f: f.__name__)
def test_stubs_and_unknown_mistakes_fail_without_a_guess(checks):
    with pytest.raises(AssertionError, match="no answer yet"):
        checks(lambda *given: ...)
    with pytest.raises(AssertionError) as error:
        checks(lambda *given: 12345.0)
    assert "Likely cause" not in str(error.value)
