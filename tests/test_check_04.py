"""Lesson 04: each check takes the right answer and names the mistake in a wrong one."""

import pytest
import torch

import tlc_minimal as tlc
from tlc_minimal import check


def increase(model, name, data, split="val"):
    after = tlc.linearize(model, name, data)
    return tlc.evaluate(after, data, split).loss - tlc.evaluate(model, data, split).loss


def accuracy_lost(model, name, data):
    after = tlc.linearize(model, name, data)
    return tlc.evaluate(model, data).accuracy - tlc.evaluate(after, data).accuracy


def against(mean, std):
    p = torch.special.ndtr(mean / std)
    return torch.minimum(p, 1 - p).mean()


def averaged_first(mean, std):
    p = torch.special.ndtr(mean / std).mean()
    return torch.minimum(p, 1 - p)


def summary(v):
    return torch.stack([v.mean(), v.min(), v.max()])


def values(d):
    return torch.tensor(list(d.values()))


RIGHT = [
    (check.layer_score, increase),
    (check.against_state, against),
    (check.activations_left, lambda m, x: len(tlc.find_layers(m, x))),
    (check.over_seeds, summary),
    (check.paired_difference, lambda a, b: summary(torch.tensor([a[s] - b[s] for s in a]))),
]
WRONG = [
    (check.layer_score, lambda *a: increase(*a, split="train"), "on train"),
    (check.layer_score, lambda *a: increase(*a, split="test"), "on test"),
    (check.layer_score, lambda *a: -increase(*a), "wrong way round"),
    (
        check.layer_score,
        lambda m, n, d: tlc.evaluate(tlc.linearize(m, n, d), d).loss,
        "loss before",
    ),
    (check.layer_score, accuracy_lost, "accuracy"),
    (check.against_state, averaged_first, "averaged first"),
    (check.against_state, lambda m, s: torch.special.ndtr(m / s).mean(), "mean of P"),
    (check.against_state, lambda m, s: against(m, s**2), "variance"),
    (check.against_state, lambda m, s: 1 - against(m, s), "act as the state says"),
    (
        check.activations_left,
        lambda m, x: sum(type(k).__name__ == "ReLU" for k in m.modules()),
        "call",
    ),
    (
        check.activations_left,
        lambda m, x: sum(a.channels for a in tlc.find_layers(m, x)),
        "channels",
    ),
    (check.activations_left, lambda m, x: len(m), "linear layers"),
    (
        check.over_seeds,
        lambda v: torch.stack([v.mean(), v.mean() - v.std(), v.mean() + v.std()]),
        "range",
    ),
    (check.over_seeds, lambda v: torch.stack([v.median(), v.min(), v.max()]), "median"),
    (check.over_seeds, lambda v: torch.stack([v.mean(), v.max(), v.min()]), "swapped"),
    (check.over_seeds, lambda v: torch.stack([v.min(), v.mean(), v.max()]), "order"),
    (check.paired_difference, lambda a, b: summary(values(a) - values(b)), "by position"),
    (check.paired_difference, lambda a, b: summary(torch.tensor([b[s] - a[s] for s in a])), "sign"),
    (
        check.paired_difference,
        lambda a, b: summary(values(a)) - summary(values(b)),
        "summarised before",
    ),
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
