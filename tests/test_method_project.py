"""method="project": the choice of stretches against brute force, and layers that really go."""

import itertools
import random

import pytest
import torch
from helpers import randomize, relative_error

import tlc_minimal as tlc
from tlc_minimal.graph import trace
from tlc_minimal.methods.project import best_sets, found
from tlc_minimal.stages import Task


@pytest.fixture(scope="module")
def data():
    return tlc.load_data("digits", size=16).subset(200)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomize(tlc.simple_cnn(width=4), dtype=torch.float32)


@pytest.fixture(scope="module")
def run(model, data):
    return tlc.collapse(model, data, 3, 1.0, "project", trial=100, keep="all", progress=False)


def by_hand(count, costs):
    """Every set of stretches between which an activation stays: {how many go: least sum}."""
    least = {}
    for size in range(len(costs) + 1):
        for chosen in itertools.combinations(sorted(costs), size):
            if all(a[1] < b[0] for a, b in itertools.pairwise(chosen)):
                gone = sum(j - i for i, j in chosen)
                cost = sum(costs[s] for s in chosen)
                least[gone] = min(cost, least.get(gone, float("inf")))
    return least


def test_the_best_sets_are_those_of_brute_force():
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for _ in range(50):
        count = dice.randint(1, 6)
        every = list(itertools.combinations(range(count + 1), 2))
        some = dice.sample(every, min(len(every), dice.randint(0, 8)))
        costs = {stretch: dice.uniform(-1, 3) for stretch in some}
        best, wanted = best_sets(count, costs), by_hand(count, costs)
        assert {n: pytest.approx(c) for n, c in wanted.items()} == {
            n: cost for n, (cost, _) in best.items()
        }, f"seed {seed}"
        for n, (cost, chosen) in best.items():
            assert n == sum(j - i for i, j in chosen) and set(chosen) <= set(costs)
            assert cost == pytest.approx(sum(costs[s] for s in chosen))


def test_a_residual_network_has_a_stretch_for_each_row_of_whole_blocks(data):
    resnet = trace(tlc.resnet18(width=2)).eval()
    stretches = found(Task(resnet, data, 17, 1.0, 0), 3)
    # Activation 0 is the stem's; block b has activations 2b + 1 (inside) and 2b + 2 (behind it).
    blocks = [(2 * a + 1, 2 * b + 2) for a in range(8) for b in range(a, 8)]
    assert set(blocks) <= set(stretches)
    assert all(j - i <= 3 for i, j in found(Task(resnet, data, 3, 1.0, 0), 3))


def test_layers_go_with_their_activations(run, model, data):
    first, last = run.table.to_dict("records")
    assert (first["activations"], last["activations"], last["removed"]) == (6, 3, 3)
    # One fewer for each, but for the last activation, behind which the pool ends every run.
    fewer = 3 - ("relu6" in last["layer"])
    assert last["layers"] == first["layers"] - fewer and last["epochs"] == 1.0
    assert 0 < last["error"] < 2 and first["error"] != first["error"]  # None is NaN in a table
    assert tlc.count(run.model, data)["layers"] == last["layers"]
    x = data.example
    with torch.no_grad():
        assert relative_error(run.model(x), run.linear(x)) < 1e-5


def test_a_finished_run_is_read_from_its_folder(run, model, data):
    with torch.no_grad():
        again = tlc.load_run(model, run.folder, 3)(data.example)
        assert torch.equal(again, run.linear(data.example))


def test_what_is_removed_is_the_cheapest_set(run, model, data):
    """Tried by hand: every way to take out three of six, each stretch projected alone."""
    names = [layer.name for layer in tlc.find_layers(model, data.example)]
    before, costs = tlc.evaluate(model, data).loss, {}
    for i, j in itertools.combinations(range(7), 2):
        if j - i <= 3:
            tried = tlc.project(model, names[i:j], data, images=100).model
            costs[i, j] = tlc.evaluate(tried, data).loss - before
    cost, chosen = best_sets(6, costs)[3]
    assert by_hand(6, costs)[3] == pytest.approx(cost)
    gone = [name for i, j in chosen for name in names[i:j]]
    assert run.table["layer"].iloc[-1].split(", ") == gone


def test_what_no_set_of_layers_can_replace_is_refused_with_the_numbers(data, tmp_path):
    norm = torch.nn.Sequential(  # attention, as it were: nothing linear between the activations
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Softmax(1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10),
    )  # fmt: skip
    with pytest.raises(ValueError, match="take the place of so many activations.*not of 2"):
        tlc.collapse(norm.eval(), data, 2, 1.0, "project", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
