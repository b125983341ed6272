"""Checks of lesson 03, linear merging. Of a layer: k, s, p are its kernel, stride and padding."""

from copy import deepcopy

import torch

from .exercise import exercise, normal


def _layer_and_norm():
    """A 1x1 convolution and a norm none of whose values is a default."""
    norm = torch.nn.BatchNorm1d(4, eps=0.1).requires_grad_(False).eval()
    dice = torch.Generator().manual_seed(0)
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        tensor.uniform_(0.4, 1.6, generator=dice)
    return normal(1, 4, 3), normal(2, 4), norm


@exercise(_layer_and_norm, lambda: (*_layer_and_norm()[:2], torch.nn.BatchNorm1d(4)))
def folded_batch_norm(weight, bias, norm):
    """Weight (out, in) and bias of norm(conv(x)); ValueError in training mode."""
    if norm.training:
        raise ValueError("a norm in training mode cannot be folded: call eval() first.")
    return _folded(weight, bias, norm)


def _folded(weight, bias, norm, eps=None, power=0.5, mean=1):
    slope = norm.weight / (norm.running_var + (norm.eps if eps is None else eps)) ** power
    return weight * slope[:, None], (bias - mean * norm.running_mean) * slope + norm.bias


folded_batch_norm.mistakes = {
    "the answer never looks at norm.training": _folded,
    "the condition is the wrong way round, for this norm is in eval mode": lambda w, b, norm: (
        folded_batch_norm.right(w, b, deepcopy(norm).train(not norm.training))
    ),
    "eps is forgotten, which is added to the variance": lambda *given: _folded(*given, eps=0),
    "the root is forgotten, for running_var is a variance": lambda *given: _folded(*given, power=1),
    "the convolution's own bias is forgotten": lambda w, b, norm: _folded(w, 0 * b, norm),
    "the running mean is forgotten": lambda *given: _folded(*given, mean=0),
    "norm.bias is forgotten": lambda w, b, norm: (
        _folded(w, b, norm)[0],
        _folded(w, b, norm)[1] - norm.bias,
    ),
}


@exercise(([1.0, 2.0, 4.0], [3.0, -1.0, 5.0], 2), ([2.0, -1.0], [1.0, 3.0, -2.0], 1))
def composed_kernel(w1, w2, s1):
    """The kernel of the second after the first (1-D, one channel)."""
    kernel = torch.zeros(len(w1) + s1 * (len(w2) - 1))
    for j, tap in enumerate(w2):
        kernel[s1 * j : s1 * j + len(w1)] += tap * w1
    return kernel


def _overwritten(w1, w2, s1):
    kernel = torch.zeros(len(w1) + s1 * (len(w2) - 1))
    for j, tap in enumerate(w2):
        kernel[s1 * j : s1 * j + len(w1)] = tap * w1
    return kernel


composed_kernel.mistakes = {
    "the layers are swapped": lambda w1, w2, s1: composed_kernel.right(w2, w1, s1),
    "one kernel is flipped": lambda w1, w2, s1: composed_kernel.right(w1, w2.flip(0), s1),
    "the first stride is ignored": lambda w1, w2, s1: composed_kernel.right(w1, w2, 1),
    "where two windows overlap, their taps add up": _overwritten,
}


@exercise(*(lambda i=i: (normal(i, 3), normal(i, 3, 3, 3, 3), normal(i + 9, 3)) for i in (1, 2)))
def composed_bias(b1, w2, b2):
    """The bias of the second after the first; w2 (out, in, k, k)."""
    return w2.sum((2, 3)) @ b1 + b2


composed_bias.mistakes = {
    "the first bias is forgotten": lambda b1, w2, b2: b2,
    "the second bias is forgotten": lambda b1, w2, b2: w2.sum((2, 3)) @ b1,
    "only the middle tap is counted, but b1 meets every tap": lambda b1, w2, b2: (
        w2[:, :, 1, 1] @ b1 + b2
    ),
    "w2 is (out, in), and b1 belongs to in": lambda b1, w2, b2: b1 @ w2.sum((2, 3)) + b2,
}


@exercise((7, 2, 3, 5, 3, 1), (3, 1, 1, 5, 2, 2))
def composed_geometry(k1, s1, p1, k2, s2, p2):
    """Kernel, stride and padding of the second after the first."""
    return k1 + s1 * (k2 - 1), s1 * s2, p1 + s1 * p2


