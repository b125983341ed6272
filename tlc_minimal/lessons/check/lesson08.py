"""Checks of lesson 08, robust and deployed."""

import torch

from .. import robust
from .exercise import exercise


def _draw(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _predictions(seed):
    confidence = _draw(seed, 400) ** 0.4
    confidence[:20] = 1  # the upper edge of the last bin
    return confidence, _draw(seed + 1, 400) < 0.6 * confidence**2 + 0.3


@exercise(lambda: _predictions(8), lambda: _predictions(6))
def calibration_error(confidence, correct):
    """Expected calibration error, 15 bins, 0 to 1."""
    return robust.calibration_error(confidence, correct)


def _gaps(*given):
    points = robust.reliability(*given)
    return points["accuracy"] - points["confidence"]


def _in_bin(sure, right, here):
    return here.double().mean() * (right[here].double().mean() - sure[here].mean()).abs()


calibration_error.mistakes = {
    "some bins hold more predictions than others": lambda *given: _gaps(*given).abs().mean(),
    "without absolute values the gaps cancel": lambda sure, right: (1.0 * right - sure).mean(),
    "without bins the gaps cancel": lambda sure, right: (1.0 * right - sure).mean().abs(),
    "this is the largest gap, not their mean": lambda *given: _gaps(*given).abs().max(),
    "a bin holds its upper edge, and 1 is sure, not nowhere": lambda sure, right: (
        robust.calibration_error(sure[sure < 1], right[sure < 1]) * (sure < 1).double().mean()
    ),
    "an empty bin has no mean (nan), and counts nothing": lambda sure, right: sum(
        _in_bin(sure, right, (sure > m / 15) & (sure <= (m + 1) / 15)) for m in range(15)
    ),
    "these are ten bins, not 15": lambda *given: robust.calibration_error(*given, bins=10),
}


def _answers(seed):
    return (7 * _draw(seed, 60) + 3) // 1, 10 * _draw(seed, 40) // 1


@exercise(*(lambda i=i: _answers(i) for i in (8, 9)), lambda: _answers(8)[::-1])
def auroc(known, unknown):
    """P(a known input scores above an unknown one), a tie counting one half."""
    return _wins(known[:, None] - unknown)


def _wins(difference, tie=0.5):
    return ((difference > 0).double() + tie * (difference == 0).double()).mean()


auroc.mistakes = {
    "ties count one half, not nothing": lambda known, un: _wins(known[:, None] - un, tie=0),
    "ties count one half, not fully": lambda known, un: _wins(known[:, None] - un, tie=1),
    "this is in percent, 0 to 1 is asked for": lambda known, un: 100 * _wins(known[:, None] - un),
    "a detector may also be worse than a coin": lambda known, un: max(
        _wins(known[:, None] - un), _wins(un[:, None] - known)
    ),
    "this is how often the unknown one is higher": lambda known, un: _wins(un[:, None] - known),
    "every known one meets every unknown one": lambda known, un: _wins(
        known[: len(un)] - un[: len(known)]
    ),
}


def _states(seed):
    on = _draw(seed, 200) < 0.2
    return on, torch.where(_draw(seed + 1, 200) < 0.6, on, _draw(seed + 2, 200) < 0.3)


@exercise(lambda: _states(1), lambda: _states(2))
def beyond_chance(on, other):
    """Cohen's kappa of two sets of states, boolean (N,)."""
    return (_same(on, other) - _chance(on, other)) / (1 - _chance(on, other))


def _same(on, other):
    return (on == other).double().mean()


def _both(on, other):
    return on.double().mean() * other.double().mean()


def _chance(on, other):
    return _both(on, other) + _both(~on, ~other)


beyond_chance.mistakes = {
    "this is in percent, 1 is perfect": lambda a, b: 100 * beyond_chance.right(a, b),
    "chance is not taken off": _same,
    "what could be gained over chance is less than 1": lambda a, b: _same(a, b) - _chance(a, b),
    "chance is one half only where half is ON": lambda a, b: 2 * _same(a, b) - 1,
    "by chance both can be OFF, too": lambda a, b: (_same(a, b) - _both(a, b)) / (1 - _both(a, b)),
}


@exercise(
    ([11.0, 30.0, 10.5, 12.0, 28.0, 10.2, 10.0], [5.2, 16.5, 5.0, 9.0, 11.0, 5.4, 5.1]),
    ([9.0, 4.0, 4.2], [8.0, 4.1, 4.4]),
)
def paired_speedup(dense, small):
    """How many times faster small is: the median over the rounds of the ratio of milliseconds."""
    return (dense / small).median()


paired_speedup.mistakes = {
    "two medians compare different rounds": lambda dense, small: dense.median() / small.median(),
    "two means hold all the odd rounds": lambda dense, small: dense.mean() / small.mean(),
    "this is the mean, which one odd round moves": lambda dense, small: (dense / small).mean(),
    "this is one round, not the median of all": lambda dense, small: dense[0] / small[0],
    "the ratio is upside down": lambda dense, small: (small / dense).median(),
    "the fastest are two different rounds": lambda dense, small: dense.min() / small.min(),
}
