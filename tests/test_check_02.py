"""Lesson 02's checks take the right answer and name the cause of the usual wrong ones."""

import math

import pytest
import torch

from tlc_minimal import check
from tlc_minimal import gaussian as g

ndtr, xlogy = torch.special.ndtr, torch.xlogy


def phi(x):
    return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def bits(p):
    return -(xlogy(p, p) + xlogy(1 - p, 1 - p)) / math.log(2)


def line(slope, z, f):
    return slope, f(z).mean(1) - slope * z.mean(1)


def covariance(a, b):
    return ((a - a.mean(1, keepdim=True)) * (b - b.mean(1, keepdim=True))).mean(1)


def fitted(z, f):
    return line(covariance(z, f(z)) / covariance(z, z), z, f)


def certain(mean, std, value):
    return torch.where(std > 0, value, (mean > 0).double())


RIGHT = {
    "p_on": g.p_on,
    "layer_entropy": lambda p: g.entropy(p).mean(),
    "cost_on": g.cost_on,
    "best_line": fitted,
    "on_is_cheaper": lambda z: (torch.relu(z) ** 2).sum(1) > (torch.relu(-z) ** 2).sum(1),
}
WRONG = [
    ("p_on", lambda m, s: ndtr(m / s), "0 / 0"),
    ("p_on", lambda m, s: certain(m, s, ndtr(m / s**2)), "variance"),
    ("p_on", lambda m, s: certain(m, s, ndtr(-m / s)), "sign"),
    ("p_on", lambda m, s: 1 - g.p_on(m, s), "being OFF"),
    ("p_on", lambda m, s: torch.where(s > 0, ndtr(m / s), (m >= 0).double()), "mean of 0"),
    ("layer_entropy", lambda p: bits(p).mean() * math.log(2), "natural logarithm"),
    ("layer_entropy", lambda p: (-p * p.log2() - (1 - p) * (1 - p).log2()).mean(), "log 0"),
    ("layer_entropy", lambda p: bits(p.mean()), "entropy of the mean"),
    ("layer_entropy", lambda p: (-xlogy(p, p) / math.log(2)).mean(), "one side"),
    ("layer_entropy", lambda p: bits(p).sum(), "sum"),
    ("cost_on", g.cost_off, "price of OFF"),
    ("cost_on", lambda m, s: (m**2 + s**2) * ndtr(-m / s) + m * s * phi(m / s), "second term"),
    ("cost_on", lambda m, s: (m**2 + s**2) * ndtr(m / s) - m * s * phi(m / s), "takes -r"),
    ("cost_on", lambda m, s: (m**2 + s) * ndtr(-m / s) - m * s * phi(m / s), "variance"),
    ("best_line", lambda z, f: line((z * f(z)).mean(1) / (z * z).mean(1), z, f), "no centring"),
    ("best_line", lambda z, f: line(covariance(z, f(z)) / z.std(1, False), z, f), "deviation"),
    ("best_line", lambda z, f: line(covariance(z, f(z)) / z.var(1), z, f), "n - 1"),
    ("best_line", lambda z, f: (fitted(z, f)[0], f(z).mean(1)), "the shift is"),
    ("best_line", lambda z, f: fitted(z, f)[::-1], "swapped"),
    ("on_is_cheaper", lambda z: z.mean(1) > 0, "sign of the mean"),
    ("on_is_cheaper", lambda z: (z > 0).float().mean(1) > 0.5, "firing rate"),
    ("on_is_cheaper", lambda z: torch.relu(-z).norm(dim=1) > torch.relu(z).norm(dim=1), "swapped"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_right_answer(name, capsys):
    getattr(check, name)(RIGHT[name])
    assert capsys.readouterr().out == "correct\n"


@pytest.mark.parametrize(("name", "answer", "cause"), WRONG)
def test_wrong_answer_is_told_its_cause(name, answer, cause):
    with pytest.raises(AssertionError, match="Likely cause") as told:
        getattr(check, name)(answer)
    assert cause in str(told.value).split("Likely cause")[1]


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_yet(name):
    with pytest.raises(AssertionError, match="no answer yet"):
        getattr(check, name)(lambda *_: None)
