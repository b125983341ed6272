"""Lesson 08: each check takes the right answer and names the mistake in a wrong one."""

import pytest
import torch

from tlc_minimal import check
from tlc_minimal.lessons.robust import reliability


def error_by_hand(confidence, correct, bins=15):
    total = 0.0
    for low in torch.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            gap = correct[inside].double().mean() - confidence[inside].double().mean()
            total += float(inside.double().mean() * gap.abs())
    return total


def gaps(confidence, correct):
    points = reliability(confidence, correct)
    return points["accuracy"] - points["confidence"], points["share"]


def pairs(known, unknown, tie=0.5):
    difference = known[:, None] - unknown
    return ((difference > 0).double() + tie * (difference == 0).double()).mean()


def kappa(on, other):
    p, q = on.double().mean(), other.double().mean()
    chance = p * q + (1 - p) * (1 - q)
    return ((on == other).double().mean() - chance) / (1 - chance)


def same(on, other):
    return (on == other).double().mean()


def minus_chance(on, other):
    p, q = on.double().mean(), other.double().mean()
    return same(on, other) - p * q - (1 - p) * (1 - q)


def both_on_only(on, other):
    chance = on.double().mean() * other.double().mean()
    return (same(on, other) - chance) / (1 - chance)


RIGHT = [
    (check.calibration_error, error_by_hand),
    (check.auroc, pairs),
    (check.beyond_chance, kappa),
    (check.paired_speedup, lambda a, b: (a / b).median()),
]
WRONG = [
    (check.calibration_error, lambda c, r: gaps(c, r)[0].abs().mean(), "counts the same"),
    (check.calibration_error, lambda c, r: (gaps(c, r)[0] * gaps(c, r)[1]).sum(), "cancel"),
    (
        check.calibration_error,
        lambda c, r: (c.double().mean() - r.double().mean()).abs(),
        "no bins",
    ),
    (check.calibration_error, lambda c, r: gaps(c, r)[0].abs().max(), "largest gap"),
    (check.calibration_error, lambda c, r: error_by_hand(c, r, 10), "ten bins"),
    (check.auroc, lambda k, u: pairs(k, u, 0), "count nothing"),
    (check.auroc, lambda k, u: pairs(k, u, 1), "count fully"),
    (check.auroc, lambda k, u: pairs(u, k), "wrong way round"),
    (
        check.auroc,
        lambda k, u: ((k[:40] > u).double() + 0.5 * (k[:40] == u).double()).mean(),
        "by position",
    ),
    (check.beyond_chance, same, "not taken off"),
    (check.beyond_chance, minus_chance, "not divided by"),
    (check.beyond_chance, lambda a, b: 2 * same(a, b) - 1, "one half"),
    (check.beyond_chance, both_on_only, "both ON"),
    (check.paired_speedup, lambda a, b: a.median() / b.median(), "medians first"),
    (check.paired_speedup, lambda a, b: a.mean() / b.mean(), "means first"),
    (check.paired_speedup, lambda a, b: (a / b).mean(), "mean of the ratios"),
    (check.paired_speedup, lambda a, b: (b / a).median(), "upside down"),
    (check.paired_speedup, lambda a, b: a.min() / b.min(), "fastest against fastest"),
]


@pytest.mark.parametrize(("exercise", "answer"), RIGHT, ids=lambda f: f.__name__)
def test_right_answer_passes(exercise, answer, capsys):
    exercise(answer)
    assert "correct" in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer", "cause"), WRONG)
def test_wrong_answer_is_refused_and_explained(exercise, answer, cause):
    with pytest.raises(AssertionError, match=f"Likely cause: .*({cause})"):
        exercise(answer)


@pytest.mark.parametrize("exercise", [exercise for exercise, _ in RIGHT])
def test_no_answer_yet(exercise):
    with pytest.raises(AssertionError, match="no answer yet"):
        exercise(lambda *inputs: None)
