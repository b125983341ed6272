"""Which activation goes next: every rule, the number it promises, and rules of one's own; one
pass says what whole passes of whole networks say."""

from dataclasses import replace

import pytest
import torch
from helpers import Net, drawn, kept, randomize, same
from torch import nn
from torchvision.models import MobileNetV2

import tlc_minimal as tlc
from tlc_minimal.graph import activation_nodes, trace
from tlc_minimal.prefix import Swap, Without
from tlc_minimal.rank import RULES

data = pytest.fixture(scope="module")(lambda: tlc.load_data("digits", size=16).subset(100))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_scores_every_activation_least_harmful_first(rule, data):
    resnet = drawn(tlc.resnet18, width=4, dtype=torch.float32)
    scores = tlc.rank(resnet, data, rule)
    assert set(scores) == set(activation_nodes(trace(resnet)))
    values = list(scores.values())
    assert values == sorted(values) and len(set(values)) > 10
    assert all(isinstance(v, float) and v == v for v in values)


@pytest.mark.parametrize("rule", ["tlc", "random", "reference"])
def test_dice_are_thrown_by_seed_and_leave_the_model_as_it_was(rule, data):
    model = tlc.simple_cnn(width=4).train()
    before = kept(model)
    one, again, other = (tlc.rank(model, data, rule, seed=s) for s in (0, 0, 1))
    assert one == again and (one != other) == (rule != "tlc")
    assert same(model, before) and model.training


def test_gaussian_finds_the_layer_that_is_safe_to_remove(model, data):
    """One layer's neurons practically never change their state: it must go first."""
    planted = trace(model)
    norm = planted.get_submodule("bn4")
    norm.bias.data = 20 * norm.weight.data.abs() * torch.tensor([1.0, -1.0] * 4)
    for replacement in ("on_off", "on_off_affine", "affine"):
        assert next(iter(tlc.rank(planted, data, "gaussian", replacement))) == "relu4"
    assert next(iter(tlc.rank(planted, data, "gaussian", "identity"))) != "relu4"
    norm.bias.data = -norm.weight.data.abs()  # all is OFF, and a channel is kept
    worse = tlc.evaluate(tlc.linearize(planted, "relu4", data), data).loss
    worse = pytest.approx(worse - tlc.evaluate(planted, data).loss, rel=1e-4)
    assert (scores := tlc.rank(planted, data))["relu4"] == worse and list(scores)[-1] != "relu4"
    assert list(tlc.rank(planted, data, "spare"))[-1] == "relu4"


def test_gaussian_needs_no_labels_and_no_batch_norm(model, data):
    blind = replace(data, train=data.train._replace(labels=torch.zeros_like(data.train.labels)),
                    val=type(data.val)(*(part[:1] for part in data.val)))  # fmt: skip
    assert tlc.rank(model, blind, "gaussian") == tlc.rank(model, data, "gaussian")
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), *end)
    scores = tlc.rank(plain.double().eval(), data, "gaussian")
    assert set(scores) == {"1", "3"} and min(scores.values()) > 0
    plain[1] = nn.LeakyReLU(0.999)  # next to nothing is lost by a line
    assert tlc.rank(plain, data, "gaussian", "affine")["1"] < 1e-4 * scores["1"]
    tokens = nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 7), nn.BatchNorm1d(48))
    tokens = nn.Sequential(nn.Flatten(1, 2), *tokens, nn.Flatten(), nn.Linear(48 * 7, 10)).eval()
    assert tlc.rank(tokens, data, "gaussian")["2"] > 0  # its norm is one of tokens


def test_entropy_is_that_of_the_measured_states(data):
    """Channel 0 is always ON, channel 1 half the time: (0 + 1) / 2 bits."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(2, 10))  # fmt: skip
    z = data.normalize(data.train.images)[:, 0]
    model[0].weight.data.zero_()
    model[0].weight.data[1, 0] = 1
    model[0].bias.data = torch.tensor([1.0, -float(z.median())])
    on = float((z > z.median()).float().mean())
    want = -(on * torch.tensor(on).log2() + (1 - on) * torch.tensor(1 - on).log2()) / 2
    assert tlc.rank(model, data, "entropy")["1"] == pytest.approx(float(want), abs=1e-3)


def test_gaussian_entropy_and_magnitude_read_the_batch_norm(model, data):
    norm = model.bn4
    p = 0.5 * torch.erfc(-norm.bias / norm.weight.abs() / 2**0.5)  # eps aside
    bits = -(p * p.log2() + (1 - p) * (1 - p).log2()).nan_to_num()
    got = tlc.rank(model, data, "gaussian_entropy")["relu4"]
    assert got == pytest.approx(float(bits.detach().mean()), abs=1e-3)
    got = tlc.rank(model, data, "magnitude")["relu4"]
    assert got == pytest.approx(float(norm.weight.detach().abs().mean()))


def test_a_rule_of_ones_own_is_one_line(model, data, monkeypatch):
    def mine(*args):
        given.extend(args)
        return {n: -i for i, n in enumerate(args[2])}

    given = []
    monkeypatch.setitem(RULES, "mine", mine)
    found = list(tlc.rank(model, data, "mine", "affine", seed=7))
    assert found == [f"relu{i}" for i in (6, 5, 4, 3, 2, 1)]
    assert given[0] is model and given[1] is data and given[3:] == ["affine", 7]


def excited(net, x):
    """An activation on a side path, one that is used twice, and an in-place sum."""
    x = net.relu(net.conv(x))
    y = net.relu(net.side(x.mean((2, 3), keepdim=True)))
    x = x * y
    x += x.mean()
    return net.fc(x.mean((2, 3)))


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
    "excite": lambda data: Net(excited, conv=nn.Conv2d(3, 4, 3), side=nn.Conv2d(4, 4, 1),
                               relu=nn.ReLU(), fc=nn.Linear(4, 10)),
    "in place": in_place,
    "mobilenet_v2": lambda data: MobileNetV2(10, 0.25, [[1, 8, 1, 1], [4, 8, 2, 2]], 4),
}  # fmt: skip
CASES = [(name, rule) for name in MODELS for rule in ("on_off_affine", "thrifty")]
CASES += [("simple_cnn", rule) for rule in ("on_off", "affine", "identity")]


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_scores_are_those_of_whole_passes_in_eval_mode(name, rule, data):
    model = MODELS[name](data)
    if name != "collapsed":
        model = randomize(model, dtype=torch.float32)
    scores, before = tlc.rank(model.train(), data, "tlc", rule), tlc.evaluate(model, data).loss
    statistics = tlc.statistics(model, data)
    for layer in list(scores)[:: 1 + len(scores) // 6]:
        linear = tlc.linearize(model, layer, statistics, rule)
        naive = tlc.evaluate(linear, data).loss - before
        assert scores[layer] == pytest.approx(naive, abs=2e-5), layer


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
