"""Checks of lesson 04, a first collapse."""

import torch
from torch import nn
from torch.special import ndtr

from ... import Data, evaluate, find_layers, linearize, simple_cnn
from ...reading.images import Split
from .exercise import exercise


def _small_task(layer):
    """A narrow net with drawn batch-norm parameters, and drawn images: enough to score a layer."""
    dice = torch.Generator().manual_seed(4)
    draw = lambda high, *shape: torch.randint(high, shape, generator=dice)
    sizes = {"train": 40, "val": 30, "test": 30}
    splits = {k: Split(draw(256, n, 1, 8, 8).byte(), draw(10, n)) for k, n in sizes.items()}
    about = dict(mean=torch.full((3,), 0.5), std=torch.full((3,), 0.5), flip=False, crop=0)
    data = Data("drawn", **splits, **about, classes=tuple("0123456789"), sha256="")
    model = simple_cnn(10, 2).eval()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=dice)
    return model, layer, data


@exercise(lambda: _small_task("relu3"), lambda: _small_task("relu5"))
def layer_score(model, name, data):
    """Increase of the validation loss when one activation becomes linear."""
    return _increase("loss", "val", model, name, data)


def _increase(what, split, model, name, data, rule="on_off_affine"):
    linear = linearize(model, name, data, rule)
    after, before = (evaluate(m, data, split) for m in (linear, model))
    return getattr(after, what) - getattr(before, what)


layer_score.mistakes = {
    "this is the increase on train, not on val": lambda *given: _increase("loss", "train", *given),
    "this is the increase on test, not on val": lambda *given: _increase("loss", "test", *given),
    "the loss before is not subtracted": lambda m, n, d: evaluate(linearize(m, n, d), d).loss,
    "the difference is the wrong way round": lambda *given: -_increase("loss", "val", *given),
    "this is what is lost in accuracy": lambda *given: -_increase("accuracy", "val", *given),
    "affine is not the default rule": lambda *given: _increase("loss", "val", *given, "affine"),
    "on_off is not the default rule": lambda *given: _increase("loss", "val", *given, "on_off"),
}


@exercise(([1.0, -2.0, 0.3, -0.1], [0.5, 1.5, 2.0, 1.2]), ([-1.0, 2.0], [0.8, 1.6]))
def against_state(mean, std):
    """Mean over the channels of the probability to act against one's state."""
    return _smaller(ndtr(mean / std)).mean()


def _smaller(p):
    return torch.minimum(p, 1 - p)


against_state.mistakes = {
    "averaged first, but each channel has its state": lambda m, s: _smaller(ndtr(m / s).mean()),
    "one number for the layer, so average over its channels": lambda m, s: _smaller(ndtr(m / s)),
    "this is the mean of P(ON), also where a neuron is ON": lambda m, s: ndtr(m / s).mean(),
    "this is to act as the state says": lambda m, s: 1 - against_state.right(m, s),
    "divided by the variance, not the std": lambda m, s: against_state.right(m, s**2),
}


class _CalledAgain(nn.Module):
    """One ReLU module that is called again, as in torchvision's ResNet, and what comes behind."""

    def __init__(self, times, *more):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 4), *(nn.Linear(4, 4) for _ in range(1, times))])
        self.relu, self.rest = nn.ReLU(), nn.Sequential(*more)

    def forward(self, x):
        for layer in self.layers:
            x = self.relu(layer(x))
        return self.rest(x)


def _more():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 2))


@exercise(
    lambda: (_CalledAgain(2), torch.zeros(1, 3)),
    lambda: (_CalledAgain(3, *_more()), torch.zeros(1, 3)),
)
def activations_left(model, x):
    """The number of activations that can be removed; the net calls one ReLU module again."""
    return len(find_layers(model, x))


activations_left.mistakes = {
    "modules were counted, but every call is an activation": lambda model, x: sum(
        isinstance(m, nn.ReLU) for m in model.modules()
    ),
    "one module can be called more than twice": lambda model, x: (
        1 + sum(isinstance(m, nn.ReLU) for m in model.modules())
    ),
    "channels were counted, but an activation is a whole layer of neurons": lambda model, x: sum(
        layer.channels for layer in find_layers(model, x)
    ),
    "linear layers were counted, too": lambda model, x: (
        len(find_layers(model, x)) + sum(isinstance(m, nn.Linear) for m in model.modules())
    ),
}


@exercise(([97.0, 91.0, 98.5, 96.0],), ([80.0, 82.0, 87.0],))
def over_seeds(values):
    """Mean, lowest and highest over the seeds."""
    return values.mean(), values.min(), values.max()


over_seeds.mistakes = {
    "mean ± standard deviation is not the range": lambda v: (
        (v.mean(), v.mean() - v.std(), v.mean() + v.std())
    ),
    "this is the median, not the mean": lambda v: (v.median(), v.min(), v.max()),
    "lowest and highest are swapped": lambda v: (v.mean(), v.max(), v.min()),
    "the order is mean, lowest, highest": lambda v: (v.min(), v.mean(), v.max()),
}


@exercise(
    ({0: 97.0, 1: 91.0, 2: 95.0}, {2: 94.0, 0: 98.0, 1: 90.0}),
    ({0: 90.0, 3: 92.0}, {3: 91.0, 0: 93.0}),
)
def paired_difference(a, b):
    """Mean, lowest and highest of a - b within a seed; a and b {seed: accuracy}."""
    return over_seeds.right(torch.tensor([a[seed] - b[seed] for seed in a]))


def _summary(accuracies):
    return torch.stack(over_seeds.right(torch.tensor(list(accuracies.values()))))


paired_difference.mistakes = {
    "paired by position, but the seeds of b come in another order": lambda a, b: (
        paired_difference.right(a, dict(zip(a, b.values())))
    ),
    "the sign, for a minus b was asked for": lambda a, b: paired_difference.right(b, a),
    "lowest and highest are swapped": lambda a, b: torch.stack(paired_difference.right(a, b))[
        [0, 2, 1]
    ],
    "summarised before subtracting": lambda a, b: _summary(a) - _summary(b),
}


@exercise(
    ([0.1, 0.4, -0.2, 0.3, 0.2], [80.0, 20.0, 95.0, 79.9, 60.0]),
    ([0.5, 0.1, 0.2, 0.3], [90.0, 100.0, 85.0, 10.0]),
)
def spared_order(scores, off):
    """The numbers of the layers in the order in which they go: first those that are less than 80 %
    OFF, the least harmful in front, then the others likewise; off in percent."""
    return _order(scores, off >= 80)


def _order(scores, late):
    return sorted(range(len(scores)), key=lambda i: (late[i], scores[i]))


spared_order.mistakes = {
    "a layer of exactly 80 % counts as one to spare": lambda s, off: _order(s, off > 80),
    "this is the order of the scores alone (off is in percent: 80, not 0.8)": lambda s, off: _order(
        s, 0 * off
    ),
    "the order is by score, the share only divides": lambda s, off: _order(off, 0 * off),
    "the least harmful goes first, not the most": lambda s, off: _order(-s, off >= 80),
    "the spared ones go last, not first": lambda s, off: _order(s, off < 80),
    "the spared ones are left out, but they go at last": lambda s, off: (
        [i for i in spared_order.right(s, off) if off[i] < 80]
    ),
    "these are the places, not who goes first": lambda s, off: torch.tensor(
        spared_order.right(s, off)
    ).argsort(),
}
