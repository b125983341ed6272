"""The rival methods: each against a case worked by hand, all of them in the one harness."""

import copy
import importlib
import math

import pytest
import torch
from helpers import randomize, relative_error
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.experiments import fair
from tlc_minimal.graph import trace
from tlc_minimal.methods import METHODS, compress
from tlc_minimal.methods.egp import budgets, empty_one, keep_zeros, prunable, prune
from tlc_minimal.methods.lacoot import blocks, choose, drop, max_sliced
from tlc_minimal.methods.layer_folding import Slope, fold, penalty, push, with_slopes
from tlc_minimal.nodes import activation_nodes

stages = importlib.import_module("tlc_minimal.methods.stages")


@pytest.fixture(scope="module")
def data():
    return tlc.load_data("digits", size=8).subset(256)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomize(tlc.resnet18(width=4), dtype=torch.float32)


@pytest.fixture(scope="module")
def trained(model, data):
    """Batch norms that fit the data: no neuron is stuck in one state."""
    trained = copy.deepcopy(model)
    tlc.fit(trained, data, 4, progress=None)
    return trained


@pytest.fixture(scope="module")
def runs(model, data):
    """Every method, four activations, one epoch."""
    return {m: compress(model, data, m, 4, 1.0, progress=False) for m in METHODS}


def perceptron(biases=(0.0, 50.0, 0.0)) -> nn.Sequential:
    """Three hidden layers; with a bias of 50 all neurons of the second are always ON."""
    torch.manual_seed(1)
    layers = [nn.Flatten()]
    for before, bias in zip((192, 12, 12), biases):
        linear = nn.Linear(before, 12)
        linear.bias.data += bias
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(12, 10)).eval()


def same_function(a, b, x) -> bool:
    with torch.no_grad():
        return torch.allclose(a.eval()(x), b.eval()(x), atol=1e-4)


# --------------------------------------------------------- the harness


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_contract(runs, model, data, method):
    run, before = runs[method], copy.deepcopy(model.state_dict())
    table = run.table
    assert table["removed"].iloc[0] == 0 and table["removed"].iloc[-1] == 4
    assert (table["activations"] + table["removed"] == 17).all()
    assert math.isclose(table["epochs"].sum(), 1.0), "each method gets the whole budget, no more"
    assert table["test"].between(0, 100).all() and not table["test"].isna().any()
    gone = [name for names in table["layer"][1:] for name in names.split(", ")]
    assert len(set(gone)) == 4 and not set(gone) & set(activation_nodes(run.linear))
    x = data.example
    with torch.no_grad():
        assert relative_error(run.model(x), run.linear(x)) < 1e-5
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_seed_gives_the_same_run_again(runs, model, data):
    again = compress(model, data, "layer_folding", 4, 1.0, progress=False)
    same = [c for c in again.table if c != "seconds"]
    assert again.table[same].equals(runs["layer_folding"].table[same])


