"""Checks of lesson 00, a tour."""

import torch

from .exercise import exercise, normal


@exercise((5, 16, 4, 8, 6), (3, 3, 8, 32, 32))
def macs(kernel, c_in, c_out, height, width):
    """Multiply-accumulates of a square convolution on a map of height x width."""
    return kernel**2 * c_in * c_out * height * width


macs.mistakes = {
    "a square kernel has more taps than its side is long": lambda k, i, o, h, w: k * i * o * h * w,
    "every input channel has products of its own": lambda k, i, o, h, w: k**2 * o * h * w,
    "the height was used twice: maps need not be square": lambda k, i, o, h, w: (
        k**2 * i * o * h * h
    ),
    "these are the sizes of the output already, take nothing off": lambda k, i, o, h, w: (
        k**2 * i * o * (h - k + 1) * (w - k + 1)
    ),
    "this is the price of one output pixel": lambda k, i, o, h, w: k**2 * i * o,
    "a bias is no multiplication": lambda k, i, o, h, w: (k**2 * i + 1) * o * h * w,
}


@exercise(([-2.0, -0.5, 0.0, 0.1, 0.2, 0.3, 1.0, 3.0],), ([0.0, 0.0, -1.0, 2.0],))
def share_off(mean):
    """The share in percent of channels that are OFF: their mean is 0 or below."""
    return 100 * (mean <= 0).double().mean()


share_off.mistakes = {
    "this is the share of ON channels": lambda mean: 100 * (mean > 0).double().mean(),
    "a mean of exactly 0 counts as OFF": lambda mean: 100 * (mean < 0).double().mean(),
    "this is a fraction, not percent": lambda mean: (mean <= 0).double().mean(),
    "this is how many there are, not their share": lambda mean: (mean <= 0).sum(),
}

W1, B1, W2, B2 = [[1.0, 2.0], [0.0, 3.0]], [1.0, -2.0], [[2.0, -1.0], [1.0, 4.0]], [0.5, 5.0]


@exercise((W1, B1, W2, B2), (W2, B2, W1, B1))
def two_linear_layers(w1, b1, w2, b2):
    """Weight and bias of the second linear layer after the first."""
    return w2 @ w1, w2 @ b1 + b2


two_linear_layers.mistakes = {
    "the layers are swapped": lambda w1, b1, w2, b2: (w1 @ w2, w1 @ b2 + b1),
    "the two weights are in the wrong order": lambda w1, b1, w2, b2: (w1 @ w2, w2 @ b1 + b2),
    "the first bias is forgotten": lambda w1, b1, w2, b2: (w2 @ w1, b2),
    "the second layer acts on the first bias, too": lambda w1, b1, w2, b2: (w2 @ w1, b1 + b2),
    "the second bias is forgotten": lambda w1, b1, w2, b2: (w2 @ w1, w2 @ b1),
    "the weight is transposed": lambda w1, b1, w2, b2: ((w2 @ w1).T, w2 @ b1 + b2),
    "* is no matrix product": lambda w1, b1, w2, b2: (w2 * w1, w2 @ b1 + b2),
}


def _run(seed):
    x = normal(seed, 60, 3) + 1
    return x, torch.relu(x @ normal(seed + 1, 3, 8)) @ normal(seed + 2, 8, 2)


@exercise(lambda: _run(0), lambda: _run(5))
def one_layer_for_a_run(x, y):
    """Weight and bias of the linear layer that comes nearest to y from x, by least squares."""
    return _fitted(x, y)


def _fitted(x, y):
    best = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y).solution
    return best[:-1].mT, best[-1]


one_layer_for_a_run.mistakes = {
    "there is no bias: give x a column of ones": lambda x, y: (
        torch.linalg.lstsq(x, y).solution.mT,
        torch.zeros(y.shape[1]),
    ),
    "the bias has to be fitted together with the weight": lambda x, y: (
        torch.linalg.lstsq(x, y).solution.mT,
        (y - x @ torch.linalg.lstsq(x, y).solution).mean(0),
    ),
    "the weight is transposed: a layer's rows are its outputs": lambda x, y: (
        _fitted(x, y)[0].mT,
        _fitted(x, y)[1],
    ),
    "the ones stand first, so the first row is the bias": lambda x, y: (
        torch.cat([_fitted(x, y)[1][None], _fitted(x, y)[0].mT[:-1]]).mT,
        _fitted(x, y)[0][:, -1],
    ),
    "y is to be had from x, not x from y": lambda x, y: _fitted(y, x),
    "the mean of x passes through the weight, too": lambda x, y: (_fitted(x, y)[0], y.mean(0)),
    "this sends the first column of x to the bias: the ones stand last": lambda x, y: (
        torch.cat([_fitted(x, y)[0].mT[1:], _fitted(x, y)[1][None]]).mT,
        _fitted(x, y)[0][:, 0],
    ),
}
