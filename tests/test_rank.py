"""Which activation goes next: every rule, the number it promises, and rules of one's own."""

from dataclasses import replace

import pytest
import torch
from helpers import drawn, kept, same
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.graph import activation_nodes, trace
from tlc_minimal.rank import RULES


@pytest.fixture(scope="module")
def data():
    return tlc.load_data("digits", size=16).subset(100)


@pytest.fixture(scope="module")
def resnet():
    return drawn(tlc.resnet18, width=4, dtype=torch.float32)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_scores_every_activation_least_harmful_first(rule, resnet, data):
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
    loss = lambda network: tlc.evaluate(network, data).loss
    worse = loss(tlc.linearize(planted, "relu4", data)) - loss(planted)
    assert tlc.rank(planted, data)["relu4"] == pytest.approx(worse, rel=1e-4)


def test_gaussian_needs_no_labels_and_no_batch_norm(model, data):
    blind = replace(data, train=data.train._replace(labels=torch.zeros_like(data.train.labels)),
                    val=type(data.val)(*(part[:1] for part in data.val)))  # fmt: skip
    assert tlc.rank(model, blind, "gaussian") == tlc.rank(model, data, "gaussian")
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), *end)
    scores = tlc.rank(plain.double().eval(), data, "gaussian")
    assert set(scores) == {"1", "3"} and min(scores.values()) > 0


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
