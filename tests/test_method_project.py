"""method="project" and "blocks": choices against brute force, and layers that really go."""

import copy
import dataclasses
import importlib
import itertools
import random
import sys
import warnings

import pandas as pd
import pytest
import torch
from helpers import digits, drawn, refused, residual, same
from torch import nn
from torchvision.models import MobileNetV2

import tlc_minimal as tlc
from tlc_minimal.graph import trace
from tlc_minimal.lessons.transformers import vit
from tlc_minimal.methods import stretches
from tlc_minimal.methods.stretches import best_sets, find_stretches, fit_alone, places
from tlc_minimal.prefix import Swap, swapped_losses
from tlc_minimal.reading.images import Split
from tlc_minimal.statistics import statistics

blocks = importlib.import_module("tlc_minimal.methods.blocks")
data = pytest.fixture(scope="module")(lambda: digits(200, size=16))


@pytest.fixture(scope="module")
def run(model, data):
    return tlc.collapse(model, data, 3, 1.0, "project", trial=100, keep="all", progress=False)


def by_hand(costs):
    """Every set of stretches between which an activation stays."""
    for size in range(len(costs) + 1):
        for chosen in itertools.combinations(sorted(costs), size):
            if all(a[1] < b[0] for a, b in itertools.pairwise(chosen)):
                yield chosen


def test_the_best_sets_are_those_of_brute_force():
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for _ in range(50):
        count = dice.randint(1, 6)
        every = list(itertools.combinations(range(count + 1), 2))
        some = dice.sample(every, min(len(every), dice.randint(0, 8)))
        costs = {stretch: dice.uniform(-1, 3) for stretch in some}
        brings = {stretch: dice.uniform(-1, 3) for stretch in some}
        total = lambda numbers, chosen: sum(numbers[s] for s in chosen)
        sets = [(total(costs, c), total(brings, c), c) for c in by_hand(costs)]
        least = {}
        for cost, _, chosen in sets:
            gone = sum(j - i for i, j in chosen)
            least[gone] = min(cost, least.get(gone, float("inf")))
        found_sets = best_sets(count, costs)
        assert set(found_sets) == set(least), f"seed {seed}"
        for n, (cost, chosen) in found_sets.items():
            assert n == sum(j - i for i, j in chosen) and set(chosen) <= set(costs)
            assert [cost, total(costs, chosen)] == pytest.approx([least[n]] * 2), f"seed {seed}"
        best = best_sets(count, costs, brings) if some else {}
        for amount in [dice.uniform(-1, 4) for _ in range(5)] if some else []:
            least = min((c for c, b, _ in sets if b >= amount), default=None)
            there = min((c for b, (c, _) in best.items() if b >= amount), default=None)
            assert least is there is None or least == pytest.approx(there), f"seed {seed}"


