"""Which activation goes next: one small function per rule, in a dictionary.

A rule takes the model, the data, the linearisation it prepares and a seed, and returns
{name: score}; the lowest score goes first. A reader adds a rule in one line: RULES["mine"] = f;
so do :mod:`tlc_minimal.methods`.
"""

import random as dice

import torch
from torch import nn
from tqdm.auto import tqdm

from .channels import channel_dim, normalizes
from .data import Data
from .gaussian import cost_line
from .graph import find_shapes, trace
from .linearize import check_rule, function_of, line_at, linearize
from .modules import Affine
from .nodes import activation_nodes, module_of, only_user
from .prefix import Swap, swapped_losses
from .reading.fits import check_data
from .reading.layers import CONV, NORM
from .reading.refuse import check_finite, there_are
from .refuse import check_known, check_ranges
from .statistics import statistics
from .train import evaluate, like_of


def rank(
    model: nn.Module, data: Data, rule: str = "tlc", replacement: str = "on_off_affine",
    seed: int = 0, progress: bool = False,
) -> dict[str, float]:  # fmt: skip
    """{name of activation: score}, least harmful first.

    ``rule``: a key of ``RULES``; ``replacement``: the linearisation that the score is for.
    TypeError or ValueError for wrong arguments; ValueError for a model without activations.
    """
    check_known("ranking rule", rule, RULES)
    check_rule(replacement)
    check_ranges(seed=seed)
    data = check_data(model, data)
    names = list(activation_nodes(trace(model, share=True, example=data)))
    if not names:
        raise ValueError(f"this model has no activation left that can go: {there_are()}.")
    check_finite(model)
    bar = tqdm(names, desc=f"rank by {rule}", disable=not progress, leave=False)
    scores = RULES[rule](model, data, bar, replacement, seed)
    return dict(sorted(scores.items(), key=lambda item: item[1]))


def tlc(model, data, names, replacement, seed) -> dict[str, float]:
    """Increase of the validation loss when the activation becomes a line (TLC, algorithm 1), on the
    whole fixed un-augmented validation split. What comes before the activation runs only once, but
    where all is OFF: what is left there (a channel, or no branch) only :func:`linearize` knows."""
    progress = not getattr(names, "disable", True)  # asked now: a bar that is full turns itself off
    gaussians, traced = statistics(model, data), trace(model, share=True, example=data).eval()
    nodes, swaps = activation_nodes(traced), {}
    find_shapes(traced, data)
    for n in names:
        line = line_at(traced, nodes[n], gaussians[n], replacement)
        line = Affine(*line, channel_dim(traced, nodes[n])).to(like_of(model))
        swaps[n] = Swap(nodes[n].args[0], nodes[n], line)
    found = swapped_losses(traced, swaps, data, len(data.val.labels), "rank", progress)
    for n in [n for n, swap in swaps.items() if not swap.map.slope.any()]:
        found[n] = evaluate(linearize(model, n, data, replacement).eval(), data).loss
    return {n: found[n] - found[""] for n in swaps}


def gaussian(model, data, names, replacement, seed) -> dict[str, float]:
    """Expected squared error of the next layer's output, in units of its variance (a line's price,
    weighted by the next kernel), as if the errors of all channels and taps had mean 0 and did not
    hang together: too small for ``on_off`` and ``identity``. Neither labels nor validation passes:
    statistics only."""
    gaussians, traced = statistics(model, data), trace(model, True, data)
    nodes = activation_nodes(traced)
    find_shapes(traced, data)
    return {n: _harm(traced, nodes[n], gaussians[n], replacement) for n in names}


def random(model, data, names, replacement, seed) -> dict[str, float]:
    """A random order, by seed."""
    generator = dice.Random(seed)
    return {n: generator.random() for n in names}


def gaussian_entropy(model, data, names, replacement, seed) -> dict[str, float]:
    """Mean entropy in bits of P(ON) = Phi(mean / std): statistics only (TLC, section 3)."""
    gaussians = statistics(model, data)
    return {n: float(gaussians[n].entropy) for n in names}


RULES = {r.__name__: r for r in (tlc, gaussian, gaussian_entropy, random)}


def _harm(traced, node, g, replacement: str) -> float:
    line, f = line_at(traced, node, g, replacement), function_of(module_of(traced, node))
    cost = cost_line(g.mean, g.std, *line, f)
    harms, spread = [], (g.std**2 + g.mean**2).mean()
    for user in node.users:
        conv, after = module_of(traced, user), only_user(user)
        if not isinstance(conv, CONV) or len(cost) != conv.weight.shape[1]:
            harms.append(cost.mean() / spread)  # a shortcut or a pool: relative to the input itself
            continue
        error = (conv.weight.detach() ** 2)[..., None].flatten(2).sum(2)
        norm = module_of(traced, after)
        known = isinstance(norm, NORM) and normalizes(traced, after, user)
        scale = norm.running_var if known else error @ (g.std**2).to(error)
        harms.append(((error @ cost.to(error)) / scale.clamp_min(1e-12)).mean())
    return float(torch.stack(harms).mean())
