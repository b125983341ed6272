"""Ranking by the validation loss: one pass says what whole passes of whole networks say."""

from operator import itemgetter

import pytest
import torch
from helpers import Net, digits, kept, randomize, same
from torch import nn
from torchvision.models import MobileNetV2

import tlc_minimal as tlc
from tlc_minimal.prefix import Swap, Without, losses


@pytest.fixture(scope="module")
def data():
    return digits(100, size=16)


def excited(net, x):
    """An activation on a side path, one that is used twice, and an in-place sum."""
    x = net.relu(net.conv(x))
    y = net.relu(net.side(x.mean((2, 3), keepdim=True)))
    x = x * y
    x += x.mean()
    return net.fc(x.mean((2, 3)))


def excite(data):
    layers = {"conv": nn.Conv2d(3, 4, 3), "side": nn.Conv2d(4, 4, 1), "relu": nn.ReLU()}
    return Net(excited, **layers, fc=nn.Linear(4, 10))


def overwritten(net, x):
    """What lies in front of an activation is written over behind it."""
    x = torch.relu(net.conv(x))
    scale = net.widen(torch.relu(net.narrow(x.mean((2, 3), keepdim=True))))
    x = x.addcmul_(x, scale)
    return net.fc(torch.relu(net.last(x)).mean((2, 3)))


def in_place(data):
    layers = {"conv": nn.Conv2d(3, 6, 3), "narrow": nn.Conv2d(6, 4, 1), "widen": nn.Conv2d(4, 6, 1)}
    layers["narrow"].bias.data = torch.tensor([1.0, 1.0, -1.0, -1.0])
    return Net(overwritten, **layers, last=nn.Conv2d(6, 5, 3, 2), fc=nn.Linear(5, 10))


def collapsed(data):
    """A network that already lost some: Affine, Ones and cut channels are in it."""
    model = randomize(tlc.resnet18(width=4), dtype=torch.float32)
    names = ["layer1.0.relu1", "layer2.0.relu2", "layer3.1.relu1"]
    return tlc.linearize(model, names, data).eval()


MODELS = {
    "resnet18": lambda data: tlc.resnet18(width=4),
    "simple_cnn": lambda data: tlc.simple_cnn(width=4),
    "collapsed": collapsed,
    "excite": excite,
    "in place": in_place,
    "mobilenet_v2": lambda data: MobileNetV2(10, 0.25, [[1, 8, 1, 1], [4, 8, 2, 2]], 4),
}
CASES = [(name, rule) for name in MODELS for rule in ("on_off_affine", "thrifty")]
CASES += [("simple_cnn", rule) for rule in ("on_off", "affine", "identity")]


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_scores_are_those_of_whole_passes(name, rule, data):
    torch.manual_seed(0)
    model = MODELS[name](data)
    if name != "collapsed":
        model = randomize(model, dtype=torch.float32)
    scores, before = tlc.rank(model, data, "tlc", rule), tlc.evaluate(model, data).loss
    statistics = tlc.statistics(model, data)
    for layer in list(scores)[:: 1 + len(scores) // 6]:
        linear = tlc.linearize(model, layer, statistics, rule)
        naive = tlc.evaluate(linear, data).loss - before
        assert scores[layer] == pytest.approx(naive, abs=2e-5), layer
    assert list(scores.items()) == sorted(scores.items(), key=itemgetter(1))


def test_the_model_itself_is_under_the_empty_name(data):
    model = randomize(tlc.simple_cnn(width=4), dtype=torch.float32).train()
    before = kept(model)
    assert set(found := losses(model, {"relu3": nn.Identity()}, data)) == {"", "relu3"}
    assert found[""] == pytest.approx(tlc.evaluate(model, data).loss, rel=1e-5)
    assert model.training and same(model, before)


def test_what_is_in_front_of_an_activation_runs_once(data):
    model = randomize(tlc.simple_cnn(width=4), dtype=torch.float32).eval()
    seen = []
    for i in (1, 6):
        getattr(model, f"conv{i}").register_forward_hook(lambda *_, i=i: seen.append(i))
    traced = torch.fx.symbolic_trace(model)
    relus = [n for n in traced.graph.nodes if n.name.startswith("relu")]
    run = Without(traced, {n: Swap(n.args[0], n, nn.Identity()) for n in relus})
    with torch.no_grad():
        run.run(data.example)
    assert seen.count(1) == 1 and seen.count(6) == 1 + 5 and len(run.outputs) == 6
