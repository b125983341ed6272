"""Does a rule of your own keep what the library promises of a rule? Lesson 09 walks through it.

Both checks try the rule on small networks whose batch norms hold random numbers, print what was
kept, and raise AssertionError with one sentence for the first promise that is broken.
"""

import copy
import random
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..data import Data
from ..gaussian import Gaussian
from ..graph import find_layers, trace
from ..linearize import RULES, function_of, linearize
from ..merge import merge
from ..models import BasicBlock
from ..reading.images import Split
from ..reading.layers import NORM
from ..statistics import measured_statistics

NAMES = ["3.relu1", "4.relu1", "4.relu2"]  # of the five activations of _network


def ranking(rule: Callable) -> None:
    """A ranking rule ``rule(model, data, names, replacement, seed)``, as in :data:`rank.RULES`:
    a finite number for each of the names, the same for the same seed, without a look at the test
    split, on whole and on collapsed networks; model and data stay as they are."""
    model, data = _network(), _data()
    networks = {"": model, " after a removal": linearize(model, NAMES[0], data)}
    for what, network in (networks | {" in training mode": _network().train()}).items():
        names = [layer.name for layer in find_layers(network, data)]
        scores = _score(rule, network, data, names)
        if set(scores) != set(names):
            odd = sorted(set(scores) ^ set(names), key=str)
            raise AssertionError(
                f"names{what}: a score for each given name, and {odd[0]!r} is odd."
            )
        bad = [name for name, score in scores.items() if not abs(score) < float("inf")]
        if bad:
            raise AssertionError(f"finite{what}: {bad[0]} has the score {scores[bad[0]]}.")
        if _score(rule, network, data, names) != scores:
            raise AssertionError(f"deterministic{what}: the same seed gave other scores.")
        if _score(rule, network, replace(data, test=data.val), names) != scores:
            raise AssertionError(f"test split{what}: the scores depend on it; it is for reports.")
    print("a ranking rule: right names, finite, deterministic, blind to test, all untouched")


def line(rule: Callable) -> None:
    """A linearisation rule ``rule(g, f) -> (slope, shift)``, as in :data:`linearize.RULES`: a
    finite slope and shift a channel, whatever the Gaussian, the same each time; and a network in
    which it stands is slope * z + shift there, before and after merging."""
    for spread in (1.0, 0.0, 1e-3):
        mean = torch.tensor([-30.0, -1.0, -0.1, 0.0, 0.1, 1.0, 30.0], dtype=torch.float64)
        g = Gaussian(mean, torch.full_like(mean, spread))
        for f in (torch.relu, nn.GELU()):
            _check_line(rule, g, f)
    model, data = _network(torch.float64), _data()
    x = data.example.double()
    known = measured_statistics(model, x)
    with registered(rule) as name:
        linear = linearize(model, NAMES, known, name)
    merged = merge(linear.eval(), x, keep="all")
    with torch.no_grad():
        want, apart, one = _by_hooks(model, rule, known)(x), linear(x), merged(x)
    for what, got in (("linearised", apart), ("merged", one)):
        error = float((got - want).norm() / want.norm())
        if not error < 1e-8:
            raise AssertionError(f"equality: {what}, the network is off by {error:.0e}.")
    print("a linearisation rule: right shapes, finite, deterministic, equal after merging")


@contextmanager
def registered(rule: Callable):
    """The name under which a linearisation rule is known inside the with block."""
    name = f"{getattr(rule, '__name__', 'rule')} under test"
    RULES[name] = rule
    try:
        yield name
    finally:
        del RULES[name]


