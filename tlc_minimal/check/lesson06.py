"""Checks of lesson 06, a fair comparison."""

import math
from itertools import product

import torch
from torch import Tensor

from .compare import compare, short


def state_entropy(answer) -> None:
    """answer(z): entropy in bits of a layer's states, counted on samples (N, channels)."""
    z = torch.tensor([[3.0, -1.0, 2.0, -5.0], [-1.0, -2.0, 1.0, 1.0], [-0.5, -3.0, 4.0, 2.0]])
    z = torch.cat([z, torch.tensor([[-0.1, -1.0, 1.0, 0.5]])]).double()
    rate = (z > 0).double().mean(0)
    guess = torch.special.ndtr(z.mean(0) / z.std(0, correction=0))
    bits = lambda p: (
        (torch.special.entr(p) + torch.special.entr(1 - p))
        / torch.log(torch.tensor(2.0, dtype=torch.float64))
    )
    mistakes = {
        "that is the Gaussian's entropy, from mean and std: count the states.": bits(guess).mean(),
        "a natural logarithm: these are nats.": bits(rate).mean() * math.log(2),
        "averaged first: take the entropy of each neuron, the mean last.": bits(rate.mean()),
        "the sum over the neurons instead of their mean.": bits(rate).sum(),
        "one number a neuron: take the mean over the layer.": bits(rate),
    }
    got = answer(z)
    if isinstance(got, Tensor) and got.isnan().any():
        raise AssertionError(
            f"there is a nan in {short(got.detach().double())}. Likely cause: 0 · log 0: a neuron "
            "that never changes its state has entropy 0."
        )
    compare(got, bits(rate).mean(), mistakes)


def wasserstein(answer) -> None:
    """answer(x, y): Wasserstein-2 distance of two samples on a line, of equal size."""
    x, y = torch.tensor([[5.0, 0.0, 1.0, 2.0], [3.0, 4.0, 2.0, 4.5]], dtype=torch.float64)
    root = lambda gaps: gaps.square().mean().sqrt()
    gap = x.sort().values - y.sort().values
    other = x.sort().values - y.sort(descending=True).values
    mistakes = {
        "paired as they came: sort both, the smallest goes to the smallest.": root(x - y),
        "one sorted upwards, one downwards: the longest way, not the shortest.": root(other),
        "that is Wasserstein-1: square, average, take the root.": gap.abs().mean(),
        "the root is missing.": gap.square().mean(),
        "the mean is missing: this grows with the sample.": gap.square().sum().sqrt(),
        "only the means were compared.": (x.mean() - y.mean()).abs(),
    }
    compare(answer(x, y), root(gap), mistakes)


def paired_t(answer) -> None:
    """answer(a, b): the paired t of two methods' accuracies, seed by seed."""
    a, b = torch.tensor([[71.0, 64.0, 68.0, 75.0], [69.5, 63.0, 65.0, 74.0]], dtype=torch.float64)
    d, n = a - b, len(a)
    unpaired = (a.var() / n + b.var() / n).sqrt()
    mistakes = {
        "not paired: the seeds' own spread is still in it. Subtract first.": d.mean() / unpaired,
        "the root of n is missing: that is mean over standard deviation.": d.mean() / d.std(),
        "the standard deviation over n - 1, not over n.": d.mean() / (d.std(correction=0) / n**0.5),
        "divided by the variance, not by the standard deviation.": d.mean() / (d.var() / n**0.5),
        "the sign: a minus b.": -d.mean() / (d.std() / n**0.5),
    }
    compare(answer(a, b), d.mean() / (d.std() / n**0.5), mistakes)


def sign_flip(answer) -> None:
    """answer(d): two-sided p of the mean difference when every sign could as well be the other."""
    d = torch.tensor([2.0, 1.0, 3.0, -1.0, 1.5], dtype=torch.float64)
    means = torch.tensor([s for s in product((1.0, -1.0), repeat=len(d))]).double() @ d / len(d)
    size, seen, above = means.abs(), d.mean().abs(), (means >= d.mean() - 1e-9).double()
    at_least, more = size >= seen - 1e-9, (size > seen + 1e-9).double()
    mistakes = {
        "one-sided: a mean that is as far below 0 counts, too.": above.mean(),
        "as large counts, too, not only larger: else the seen one is left out.": more.mean(),
        "that is a number of patterns: divide by 2 to the n.": at_least.sum().double(),
        "divided by n patterns: there are 2 to the n.": at_least.sum() / len(d),
        "that is the share of patterns that are less extreme.": 1 - at_least.double().mean(),
    }
    compare(answer(d), at_least.double().mean(), mistakes)


def seeds_needed(answer) -> None:
    """answer(d, t): the smallest number of seeds at which a difference such as d's reaches t."""
    d = torch.tensor([1.0, -0.5, 2.0, 0.2], dtype=torch.float64)
    ratio = 3 * d.std() / d.mean()
    mistakes = {
        "the square is missing: t grows with the root of n.": ratio.ceil(),
        "rounded down: that many seeds do not reach t.": ratio.square().floor(),
        "not a whole number: round up.": ratio.square(),
        "the variance instead of the standard deviation.": (3 * d.var() / d.mean()).square().ceil(),
        "the standard deviation over n - 1, not over n.": (0.75 * ratio.square()).ceil(),
    }
    compare(answer(d, 3.0), ratio.square().ceil(), mistakes)
