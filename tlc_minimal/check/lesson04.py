"""Checks of lesson 04, a first collapse."""

import torch

from .compare import compare


def layer_score(my_score) -> None:
    """my_score(model, name, data): increase of validation loss when one activation is linear."""
    from .. import evaluate, linearize

    model, data = _small_task()
    after = linearize(model, "relu3", data)
    (new, new_right), (old, old_right) = evaluate(after, data), evaluate(model, data)
    wrong = {}
    for s in ("train", "test"):
        rise = evaluate(after, data, s).loss - evaluate(model, data, s).loss
        wrong[f"that is the increase on {s}, not on val."] = rise
    wrong |= {
        "that is the loss afterwards; the loss before is not subtracted.": new,
        "the difference is the wrong way round: after minus before.": old - new,
        "that is the loss in accuracy, not the increase of the loss.": old_right - new_right,
    }
    compare(my_score(model, "relu3", data), torch.tensor(new - old), wrong, tolerance=1e-4)


def against_state(my_against) -> None:
    """my_against(mean, std): mean over channels of the probability to act against one's state."""
    mean, std = torch.tensor([1.0, -2.0, 0.3, -0.1]), torch.tensor([0.5, 1.5, 2.0, 1.2])
    p, squared = (torch.special.ndtr(mean / s) for s in (std, std**2))
    wrong = {
        "averaged first: the smaller one per channel, then the mean.": min(p.mean(), 1 - p.mean()),
        "that is the mean of P(ON); for an ON neuron it is 1 - P(ON).": p.mean(),
        "that is the probability to act as the state says.": p.maximum(1 - p).mean(),
        "divided by the variance, not by the std.": squared.minimum(1 - squared).mean(),
    }
    compare(my_against(mean, std), p.minimum(1 - p).mean(), wrong)


def activations_left(my_count) -> None:
    """my_count(model, x): removable activations of a net that calls one ReLU module twice."""
    relu = torch.nn.ReLU()
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), relu, torch.nn.Linear(5, 4), relu)
    wrong = {
        "modules counted: one ReLU module is called twice, and a call is an activation.": 1,
        "channels counted: an activation is a whole layer of neurons.": 9,
        "all calls counted, the linear layers as well.": 4,
    }
    compare(my_count(model, torch.zeros(1, 3)), 2, wrong)


def over_seeds(my_summary) -> None:
    """my_summary(values): mean, lowest and highest over the seeds, (3,)."""
    v = torch.tensor([97.0, 91.0, 98.5, 96.0])
    mean, low, high = v.mean(), v.min(), v.max()
    wrong = {
        "mean ± standard deviation, not the range.": [mean, mean - v.std(), mean + v.std()],
        "that is the median, not the mean.": [v.median(), low, high],
        "lowest and highest are swapped.": [mean, high, low],
        "the order is: mean, lowest, highest.": [low, mean, high],
    }
    wrong = {cause: torch.stack(values) for cause, values in wrong.items()}
    compare(my_summary(v), torch.stack([mean, low, high]), wrong)


def paired_difference(my_paired) -> None:
    """my_paired(a, b): mean, lowest and highest of a - b within a seed, (3,)."""
    a, b = {0: 97.0, 1: 91.0, 2: 95.0}, {2: 94.0, 0: 98.0, 1: 90.0}
    x, y = (torch.tensor(list(d.values())) for d in (a, b))
    pairs = {
        "want": torch.tensor([a[seed] - b[seed] for seed in a]),
        "paired by position: the seeds of b come in another order.": x - y,
        "the sign is wrong: a minus b.": torch.tensor([b[seed] - a[seed] for seed in a]),
    }
    three = {k: torch.stack([d.mean(), d.min(), d.max()]) for k, d in pairs.items()}
    three["summarised before subtracting; subtract within each seed first."] = torch.stack(
        [x.mean() - y.mean(), x.min() - y.min(), x.max() - y.max()]
    )
    compare(my_paired(a, b), three.pop("want"), three)


def _small_task():
    """A narrow net with drawn batch-norm parameters, and drawn images: enough to score a layer."""
    from .. import Data, simple_cnn
    from ..readers import Split

    g = torch.Generator().manual_seed(4)
    sizes = ("train", 40), ("val", 30), ("test", 30)
    images = {k: torch.randint(256, (n, 1, 8, 8), generator=g, dtype=torch.uint8) for k, n in sizes}
    splits = {k: Split(x, torch.randint(10, (len(x),), generator=g)) for k, x in images.items()}
    half = torch.full((3,), 0.5)
    names = tuple("0123456789")
    data = Data(
        "drawn", **splits, classes=names, mean=half, std=half, flip=False, crop=0, sha256=""
    )
    model = simple_cnn(10, 2).eval()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g)
    return model, data
