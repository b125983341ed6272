"""Checks of lesson 06, a fair comparison."""

import math
from itertools import product

import torch
from torch.special import ndtr

from ...gaussian import entropy
from .exercise import exercise

Z = [[3.0, -1.0, 2.0, -5.0], [1.0, -2.0, 1.0, 1.0], [0.0, -3.0, 4.0, 2.0], [-0.1, -1.0, 1.0, 0.5]]


@exercise((Z,), (Z[1:],))
def state_entropy(z):
    """Entropy in bits of a layer's states, counted on samples z (N, channels)."""
    return entropy(_rate(z)).mean()


def _rate(z):
    return (z > 0).double().mean(0)


def _no_limit(z):
    p = _rate(z)
    return -(p * p.log2() + (1 - p) * (1 - p).log2()).mean()


def _of_gaussians(z):
    return entropy(ndtr(z.mean(0) / z.std(0, correction=0))).mean()


state_entropy.mistakes = {
    "a neuron that receives exactly 0 is OFF": lambda z: entropy(_rate(z + 1e-9)).mean(),
    "0 · log 0, where a neuron never changes its state": _no_limit,
    "this is the entropy of Gaussians, but states are counted": _of_gaussians,
    "a share for each neuron, over the samples": lambda z: entropy((z > 0).double().mean(1)).mean(),
    "a natural logarithm, which counts in nats": lambda z: state_entropy.right(z) * math.log(2),
    "the entropy of the mean, not the mean of the entropies": lambda z: entropy(_rate(z).mean()),
    "the sum over the neurons instead of their mean": lambda z: entropy(_rate(z)).sum(),
    "one number for each neuron, not one for the layer": lambda z: entropy(_rate(z)),
}


@exercise(
    ([71.0, 64.0, 68.0, 75.0], [69.5, 63.0, 65.0, 74.0]), ([80.0, 81.0, 79.0], [81.0, 81.5, 79.5])
)
def paired_t(a, b):
    """The paired t of two methods' accuracies, seed by seed."""
    return _t((a - b).mean(), (a - b).std(), len(a))


def _t(mean, std, n):
    return mean / (std / n**0.5)


paired_t.mistakes = {
    "not paired, so that the seeds' own spread is still in it": lambda a, b: _t(
        (a - b).mean(), (a.var() + b.var()).sqrt(), len(a)
    ),
    "this is the spread of one seed, not of their mean": lambda a, b: (
        (a - b).mean() / (a - b).std()
    ),
    "the standard deviation of a sample divides by n - 1": lambda a, b: _t(
        (a - b).mean(), (a - b).std(correction=0), len(a)
    ),
    "divided by the variance, not the standard deviation": lambda a, b: _t(
        (a - b).mean(), (a - b).var(), len(a)
    ),
    "the sign, for a minus b was asked for": lambda a, b: paired_t.right(b, a),
    "the sign is lost, which tells who is ahead": lambda a, b: paired_t.right(a, b).abs(),
}


@exercise(([2.0, 1.0, 3.0, -1.0, 1.5],), ([-0.5, -2.0, -1.0],))
def sign_flip(d):
    """Two-sided p of the mean difference, when every sign could as well be the other."""
    return _extreme(d).mean()


def _means(d):
    patterns = torch.tensor(list(product((1.0, -1.0), repeat=len(d))))
    return (patterns * d).mean(1)


def _extreme(d, room=1e-6):
    return (_means(d).abs() > d.mean().abs() - room).double()


sign_flip.mistakes = {
    "one-sided, but as far below 0 counts, too": lambda d: (
        (_means(d) > d.mean() - 1e-6).double().mean()
    ),
    "a mean just as far from 0 counts, too": lambda d: _extreme(d, room=-1e-6).mean(),
    "this is the number of patterns, not their share": lambda d: _extreme(d).sum(),
    "there are more than n patterns": lambda d: _extreme(d).sum() / len(d),
    "these are the patterns that are less extreme": lambda d: 1 - _extreme(d).mean(),
}


@exercise(
    ([0.03, 0.004, 0.2, 0.012, 0.02], 0.05),
    ([0.04, 0.03, 0.001], 0.05),
    ([0.5, 0.02, 0.3], 0.05),
    ([0.03, 0.004, 0.2, 0.012, 0.02], 0.01),
)
def holm(p, level):
    """Which p-values of a family are real by Holm's rule."""
    return _in_order(p, (p.sort().values < _limits(p, level)).long().cumprod(0))


def _limits(p, level):
    return level / torch.arange(len(p), 0, -1)


def _in_order(p, passed):
    """What was found for the sorted p-values, where they stood."""
    return torch.zeros(len(p), dtype=torch.bool).scatter(0, p.argsort(), passed.bool())


def _upwards(p, level):
    small = p.sort().values < _limits(p, level)
    return _in_order(p, small.flip(0).cumsum(0).flip(0))


holm.mistakes = {
    "nothing was corrected for the number of comparisons": lambda p, level: p < level,
    "one limit for all is Bonferroni's rule, which finds less": lambda p, level: p < level / len(p),
    "the rule ends at the first that fails, whatever comes behind it": lambda p, level: _in_order(
        p, p.sort().values < _limits(p, level)
    ),
    "the level is ignored": lambda p, level: holm.right(p, 0.05),
    "from the largest down is Hochberg's rule": _upwards,
    "the smallest has the strictest limit": lambda p, level: _in_order(
        p, (p.sort().values < _limits(p, level).flip(0)).long().cumprod(0)
    ),
    "the answers stand in the order of size, not of the family": lambda p, level: (
        holm.right(p, level).sort(descending=True).values
    ),
}


@exercise(
    ([1.0, -0.5, 2.0, 0.2], 3.0),
    ([0.5, 0.7, 0.1], 4.0),
    ([1.0, -0.5, 2.0, 0.2], 3.1),
    ([1.0, 2.0, 3.0], 4.0),
)
def seeds_needed(d, t):
    """The smallest number of seeds at which a difference such as d's reaches t."""
    return math.ceil((t * d.std() / d.mean()) ** 2)


seeds_needed.mistakes = {
    "t grows with the root of n only": lambda d, t: math.ceil(t * d.std() / d.mean()),
    "rounded down, but so few do not reach t": lambda d, t: int((t * d.std() / d.mean()) ** 2),
    "where it comes out even, that many are enough": lambda d, t: (
        int((t * d.std() / d.mean()) ** 2) + 1
    ),
    "rounded to the nearest, which may be too few": lambda d, t: round(
        float((t * d.std() / d.mean()) ** 2)
    ),
    "not a whole number of seeds": lambda d, t: (t * d.std() / d.mean()) ** 2,
    "the variance, not the standard deviation": lambda d, t: seeds_needed.right(d, t * d.std()),
    "the standard deviation of a sample divides by n - 1": lambda d, t: math.ceil(
        (t * d.std(correction=0) / d.mean()) ** 2
    ),
}
