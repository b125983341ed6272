"""Blocks beside lines: exact choice, the price of each, a branch that becomes its mean."""

import importlib
from itertools import product

import pytest
import torch
from helpers import drawn, residual

import tlc_minimal as tlc
from tlc_minimal.graph import trace
from tlc_minimal.statistics import statistics

blocks = importlib.import_module("tlc_minimal.methods.blocks")


@pytest.fixture(scope="module")
def network():
    data, model = tlc.load_data("digits", size=16).subset(60), drawn(residual, dtype=torch.float32)
    return trace(model, share=True, example=data).eval(), data


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_cheapest_of_all(seed):
    dice = torch.Generator().manual_seed(seed)
    choices = [(name, rule) for name in "abcd" for rule in ("thrifty", "constant")]
    numbers = torch.randint(-3, 9, (2, len(choices)), generator=dice).tolist()
    costs, brings = (dict(zip(choices, map(float, row))) for row in numbers)
    found = blocks.best_choices(costs, brings)
    every = product(*[(None, (n, "thrifty"), (n, "constant")) for n in "abcd"])
    every = [[choice for choice in some if choice] for some in every]
    for remove, least in product(range(1, 5), range(0, 20, 3)):
        fits = [c for c in every if len(c) == remove and sum(map(brings.get, c)) >= least]
        if fits:
            cost = min(sum(map(costs.get, c)) for c in fits)
            assert sum(map(costs.get, blocks.cheapest(found[remove], least))) == cost


def test_a_price_is_the_rise_of_the_loss_and_a_constant_takes_both_convolutions(network):
    model, data = network
    gaussians = statistics(model, data)
    brings = blocks.candidates(model, gaussians, data, constants=True)
    inside = ["3.relu1", "4.relu1"]
    assert [name for name, rule in brings if rule == "constant"] == inside
    assert not [c for c in blocks.candidates(model, gaussians, data, False) if c[1] == "constant"]
    price, before = blocks.prices(model, gaussians, list(brings), data), tlc.evaluate(model, data)
    for name, rule in brings:
        without = tlc.linearize(model, name, *blocks.by_rule(gaussians, rule))
        assert price[name, rule] == pytest.approx(
            tlc.evaluate(without, data).loss - before.loss, abs=1e-4
        )
        macs = tlc.count(model, data)["macs"] - tlc.count(without, data)["macs"]
        assert brings[name, rule] == macs
    gone = tlc.linearize(model, inside[0], *blocks.by_rule(gaussians, "constant"))
    assert {"3.conv1", "3.conv2"} <= {n for n, _ in model.named_modules()}
    assert not {"3.conv1", "3.conv2"} & {n for n, _ in gone.named_modules()}


def test_a_share_is_kept_and_one_that_cannot_be_is_refused(network):
    model, data = network
    how = {"remove": 2, "epochs": 0.5, "method": "blocks", "progress": False}
    before, free = tlc.collapse(model, data, **how).table.iloc[[0, -1]].to_dict("records")
    share = 0.95 * free["macs"] / before["macs"]
    last = tlc.collapse(model, data, macs=share, **how).table.iloc[-1]
    assert last["removed"] == free["removed"] == 2
    assert last["macs"] <= share * before["macs"]
    with pytest.raises(ValueError, match=r"without 2 activations 0\.\d+ of the MACs can be left, "):
        tlc.collapse(model, data, macs=0.1, constants=False, **how)
    with pytest.raises(ValueError, match="macs is a share of the MACs, of 0 to 1, not 2"):
        tlc.collapse(model, data, macs=2, **how)