def _score(rule, model, data, names) -> dict[str, float]:
    """The scores, whatever the global dice say; AssertionError if model or data have changed."""
    before, dice = copy.deepcopy(model.state_dict()), random.getstate()
    about, hooks, images = _about(model), _hooks(model), [part.clone() for part in _tensors(data)]
    with torch.random.fork_rng(devices=[]):
        random.seed(), torch.seed()
        scores = rule(model, data, list(names), "on_off_affine", 3)
    random.setstate(dice)
    if not isinstance(scores, dict):
        raise AssertionError(f"names: a dictionary {{name: score}}, not {type(scores).__name__}.")
    after = model.state_dict()
    same = about == _about(model) and before.keys() == after.keys()
    if not same or any(not torch.equal(value, after[key]) for key, value in before.items()):
        raise AssertionError("model untouched: the rule changed it; work on a copy.")
    if _hooks(model) != hooks:
        raise AssertionError("model untouched: the rule left a hook in it; remove it, or copy.")
    if not all(map(torch.equal, images, _tensors(data))):
        raise AssertionError("data untouched: the rule changed images or labels; work on a copy.")
    return {name: _number(name, score) for name, score in scores.items()}


def _about(model) -> tuple:
    """What a model is made of, in which mode, and how it learns."""
    modes = [module.training for module in model.modules()]
    return repr(model), modes, [(p.dtype, p.requires_grad) for p in model.parameters()]


def _hooks(model) -> int:
    kinds = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def _tensors(data: Data) -> list[Tensor]:
    return [part for split in (data.train, data.val, data.test) for part in split]


def _number(name, score) -> float:
    try:
        return float(score)
    except (TypeError, ValueError, RuntimeError):
        kind = type(score).__name__
        raise AssertionError(f"finite: {name} has a {kind} for a score, not a number.") from None


def _check_line(rule, g: Gaussian, f: Callable) -> None:
    kept = g.mean.clone(), g.std.clone()
    first, again = rule(g, f), rule(g, f)
    if not (isinstance(first, tuple | list) and len(first) == 2):
        raise AssertionError("shape: a rule returns a pair, slope and shift.")
    for what, value, other in zip(("slope", "shift"), first, again):
        if not isinstance(value, Tensor) or value.shape != g.mean.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise AssertionError(
                f"shape: the {what} is a number a channel, (channels,), not {got}."
            )
        if not value.isfinite().all():
            at = int((~value.isfinite()).nonzero()[0])
            channel = f"mean {g.mean[at]:g} and std {g.std[at]:g}"
            raise AssertionError(f"finite: the {what} of a channel of {channel} is {value[at]}.")
        if not torch.equal(value, other):
            raise AssertionError(f"deterministic: a second call gave another {what}.")
    if not (torch.equal(g.mean, kept[0]) and torch.equal(g.std, kept[1])):
        raise AssertionError("statistics untouched: the rule changed mean or std.")


def _by_hooks(model, rule, known) -> nn.Module:
    """The network with slope * z + shift written over each activation, by hooks."""
    hooked = trace(model)
    for name in NAMES:
        layer = hooked.get_submodule(name)
        pair = rule(known[name], function_of(layer))
        slope, shift = (v[:, None, None].detach().double() for v in pair)
        layer.register_forward_hook(lambda _, z, y, a=slope, b=shift: a * z[0] + b)
    return hooked.eval()


def _network(dtype=torch.float32) -> nn.Module:
    dice = torch.Generator().manual_seed(0)
    stem = nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    model = nn.Sequential(*stem, BasicBlock(4, 4, 1), BasicBlock(4, 8, 2), *head).eval()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=dice) / max(p[0].numel(), 1) ** 0.5
    for norm in (m for m in model.modules() if isinstance(m, NORM)):
        norm.running_mean.uniform_(-0.5, 0.5, generator=dice)
        norm.running_var.uniform_(0.5, 2, generator=dice)
        norm.weight.data.uniform_(0.3, 1.5, generator=dice)
        norm.bias.data.uniform_(-1, 1, generator=dice)
    return model.to(dtype)


def _data() -> Data:
    """Images and labels that were drawn."""
    dice = torch.Generator().manual_seed(1)
    draw = lambda high, *shape: torch.randint(high, shape, generator=dice)
    sizes = {"train": 40, "val": 30, "test": 20}
    splits = {k: Split(draw(256, n, 3, 8, 8).byte(), draw(10, n)) for k, n in sizes.items()}
    about = dict(mean=torch.full((3,), 0.5), std=torch.full((3,), 0.5), flip=False, crop=0)
    return Data("drawn", **splits, **about, classes=tuple("0123456789"), sha256="")