def test_an_interrupted_run_goes_on_where_it_was(runs, model, data, tmp_path, monkeypatch):
    real, calls = stages.fit, []

    def stop_at_third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(stages, "fit", stop_at_third)
    ask = dict(remove=4, epochs=1.0, out=tmp_path / "run", progress=False)
    with pytest.raises(KeyboardInterrupt):
        compress(model, data, "egp", **ask)
    with pytest.raises(FileExistsError, match="resume=True"):
        compress(model, data, "egp", **ask)
    run = compress(model, data, "egp", **ask, resume=True)
    assert len(calls) == 5  # two stages before, the broken one, and the two that were left
    same = [c for c in run.table if c != "seconds"]
    assert run.table[same].equals(runs["egp"].table[same])
    with pytest.raises(ValueError, match="another epochs"):
        compress(model, data, "egp", **ask | {"epochs": 2.0}, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "best"}, "no method 'best'; there are: tlc, one_shot"),
        ({"remove": 18}, "remove=18, but it may be 1 to 17"),
        ({"remove": 0}, "remove=0, but it may be 1 to 17"),
        ({"method": "egp", "remove": 10}, "egp can empty the 9 activations.*'easier'"),
        ({"method": "lacoot", "remove": 3}, "takes out 4 activations here, not 3.*'easier'"),
        ({"method": "lacoot", "remove": 17}, "takes out 16 activations here, not 17"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(model, data, change, message):
    ask = {"method": "tlc", "remove": 1} | change
    with pytest.raises(ValueError, match=message):
        compress(model, data, **ask, epochs=1)


def test_models_and_data_that_do_not_fit_are_refused(model, data):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    gelu = nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.GELU(), nn.Linear(9, 10))
    with pytest.raises(ValueError, match="no activation to remove"):
        compress(linear, data, "tlc", 1, 1)
    with pytest.raises(ValueError, match="60 training images, fewer than one batch of 128"):
        compress(model, data.subset(60), "tlc", 1, 1)
    with pytest.raises(ValueError, match="2 is GELU: method='easier'"):
        compress(gelu, data, "layer_folding", 1, 1)
    with pytest.raises(ValueError, match="no.* none: method='easier'|has none: method='easier'"):
        compress(tlc.simple_cnn(width=4), data, "lacoot", 2, 1)


# --------------------------------------------------------- what to remove, by hand


@pytest.mark.parametrize("method", ["tlc", "one_shot", "easier"])
def test_a_layer_that_is_always_on_goes_first_and_costs_nothing(data, method):
    """Its loss does not rise, its entropy is 0: both views agree."""
    table = compress(perceptron(), data, method, 1, 0.5, progress=False).table
    assert table["layer"][1] == "4"
    assert table["val_before"][1] == table["val"][0]


def test_easier_takes_the_identity_for_off_neurons_as_well(data):
    """All neurons of the second layer always OFF: entropy 0, chosen, and the network changes."""
    model = perceptron((0.0, -50.0, 0.0))
    run = compress(model, data, "easier", 1, 0.5, progress=False)
    assert run.table["layer"][1] == "4"
    passed = tlc.linearize(model, "4", data, "identity")
    assert run.table["val_before"][1] == tlc.evaluate(passed, data).accuracy
    assert not same_function(passed, model, data.example)


def test_random_draws_another_order_for_another_seed(data):
    ask = dict(method="random", remove=3, epochs=0.5, progress=False)
    orders = {tuple(compress(perceptron(), data, seed=s, **ask).table["layer"]) for s in range(4)}
    assert len(orders) > 1 and {frozenset(o[1:]) for o in orders} == {frozenset("246")}


def test_one_shot_ranks_once_on_the_dense_network(runs, model, data):
    first = list(tlc.rank(model, data))[:4]
    assert set(runs["one_shot"].table["layer"][1].split(", ")) == set(first)
    together = tlc.linearize(model, first, data)
    assert runs["one_shot"].table["val_before"][1] == tlc.evaluate(together, data).accuracy


def test_one_shot_can_rank_again_after_each_removal(model, data):
    task = stages.Task(3, 0.1, 0, 0.02, None, False, False)
    run = METHODS["one_shot"](model, data, task, "entropy", "affine", again=True)
    current, gone = model, set()
    for _ in range(3):
        name = next(iter(tlc.rank(current, data, "entropy", "affine")))
        current = tlc.linearize(current, name, data, "affine")
        gone.add(name)
    assert set(run.table["layer"][1].split(", ")) == gone
    assert run.table["val_before"][1] == tlc.evaluate(current, data).accuracy


# --------------------------------------------------------- EGP


