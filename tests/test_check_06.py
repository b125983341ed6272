"""Lesson 06: each check takes the right answer and names the mistake in a wrong one."""

import math
from itertools import product

import pytest
import torch

from tlc_minimal import check


def bits(p):
    return (torch.special.entr(p) + torch.special.entr(1 - p)) / math.log(2)


def rates(z):
    return (z > 0).double().mean(0)


def logs(z):
    p = rates(z)
    return (-p * p.log2() - (1 - p) * (1 - p).log2()).mean()


def gaussian(z):
    return bits(torch.special.ndtr(z.mean(0) / z.std(0, correction=0))).mean()


def distance(x, y):
    return (x.sort().values - y.sort().values).square().mean().sqrt()


def t(a, b):
    d = a - b
    return d.mean() / (d.std() / len(d) ** 0.5)


def patterns(d):
    return torch.tensor(list(product((1.0, -1.0), repeat=len(d)))).double() @ d / len(d)


def flips(d):
    return (patterns(d).abs() >= d.mean().abs() - 1e-9).double().mean()


def enough(d, t):
    return math.ceil((t * d.std() / d.mean()) ** 2)


RIGHT = [
    (check.state_entropy, lambda z: bits(rates(z)).mean()),
    (check.wasserstein, distance),
    (check.paired_t, t),
    (check.sign_flip, flips),
    (check.seeds_needed, enough),
]
WRONG = [
    (check.state_entropy, logs, "0 · log 0"),
    (check.state_entropy, gaussian, "count the states"),
    (check.state_entropy, lambda z: bits(rates(z)).mean() * math.log(2), "nats"),
    (check.state_entropy, lambda z: bits(rates(z).mean()), "averaged first"),
    (check.state_entropy, lambda z: bits(rates(z)).sum(), "sum over the neurons"),
    (check.wasserstein, lambda x, y: (x - y).square().mean().sqrt(), "as they came"),
    (check.wasserstein, lambda x, y: distance(x, y) ** 2, "root is missing"),
    (check.wasserstein, lambda x, y: distance(x, y) * len(x) ** 0.5, "mean is missing"),
    (
        check.wasserstein,
        lambda x, y: (x.sort().values - y.sort().values).abs().mean(),
        "Wasserstein-1",
    ),
    (check.wasserstein, lambda x, y: (x.mean() - y.mean()).abs(), "means"),
    (
        check.wasserstein,
        lambda x, y: (x.sort().values - y.sort().values.flip(0)).square().mean().sqrt(),
        "downwards",
    ),
    (
        check.paired_t,
        lambda a, b: (a - b).mean() / ((a.var() + b.var()) / len(a)).sqrt(),
        "not paired",
    ),
    (check.paired_t, lambda a, b: (a - b).mean() / (a - b).std(), "root of n"),
    (check.paired_t, lambda a, b: t(b, a), "sign"),
    (
        check.paired_t,
        lambda a, b: (a - b).mean() / ((a - b).std(correction=0) / len(a) ** 0.5),
        "over n - 1",
    ),
    (check.sign_flip, lambda d: (patterns(d) >= d.mean() - 1e-9).double().mean(), "one-sided"),
    (
        check.sign_flip,
        lambda d: (patterns(d).abs() > d.mean().abs() + 1e-9).double().mean(),
        "left out",
    ),
    (check.sign_flip, lambda d: flips(d) * 2 ** len(d), "number of patterns"),
    (check.sign_flip, lambda d: 1 - flips(d), "less extreme"),
    (check.seeds_needed, lambda d, t: math.ceil(t * d.std() / d.mean()), "square is missing"),
    (check.seeds_needed, lambda d, t: int((t * d.std() / d.mean()) ** 2), "rounded down"),
    (check.seeds_needed, lambda d, t: (t * d.std() / d.mean()) ** 2, "whole number"),
    (check.seeds_needed, lambda d, t: math.ceil((t * d.var() / d.mean()) ** 2), "variance"),
]


@pytest.mark.parametrize(("exercise", "answer"), RIGHT, ids=lambda f: f.__name__)
def test_right_answer_passes(exercise, answer, capsys):
    exercise(answer)
    assert "correct" in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer", "cause"), WRONG)
def test_wrong_answer_is_refused_and_explained(exercise, answer, cause):
    with pytest.raises(AssertionError, match="Likely cause: .*" + cause):
        exercise(answer)


@pytest.mark.parametrize("exercise", [exercise for exercise, _ in RIGHT])
def test_no_answer_yet(exercise):
    with pytest.raises(AssertionError, match="no answer yet"):
        exercise(lambda *inputs: None)
