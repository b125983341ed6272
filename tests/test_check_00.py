"""The checks of lesson 00 accept the right answer and name the usual wrong ones."""

import pytest
import torch

from tlc_minimal import check


def right_macs(k, i, o, h, w):
    return k**2 * i * o * h * w


def right_share(mean):
    return 100 * (mean <= 0).float().mean()


def right_merge(w1, b1, w2, b2):
    return w2 @ w1, w2 @ b1 + b2


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        (check.macs, right_macs),
        (check.macs, lambda *case: torch.tensor(right_macs(*case))),
        (check.share_off, right_share),
        (check.share_off, lambda mean: right_share(mean).item()),
        (check.two_linear_layers, right_merge),
    ],
)
def test_right_answer(exercise, answer, capsys):
    exercise(answer)
    assert capsys.readouterr().out == "correct\n"


@pytest.mark.parametrize(
    ("exercise", "answer", "cause"),
    [
        (check.macs, lambda k, i, o, h, w: k * i * o * h * w, "k² products"),
        (check.macs, lambda k, i, o, h, w: k**2 * o * h * w, "every input channel"),
        (check.macs, lambda k, i, o, h, w: k**2 * i * o, "output pixels"),
        (check.macs, lambda k, i, o, h, w: (k**2 * i + 1) * o * h * w, "a bias"),
        (check.share_off, lambda mean: 100 * (mean > 0).float().mean(), "ON channels"),
        (check.share_off, lambda mean: 100 * (mean < 0).float().mean(), "exactly 0"),
        (check.share_off, lambda mean: (mean <= 0).float().mean(), "fraction"),
        (check.share_off, lambda mean: (mean <= 0).sum(), "how many"),
        (check.two_linear_layers, lambda w1, b1, w2, b2: (w1 @ w2, w1 @ b2 + b1), "swapped"),
        (check.two_linear_layers, lambda w1, b1, w2, b2: (w1 @ w2, w2 @ b1 + b2), "wrong order"),
        (check.two_linear_layers, lambda w1, b1, w2, b2: (w2 @ w1, b2), "first bias is forgotten"),
        (check.two_linear_layers, lambda w1, b1, w2, b2: (w2 @ w1, b1 + b2), "pass through"),
        (check.two_linear_layers, lambda w1, b1, w2, b2: (w2 @ w1, w2 @ b1), "second bias"),
        (check.two_linear_layers, lambda w1, b1, w2, b2: (w2 * w1, w2 @ b1 + b2), "matrix product"),
    ],
)
def test_wrong_answer_is_explained(exercise, answer, cause):
    with pytest.raises(AssertionError, match="Likely cause") as caught:
        exercise(answer)
    assert cause in str(caught.value).split("Likely cause:")[1]


@pytest.mark.parametrize("exercise", [check.macs, check.share_off, check.two_linear_layers])
@pytest.mark.parametrize("empty", [None, ...])
def test_no_answer_yet(exercise, empty):
    with pytest.raises(AssertionError, match="no answer yet"):
        exercise(lambda *_: empty)
