"""Lesson 03's checks: the right answer passes, the usual mistakes fail and are named."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlc_minimal.check import lesson03 as check
from tlc_minimal.lessons import kernels


def fold(w, b, norm):
    if norm.training:
        raise ValueError("eval first")
    slope = norm.weight / (norm.running_var + norm.eps).sqrt()
    return w * slope[:, None], (b - norm.running_mean) * slope + norm.bias


def fold_with(w, b, norm, eps=None, power=0.5, bias=1, mean=1):
    slope = norm.weight / (norm.running_var + (norm.eps if eps is None else eps)) ** power
    return w * slope[:, None], (bias * b - mean * norm.running_mean) * slope + norm.bias


def fold_by_the_library(w, b, norm):
    if norm.training:
        raise ValueError("eval first")
    done = kernels.fold_batch_norm(kernels.Conv(w, b), norm)
    return done.weight, done.bias


def taps(w1, w2, s1):
    first = kernels.Conv(w1[None, None], torch.zeros(1), (s1,), (0,))
    second = kernels.Conv(w2[None, None], torch.zeros(1), (1,), (0,))
    return kernels.compose(first, second).weight.flatten()


def bias(b1, w2, b2):
    return torch.einsum("oihw,i->o", w2, b1) + b2


def geometry(k1, s1, p1, k2, s2, p2):
    return k1 + s1 * (k2 - 1), s1 * s2, p1 + s1 * p2


def inside(n, k1, s1, p1, k2, s2, p2):
    middle = (n + 2 * p1 - k1) // s1 + 1
    return -(-p2 // s2), (middle - k2 + p2) // s2 + 1


def outputs(n, k1, s1, p1, k2, s2, p2):
    return ((n + 2 * p1 - k1) // s1 + 1 + 2 * p2 - k2) // s2 + 1


def inside_by_trying(n, k1, s1, p1, k2, s2, p2):
    """Outputs at which the kernel of the pair whose padding moved agrees with the pair itself."""
    dice = torch.Generator().manual_seed(0)
    w1, b1, w2, x = (
        torch.randn(*shape, generator=dice).double()
        for shape in [(3, 2, k1), (3,), (2, 3, k2), (1, 2, n)]
    )
    pair = F.conv1d(F.conv1d(x, w1, b1, s1, p1), w2, None, s2, p2)
    first = kernels.Conv(w1, b1, (s1,), (p1 + s1 * p2,))
    second = kernels.Conv(w2, torch.zeros(2).double(), (s2,), (0,))
    one = kernels.apply(kernels.compose(first, second), x)
    right = ((one - pair).abs().amax((0, 1)) < 1e-9).nonzero().flatten().tolist()
    assert right == list(range(right[0], right[-1] + 1))
    return right[0], right[-1] + 1


def dirac(channels, kernel, padding):
    weight = torch.zeros(channels, channels, kernel, kernel)
    weight[:, :, padding, padding] = torch.eye(channels)
    return weight


def break_even(k1, s1, k2, c_in, c_out):
    return (k1 + s1 * (k2 - 1)) ** 2 * c_in * c_out / (k1**2 * c_in + k2**2 * c_out)


def merged(k, c_in, c_out, two):
    return k**2 * c_in * c_out / two


RIGHT = {
    "folded_batch_norm": [fold, fold_by_the_library],
    "composed_kernel": [taps],
    "composed_bias": [bias],
    "composed_geometry": [geometry],
    "merged_inside": [inside, inside_by_trying],
    "dirac": [dirac],
    "break_even": [break_even],
}
WRONG = [
    ("folded_batch_norm", lambda w, b, n: fold_with(w, b, n, eps=0), "eps is forgotten"),
    ("folded_batch_norm", lambda w, b, n: fold_with(w, b, n, power=1), "root is forgotten"),
    ("folded_batch_norm", lambda w, b, n: fold_with(w, b, n, bias=0), "own bias"),
    ("folded_batch_norm", lambda w, b, n: fold_with(w, b, n, mean=0), "running mean"),
    ("folded_batch_norm", fold_with, "norm.training"),
    ("composed_kernel", lambda a, b, s: taps(b, a, s), "swapped order"),
    ("composed_kernel", lambda a, b, s: taps(a, b.flip(0), s), "flipped"),
    ("composed_kernel", lambda a, b, s: taps(a, b, 1), "stride is ignored"),
    ("composed_bias", lambda b1, w2, b2: b2, "first bias"),
    ("composed_bias", lambda b1, w2, b2: bias(b1, w2, 0 * b2), "second bias"),
    ("composed_bias", lambda b1, w2, b2: w2[:, :, 1, 1] @ b1 + b2, "middle tap"),
    ("composed_bias", lambda b1, w2, b2: bias(b1, w2.transpose(0, 1), b2), "swapped order"),
    ("composed_geometry", lambda k, s, p, m, t, q: (k + s * (m - 1), s * t, p), "is ignored"),
    ("composed_geometry", lambda k, s, p, m, t, q: (k + s * (m - 1), s * t, p + q), "just added"),
    ("composed_geometry", lambda k, s, p, m, t, q: (k + m - 1, s * t, p + s * q), "the kernel"),
    ("composed_geometry", lambda k, s, p, m, t, q: (k + m - 1, s * t, p + q), "both ignore"),
    ("composed_geometry", lambda k, s, p, m, t, q: geometry(m, t, q, k, s, p), "swapped order"),
    ("merged_inside", lambda n, k, s, p, m, t, q: inside(n, k, 1, p, m, t, q), "first stride"),
    ("merged_inside", lambda n, k, s, p, m, t, q: inside(n, k, s, p, m, 1, q), "second stride"),
    ("merged_inside", lambda *c: (inside(*c)[0], inside(*c)[1] - 1), "one pixel off"),
    ("merged_inside", lambda *c: [inside(*c)[0], inside(*c)[1] - 1], "one pixel off"),
    ("merged_inside", lambda n, k, s, p, m, t, q: inside(n, m, t, q, k, s, p), "swapped order"),
    ("merged_inside", lambda n, k, s, p, m, t, q: inside(n, k, s, 0, m, t, q), "first padding is"),
    (
        "merged_inside",
        lambda n, k, s, p, m, t, q: inside(n, 1, 1, 0, k + s * (m - 1), s * t, p + s * q),
        "zeros of the first padding count",
    ),
    ("merged_inside", lambda *c: (c[6] // c[5], inside(*c)[1]), "rounded down"),
    ("merged_inside", lambda *c: (inside(*c)[0], outputs(*c) - inside(*c)[0]), "as wide behind"),
    ("merged_inside", lambda *c: (0, outputs(*c)), "as if nothing were padded"),
    ("dirac", lambda c, k, p: dirac(c, k, 0), "padding is ignored"),
    ("dirac", lambda c, k, p: dirac(c, k, k // 2), "in the middle"),
    ("dirac", lambda c, k, p: dirac(c, k, p).amax((0, 1)).expand(c, c, k, k), "every channel"),
    ("break_even", lambda k, s, m, i, o: break_even(k, s, m, o, i), "swapped order"),
    (
        "break_even",
        lambda k, s, m, i, o: merged(k + m - 1, i, o, k**2 * i + m**2 * o),
        "ignores the first stride",
    ),
    ("break_even", lambda k, s, m, i, o: (k + s * (m - 1)) * i * o / (k * i + m * o), "not k"),
    (
        "break_even",
        lambda k, s, m, i, o: merged(k + s * (m - 1), i, o, m**2 * o),
        "second of the two",
    ),
]


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name, capsys):
    for answer in RIGHT[name]:
        getattr(check, name)(answer)
        assert capsys.readouterr().out == "correct\n"


@pytest.mark.parametrize(("name", "answer", "cause"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_answers_are_named(name, answer, cause):
    with pytest.raises(AssertionError, match=f"Likely cause: .*{cause}"):
        getattr(check, name)(answer)


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_is_said_to_be_none(name):
    for nothing in (lambda *args: None, lambda *args: ...):
        with pytest.raises(AssertionError, match="no answer yet"):
            getattr(check, name)(nothing)


def test_the_norm_of_the_check_hides_nothing():
    _, _, norm = check._conv_and_norm()
    fresh = nn.BatchNorm1d(4)
    for key, value in fresh.state_dict().items():
        if value.ndim:
            assert not torch.isclose(value, norm.state_dict()[key]).any()
