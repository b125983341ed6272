"""The checks of lesson 05 accept the right answer and name the usual mistakes."""

import pytest

import tlc_minimal as tlc
from tlc_minimal import check


def kinds(model, x):
    found = tlc.find_layers(model, x)
    return sum(a.after_sum for a in found), sum(a.norm is not None for a in found)


def no_stem(model, x):
    sums, norms = kinds(model, x)
    return sums, norms - (sums > 0)


def all_as_norm(model, x):
    return kinds(model, x)[0], sum(kinds(model, x))


RIGHT = {
    check.conv_macs: lambda i, o, k, s, n: k**2 * i * o * (n // s) ** 2,
    check.block_share: lambda q: (13.5 * (1 - q) + 0.5) / 14,
    check.activation_kinds: kinds,
}
WRONG = [
    (check.conv_macs, lambda i, o, k, s, n: k**2 * i * o * n**2, "stride was forgotten"),
    (check.conv_macs, lambda i, o, k, s, n: k**2 * i * o * n * (n // s), "divide both sides"),
    (check.conv_macs, lambda i, o, k, s, n: k * i * o * (n // s) ** 2, "kernel² taps"),
    (check.conv_macs, lambda i, o, k, s, n: k**2 * o * (n // s) ** 2, "input channels"),
    (check.conv_macs, lambda i, o, k, s, n: 2 * k**2 * i * o * (n // s) ** 2, "not two"),
    (check.block_share, lambda q: 1 - q, "shortcut is not cut"),
    (check.block_share, lambda q: (4.5 * (1 - q) + 9.5) / 14, "second convolution"),
    (check.block_share, lambda q: (9 * (1 - q) + 5) / 14, "first convolution"),
    (check.block_share, lambda q: (13.5 * (1 - q) ** 2 + 0.5) / 14, "no square"),
    (check.block_share, lambda q: 13.5 * q / 14, "not what is saved"),
    (check.activation_kinds, lambda m, x: kinds(m, x)[::-1], "swapped"),
    (check.activation_kinds, no_stem, "stem was forgotten"),
    (check.activation_kinds, all_as_norm, "norm is None"),
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
def test_stub_is_told_apart_from_a_wrong_answer(exercise, nothing):
    with pytest.raises(AssertionError, match="no answer yet"):
        exercise(lambda *args: nothing)
