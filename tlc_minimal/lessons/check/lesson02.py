"""Checks of lesson 02, ON and OFF."""

import math

import torch
from torch.special import entr, ndtr

from ... import gaussian
from .exercise import exercise


@exercise(
    ([-1.0, 0.5, 2.0, 0.3, 0.0, -0.3], [2.0, 1.5, 0.5, 0.0, 0.0, 0.0]),
    ([-1.0, 0.5, 2.0], [0.7, 0.0, 3.0]),
)
def p_on(mean, std):
    """P(ON) of channels, (C,), from mean and standard deviation; some never vary."""
    return gaussian.p_on(mean, std)


def _p_on(mean, std, ratio, on=torch.gt):
    return torch.where(std > 0, ndtr(ratio), on(mean, 0).float())


p_on.mistakes = {
    "0 / 0, where the standard deviation is 0": lambda m, s: ndtr(m / s),
    "divided by the variance instead of the standard deviation": lambda m, s: _p_on(m, s, m / s**2),
    "this is the probability of being OFF": lambda m, s: 1 - gaussian.p_on(m, s),
    "the sign of the ratio, for this is P(z < 0)": lambda m, s: _p_on(m, s, -m / s),
    "a mean of 0 that never varies is never ON": lambda m, s: _p_on(m, s, m / s, on=torch.ge),
    "Φ(0) is a half, but a 0 that never varies is not ON": lambda m, s: ndtr(m / (s + 1e-9)),
}


@exercise(([0.5, 0.1, 0.0, 1.0, 0.8],), ([0.3, 1.0],))
def layer_entropy(p):
    """Entropy in bits of a layer whose neurons are ON with the probabilities p."""
    return gaussian.entropy(p).mean()


layer_entropy.mistakes = {
    "0 · log 0, which counts as 0": lambda p: (-p * p.log2() - (1 - p) * (1 - p).log2()).mean(),
    "a certain neuron counts as 0, it is not left out": lambda p: (
        -p * p.log2() - (1 - p) * (1 - p).log2()
    ).nanmean(),
    "a natural logarithm, which counts in nats": lambda p: (entr(p) + entr(1 - p)).mean(),
    "only one side of the coin": lambda p: entr(p).mean() / math.log(2),
    "the entropy of the mean, not the mean of the entropies": lambda p: gaussian.entropy(p.mean()),
    "the sum over the neurons instead of their mean": lambda p: gaussian.entropy(p).sum(),
    "one number for each neuron, not one for the layer": gaussian.entropy,
}


@exercise(([-1.0, 0.5, 2.0], [2.0, 1.5, 0.5], 0.3, 0.4), ([-1.0, 0.5], [0.3, 0.6], 1.0, -0.2))
def line_price(mean, std, slope, shift):
    """Expected squared error of slope z + shift in the place of a rectifier, per channel."""
    return _price(mean, std, slope, shift)


def _price(m, s, a, b, cross=2, square=None, product=None):
    off, kept = gaussian.cost_off(m, s), gaussian.mean_relu(m, s)
    square = m**2 + s**2 if square is None else square
    product = off if product is None else product
    return a**2 * square + cross * a * b * m + b**2 - 2 * a * product - 2 * b * kept + off


line_price.mistakes = {
    "E[z²] is the variance and the squared mean": lambda m, s, a, b: _price(
        m, s, a, b, square=s**2
    ),
    "the product of slope and shift is missing": lambda m, s, a, b: _price(m, s, a, b, cross=0),
    "the product of slope and shift counts twice": lambda m, s, a, b: _price(m, s, a, b, cross=1),
    "the mean of a product is no product of means": lambda m, s, a, b: _price(
        m, s, a, b, product=m * gaussian.mean_relu(m, s)
    ),
    "this is the price of OFF, whatever the line": lambda m, s, a, b: gaussian.cost_off(m, s),
    "this is the price of ON, whatever the line": lambda m, s, a, b: gaussian.cost_on(m, s),
}


@exercise(
    ([[-2.0, -1.0, 0.5, 3.0], [0.0, 1.0, 2.0, 5.0]], torch.square), ([[-1.0, 0.5, 2.0]], torch.relu)
)
def best_line(z, f):
    """Least-squares line through (z, f(z)), z (C, n): slope and shift, (C,) each."""
    return _line(_covariance(z, f(z)) / z.var(1, correction=0), z, f)


def _covariance(a, b):
    return (a * b).mean(1) - a.mean(1) * b.mean(1)


def _line(slope, z, f):
    return slope, f(z).mean(1) - slope * z.mean(1)


best_line.mistakes = {
    "this is the slope of a line through 0, without centring": lambda z, f: _line(
        (z * f(z)).mean(1) / z.square().mean(1), z, f
    ),
    "divided by the standard deviation instead of the variance": lambda z, f: _line(
        _covariance(z, f(z)) / z.std(1, correction=0), z, f
    ),
    "the covariance is over n, but the variance over n - 1": lambda z, f: _line(
        _covariance(z, f(z)) / z.var(1), z, f
    ),
    "a sum was divided by a mean": lambda z, f: _line(z.shape[1] * best_line.right(z, f)[0], z, f),
    "the shift forgets the slope": lambda z, f: (best_line.right(z, f)[0], f(z).mean(1)),
    "shift and slope are swapped": lambda z, f: best_line.right(z, f)[::-1],
}


@exercise(
    ([[-1.0, -1, -1, 2.5], [1, 1, 1, -2.5], [-1, -1, -1, 5], [2, 2, 2, -3]],),
    ([[1.0, 1, -1.2], [-3, 1, 1]],),
)
def on_is_cheaper(z):
    """Where z → z has the smaller squared error than z → 0, on samples z (C, n)."""
    return z.relu().square().mean(1) > (-z).relu().square().mean(1)


on_is_cheaper.mistakes = {
    "errors have to be squared, for the sign of the mean decides only for a Gaussian": lambda z: (
        z.mean(1) > 0
    ),
    "how far z is on each side counts, not how often": lambda z: (z > 0).float().mean(1) > 0.5,
    "the farthest sample does not decide alone": lambda z: z.amax(1) > -z.amin(1),
    "errors are squared, not cubed: few large values count for less": lambda z: (
        z.pow(3).mean(1) > 0
    ),
    "this is where 0 is the cheaper one": lambda z: ~on_is_cheaper.right(z),
}