composed_geometry.mistakes = {
    "the second padding is ignored": lambda k, s, p, m, t, q: (k + s * (m - 1), s * t, p),
    "the second padding counts pixels in between, not of the input": lambda k, s, p, m, t, q: (
        (k + s * (m - 1), s * t, p + q)
    ),
    "the kernel ignores the first stride": lambda k, s, p, m, t, q: (k + m - 1, s * t, p + s * q),
    "kernel and padding ignore the first stride": lambda k, s, p, m, t, q: (
        k + m - 1,
        s * t,
        p + q,
    ),
    "the layers are swapped": lambda k, s, p, m, t, q: composed_geometry.right(m, t, q, k, s, p),
}


@exercise(
    (11, 6, 2, 3, 3, 2, 1), (9, 2, 1, 1, 4, 1, 1), (20, 5, 2, 3, 4, 2, 1), (20, 3, 1, 1, 7, 2, 3)
)
def merged_inside(n, k1, s1, p1, k2, s2, p2):
    """The outputs low to high - 1 of a padded pair that see no zero of the second padding: those
    that one kernel can compute, on a row of n pixels."""
    return -(-p2 // s2), (_outputs(n, k1, s1, p1) - k2 + p2) // s2 + 1


def _outputs(n, k, s, p):
    return (n + 2 * p - k) // s + 1


def _inside(*case):
    """Low and high, and how many outputs there are."""
    return *merged_inside.right(*case), _outputs(_outputs(*case[:4]), *case[4:])


def _no_zero_at_all(n, k1, s1, p1, k2, s2, p2):
    return _inside(n, 1, 1, 0, k1 + s1 * (k2 - 1), s1 * s2, p1 + s1 * p2)[:2]


merged_inside.mistakes = {
    "the first stride is ignored": lambda n, k, s, p, *second: _inside(n, k, 1, p, *second)[:2],
    "the second stride is ignored": lambda *c: _inside(*c[:5], 1, c[6])[:2],
    "high is the first output behind the inside": lambda *c: (_inside(*c)[0], _inside(*c)[1] - 1),
    "the layers are swapped": lambda n, *both: _inside(n, *both[3:], *both[:3])[:2],
    "the first padding is ignored": lambda *c: _inside(*c[:3], 0, *c[4:])[:2],
    "zeros of the first padding do no harm, for one kernel pads with the same": _no_zero_at_all,
    "the second padding moves what an output sees": lambda *c: (
        _inside(*c)[0],
        (_outputs(*c[:4]) - c[4]) // c[5] + 1,
    ),
    "low counts outputs, which the second stride sets apart": lambda *c: (c[6], _inside(*c)[1]),
    "low must be rounded up": lambda *c: (c[6] // c[5], _inside(*c)[1]),
    "with strides the border need not be as wide behind as in front": lambda *c: (
        _inside(*c)[0],
        _inside(*c)[2] - _inside(*c)[0],
    ),
    "these are all outputs, as if nothing were padded in between": lambda *c: (0, _inside(*c)[2]),
}


@exercise((2, 5, 1), (3, 3, 0))
def dirac(channels, kernel, padding):
    """The weight (C, C, k, k) of a convolution that returns its input."""
    return _tap(torch.eye(channels), kernel, padding)


def _tap(values, kernel, at):
    weight = torch.zeros(*values.shape, kernel, kernel)
    weight[:, :, at, at] = values
    return weight


dirac.mistakes = {
    "padding is ignored, which leaves the tap in the corner": lambda c, k, p: dirac.right(c, k, 0),
    "the middle is right for one padding only": lambda c, k, p: dirac.right(c, k, k // 2),
    "every tap was set, but one sees the pixel itself": lambda c, k, p: torch.eye(c)[
        :, :, None, None
    ].expand(c, c, k, k),
    "every channel reads every channel, not itself alone": lambda c, k, p: _tap(
        torch.ones(c, c), k, p
    ),
}


@exercise((3, 2, 5, 10, 40), (3, 1, 3, 8, 8))
def break_even(k1, s1, k2, c_in, c_out):
    """The number of middle channels at which two convolutions cost as much as one."""
    return _one(k1 + s1 * (k2 - 1), c_in, c_out) / (k1**2 * c_in + k2**2 * c_out)


def _one(k, c_in, c_out):
    return k**2 * c_in * c_out


break_even.mistakes = {
    "the merged kernel ignores the first stride": lambda k, s, m, i, o: (
        _one(k + m - 1, i, o) / (k**2 * i + m**2 * o)
    ),
    "a square kernel has more taps than its side is long": lambda k, s, m, i, o: (
        (k + s * (m - 1)) * i * o / (k * i + m * o)
    ),
    "only the second of the two is counted": lambda k, s, m, i, o: (
        _one(k + s * (m - 1), i, o) / (m**2 * o)
    ),
    "the first reads c_in, the second writes c_out": lambda k, s, m, i, o: break_even.right(
        k, s, m, o, i
    ),
}