@pytest.mark.parametrize(
    ("make", "of"), [(residual, (10, 3)), (MobileNetV2, (10, 0.1, [[1, 8, 1, 1], [2, 8, 2, 2]]))]
)
def test_all_stretches_fitted_together_are_each_fitted_alone(make, of, data, monkeypatch):
    network = trace(drawn(make, *of, dtype=torch.float32)).eval()
    names = [layer.name for layer in tlc.find_layers(network, data)]
    runs = find_stretches(network, data, 3, 3)
    some = {s: runs[s][0] for s in sorted(runs)[:: 1 + len(runs) // 6] if len(runs[s]) == 1}
    layers = fit_alone(network, some, data, 100, 1e-2)
    monkeypatch.setattr(stretches, "free_memory", lambda device: 0)  # one pass for each
    alone = fit_alone(network, some, data, 100, 1e-2)
    assert list(alone) == list(layers) and all(same(layers[s], alone[s]) for s in some)
    with refused(ValueError, "take at least 2 images and there are 1|a ridge above 0"):
        fit_alone(network, some, data, 1, 0)
    with monkeypatch.context() as full:
        full.setattr(sys.modules["tlc_minimal.project"], "free_memory", lambda device: 2**20)
        with refused(MemoryError, r"normal equations of side \d+ take 0.3 GiB, and 0.0 are free"):
            fit_alone(network, some, data, 100, 1e-2)
    swaps = {s: Swap(run.entry, run.end, layers[s]) for s, run in some.items()}
    loss = swapped_losses(network, swaps, data, 20, "", False)
    few = dataclasses.replace(data, val=Split(*(part[:20] for part in data.val)))
    assert loss[""] == pytest.approx(tlc.evaluate(network, few).loss, rel=1e-4)
    for i, j in some:
        with warnings.catch_warnings(action="ignore"):  # 100 images are few
            alone = tlc.project(network, names[i:j], data, images=100, ridge=1e-2).model
        assert loss[i, j] == pytest.approx(tlc.evaluate(alone, few).loss, rel=1e-3), (i, j)
        fewer = tlc.count(network, data)["macs"] - tlc.count(alone, data)["macs"]
        assert some[i, j].macs == fewer


def test_neighbours_with_attention_between_them_go_together_a_matrix_each(data):
    network = vit(10, 8, depth=3, size=16)
    stretches = find_stretches(trace(network, share=True, example=data).eval(), data, 3, 3)
    assert sorted(stretches) == list(itertools.combinations(range(4), 2))
    assert [len(stretches[0, j]) for j in (1, 2, 3)] == [1, 2, 3] and len(places(stretches)) == 3
    few = {"epochs": 0.1, "trial": 50, "images": 100, "progress": False}
    for target in ({"remove": 3}, {"remove": 2}, {"macs": 0.7}):
        run = tlc.collapse(network, data, method="project", **few, **target)
        first, last = run.table.to_dict("records")
        assert last["removed"] == target.get("remove", max(2, last["removed"]))
        assert first["layers"] - last["layers"] == last["removed"]


def test_layers_go_with_their_activations(run, data):
    first, last = run.table.to_dict("records")
    assert (first["activations"], last["activations"], last["removed"]) == (6, 3, 3)
    # One fewer for each, but for the last activation, behind which the pool ends every run.
    fewer = 3 - ("relu6" in last["layer"])
    assert last["layers"] == first["layers"] - fewer and last["epochs"] == 1.0
    assert 0 < last["error"] < 2 and first["error"] != first["error"]  # None is NaN in a table
    assert tlc.count(run.model, data)["layers"] == last["layers"]


def test_what_is_removed_is_the_cheapest_set(run, model, data):
    """Tried by hand: every way to take out three of six, each stretch projected alone."""
    names = [layer.name for layer in tlc.find_layers(model, data.example)]
    before, costs = tlc.evaluate(model, data).loss, {}
    for i, j in itertools.combinations(range(7), 2):
        if j - i <= 3:
            tried = tlc.project(model, names[i:j], data, images=100).model
            costs[i, j] = tlc.evaluate(tried, data).loss - before
    three = [c for c in by_hand(costs) if sum(j - i for i, j in c) == 3]
    chosen = min(three, key=lambda c: sum(costs[s] for s in c))
    gone = [name for i, j in chosen for name in names[i:j]]
    assert run.table["layer"].iloc[-1].split(", ") == gone


def test_a_share_of_the_macs_is_a_target(model, data, tmp_path):
    options = {"trial": 100, "progress": False, "out": tmp_path / "run"}
    run = tlc.collapse(model, data, epochs=0.5, method="project", macs=0.6, **options)
    first, last = run.table.to_dict("records")
    assert 0.2 * first["macs"] < last["macs"] <= 0.6 * first["macs"] and last["epochs"] == 0.5
    again = tlc.load_run(model, run.folder, last["removed"])
    with torch.no_grad():
        assert torch.equal(again(data.example), run.linear(data.example))
    words = r"can leave 0\.\d+ of the MACs, not 0.001: give a larger macs"
    with refused(ValueError, words, tmp_path):  # and makes no folder
        tlc.collapse(model, data, method="project", macs=0.001, out=tmp_path / "other")


def test_a_speedup_is_a_target(model, data, monkeypatch):
    """By a clock that counts layers: how fast this machine is must not decide."""
    module = importlib.import_module("tlc_minimal.methods.project")
    layers = lambda network: tlc.count(network, data)["layers"]

    def clock(models, x):
        times = [layers(network) for network in models.values()]
        return pd.DataFrame({"ms": times, "speedup": [times[0] / t for t in times]})

    monkeypatch.setattr(module, "latency", clock)
    options = {"trial": 100, "progress": False, "epochs": 0.1, "method": "project"}
    run = tlc.collapse(copy.deepcopy(model).double(), data, speedup=1.6, **options)
    first, last = run.table.to_dict("records")
    assert first["layers"] / last["layers"] >= 1.6
    words = r"about \d\.\d times as fast on this machine, not 50 times: give a smaller"
    with pytest.raises(ValueError, match=words):
        tlc.collapse(model, data, speedup=50, **options)


def test_what_no_set_of_layers_can_replace_is_refused_with_the_numbers(data, tmp_path):
    parts = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Softmax(1), nn.ReLU()  # nothing linear between these
    norm = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with refused(ValueError, "take the place of so many activations.*not of 2", tmp_path):
        tlc.collapse(norm.eval(), data, 2, 1.0, "project", out=tmp_path / "run")


# ---- method="blocks": lines or whole branches ----


@pytest.fixture(scope="module")
def network(data):
    return trace(drawn(residual, dtype=torch.float32), share=True, example=data).eval()


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_cheapest_of_all(seed):
    dice = torch.Generator().manual_seed(seed)
    choices = [(name, rule) for name in "abcd" for rule in ("thrifty", "constant")]
    numbers = torch.randint(-3, 9, (2, len(choices)), generator=dice).tolist()
    costs, brings = (dict(zip(choices, map(float, row))) for row in numbers)
    found = blocks.best_choices(costs, brings)
    every = itertools.product(*[(None, (n, "thrifty"), (n, "constant")) for n in "abcd"])
    every = [[choice for choice in some if choice] for some in every]
    for remove, least in itertools.product(range(1, 5), range(0, 20, 3)):
        fits = [c for c in every if len(c) == remove and sum(map(brings.get, c)) >= least]
        if fits:
            cost = min(sum(map(costs.get, c)) for c in fits)
            assert sum(map(costs.get, blocks.cheapest(found[remove], least))) == cost


def test_a_price_is_the_rise_of_the_loss_and_a_constant_takes_both_convolutions(network, data):
    gaussians = statistics(network, data)
    brings = blocks.candidates(network, gaussians, data, constants=True)
    inside = ["3.relu1", "4.relu1"]
    assert [name for name, rule in brings if rule == "constant"] == inside
    thrifty = blocks.candidates(network, gaussians, data, constants=False)
    assert {rule for _, rule in thrifty} == {"thrifty"}
    price = blocks.prices(network, gaussians, list(brings), data)
    before = tlc.evaluate(network, data)
    for name, rule in brings:
        without = tlc.linearize(network, name, *blocks.by_rule(gaussians, rule))
        rise = tlc.evaluate(without, data).loss - before.loss
        assert price[name, rule] == pytest.approx(rise, abs=1e-4)
        fewer = tlc.count(network, data)["macs"] - tlc.count(without, data)["macs"]
        assert brings[name, rule] == fewer
    gone = tlc.linearize(network, inside[0], *blocks.by_rule(gaussians, "constant"))
    assert {"3.conv1", "3.conv2"} <= {n for n, _ in network.named_modules()}
    assert not {"3.conv1", "3.conv2"} & {n for n, _ in gone.named_modules()}


def test_a_share_is_kept_and_one_that_cannot_be_is_refused(network, data):
    how = {"remove": 2, "epochs": 0.5, "method": "blocks", "progress": False}
    before, free = tlc.collapse(network, data, **how).table.iloc[[0, -1]].to_dict("records")
    share = 0.95 * free["macs"] / before["macs"]
    last = tlc.collapse(network, data, macs=share, **how).table.iloc[-1]
    assert last["removed"] == free["removed"] == 2 and last["macs"] <= share * before["macs"]
    with pytest.raises(ValueError, match=r"without 2 activations 0\.\d+ of the MACs can be left, "):
        tlc.collapse(network, data, macs=0.1, constants=False, **how)