def test_egp_budgets_by_hand():
    """I = (0.5, 1), R = 1.5 / I = (3, 1.5): shares e^1.5 : 1, which is 81.8 to 18.2 of 100."""
    h, magnitudes = torch.tensor([0.5, 1.0]), torch.ones(2)
    assert budgets(h, magnitudes, torch.tensor([1000, 1000]), 100).tolist() == [82, 18]
    assert budgets(h, magnitudes, torch.tensor([10, 1000]), 100).tolist() == [10, 90]
    assert budgets(h, 2 * magnitudes, torch.tensor([1000, 1000]), 100).tolist() == [82, 18]


def test_egp_prunes_the_smallest_that_are_left():
    weight = torch.tensor([[0.0, -0.1, 3.0], [0.2, -5.0, 0.3]])
    prune(weight, 2)
    assert weight.tolist() == [[0.0, 0.0, 3.0], [0.0, -5.0, pytest.approx(0.3)]]
    prune(weight, 0)
    assert weight.count_nonzero() == 3


def test_egp_removes_an_empty_layer_without_changing_anything(trained, data):
    empty = copy.deepcopy(trained)
    empty.layer2[0].conv1.weight.data.zero_()
    smaller = empty_one(trace(empty), data)
    assert set(activation_nodes(trace(empty))) - set(activation_nodes(smaller)) == {
        "layer2.0.relu1"
    }
    assert same_function(smaller, empty, data.example)


def test_egp_prunes_until_a_layer_is_empty_and_tuning_keeps_the_zeros(trained, data):
    smaller = empty_one(trace(trained), data)
    assert len(activation_nodes(smaller)) == 16
    zeros = {n: p == 0 for n, p in smaller.named_parameters() if p.ndim > 1}
    assert sum(int(z.sum()) for z in zeros.values()) > 100
    handles = keep_zeros(smaller)
    tlc.fit(smaller, data, 1, 0.02, progress=None)
    for handle in handles:
        handle.remove()
    for name, p in smaller.named_parameters():
        if name in zeros:
            assert (p[zeros[name]] == 0).all(), name
            assert (p[~zeros[name]] != 0).any() or zeros[name].all()


def test_egp_knows_which_layers_one_convolution_feeds(model):
    names = list(prunable(trace(model)))
    assert names == ["relu"] + [f"layer{i}.{j}.relu1" for i in (1, 2, 3, 4) for j in (0, 1)]


# --------------------------------------------------------- Layer Folding


def test_a_slope_leads_from_the_rectifier_to_the_identity():
    slope, z = Slope(), torch.tensor([[-2.0, 3.0]])
    assert slope(z).tolist() == [[0.0, 3.0]]
    slope.slope.data.fill_(0.25)
    assert slope(z).tolist() == [[-0.5, 3.0]]
    slope.slope.data.fill_(1.0)
    assert torch.equal(slope(z), z)
    slope.slope.data.fill_(-0.5)  # never below the rectifier
    assert slope(z).tolist() == [[0.0, 3.0]]


def test_layer_foldings_penalty_by_hand():
    """d/da of 0.25 |1 - a²|: -0.5 a below 1, +0.5 a above, 0 at 1."""
    assert penalty(torch.tensor([0.5, 2.0, 1.0])).tolist() == [-0.25, 1.0, 0.0]
    slope = Slope()
    slope.slope.data.fill_(0.5)
    (handle,) = push(nn.Sequential(slope))
    slope(torch.tensor([[-2.0, 3.0]])).sum().backward()  # of its own: -2
    assert slope.slope.grad.item() == pytest.approx(-2.25)
    handle.remove()


def test_layer_folding_folds_the_largest_slopes(data):
    model = with_slopes(trace(perceptron()))
    for name, slope in {"2": 0.1, "4": 0.3, "6": 0.9}.items():
        model.get_submodule(name).slope.data.fill_(slope)
    folded = fold(model, data, 1)
    assert list(activation_nodes(folded)) == ["2", "4"]
    assert folded.get_submodule("4").negative_slope == pytest.approx(0.3)
    want = copy.deepcopy(model)
    want.get_submodule("6").slope.data.fill_(1.0)
    assert same_function(folded, want, data.example)


# --------------------------------------------------------- LaCoOT


def test_max_sliced_wasserstein_by_hand():
    """On a line the smallest goes to the smallest: 0, 1, 5 to 2, 3, 7 is 2 each, in any order."""
    x, y = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[7.0], [2.0], [3.0]])
    assert max_sliced(x, y, 0) == pytest.approx(2.0)
    assert max_sliced(x, x[[2, 0, 1]], 0) == 0.0
    shifted = torch.randn(50, 2)
    found = max_sliced(shifted, shifted + torch.tensor([3.0, 4.0]), 0)
    assert 4.9 < found <= 5.0 + 1e-6  # the direction of the shift sees all of its length


def test_blocks_become_their_shortcuts(model, data):
    traced = trace(model)
    found = blocks(traced)
    assert list(found) == [f"layer{i}.{j}.relu2" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert str(found["layer1.1.relu2"][1].target) == "layer1.0.relu2"
    assert str(found["layer3.0.relu2"][1].target) == "layer3.0.shortcut.1"
    short = copy.deepcopy(model)
    short.layer1[1], short.layer3[0] = nn.Identity(), short.layer3[0].shortcut
    dropped = drop(traced, ["layer1.1.relu2", "layer3.0.relu2"])
    assert len(activation_nodes(dropped)) == 13
    assert same_function(dropped, short, data.example)


def test_lacoot_chooses_the_nearest_blocks():
    found = {"b": (0.1, 2), "a": (0.5, 2), "c": (0.9, 3)}
    assert choose(found, 4) == ["b", "a"]
    with pytest.raises(ValueError, match="takes out 7 activations here, not 5: ask for 7"):
        choose(found, 5)


def test_lacoot_drops_the_block_that_does_nothing(model, data):
    still = copy.deepcopy(model)
    still.layer2[1].bn2.weight.data.zero_()
    still.layer2[1].bn2.bias.data.zero_()
    run = compress(still, data, "lacoot", 2, 0.5, progress=False)
    assert run.table["layer"][1] == "layer2.1.relu1, layer2.1.relu2"
    assert run.table["val_before"][1] == run.table["val"][0]


# --------------------------------------------------------- the experiment


def test_the_plan_compares_all_methods_seed_by_seed():
    pieces = fair.plan("laptop")
    assert [p.what for p in pieces[:3]] == [
        f"fair_w8_{m}_seed0" for m in ("dense", "tlc", "one_shot")
    ]
    for p in pieces:
        assert {"width", "method", "study"} <= set(p.config) and p.config["study"] == "fair"
    names = [p.what for p in pieces]
    assert len(set(names)) == len(names)
    for method in METHODS:
        assert sum(p.config["method"] == method for p in pieces) >= 3
    assert sum(p.minutes for p in pieces) < 130
    with pytest.raises(ValueError, match="there is no profile 'big'"):
        fair.plan("big")


def test_the_records_of_a_seed_start_from_one_parent_and_cost_the_same(data, tmp_path):
    pieces = {p.config["method"]: p for p in fair.plan("smoke") if p.seed == 0}
    dense, _ = pieces["dense"].run(pieces["dense"], data, tmp_path)
    for method in ("random", "lacoot", "rank: magnitude"):
        rows, epochs = pieces[method].run(pieces[method], data, tmp_path)
        assert rows[0]["test"] == dense[0]["test"] and rows[0]["removed"] == 0
        tuned = sum(row["epochs"] for row in rows)
        assert math.isclose(tuned, epochs)
        assert {2, 4} <= {row["removed"] for row in rows}
        if method == "lacoot":  # a run of its own for 2, at half the budget, and one for 4
            assert [row["epochs"] for row in rows] == [0, 0.75, 1.5]
        else:
            assert math.isclose(epochs, 1.5)
            again, _ = pieces[method].run(pieces[method], data, tmp_path)
            assert again == rows  # resumed: nothing is trained twice
