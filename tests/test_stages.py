"""Methods: all of them keep one contract; what they choose, by hand; and one of one's own."""

import copy
import math

import helpers
import pytest
import torch
from helpers import CLOCK, drawn, interrupted, kept, perceptron, relative_error, same

import tlc_minimal as tlc
from tlc_minimal.gaussian import Gaussian
from tlc_minimal.graph import trace
from tlc_minimal.nodes import activation_nodes
from tlc_minimal.stages import as_gaussians, as_tensors, off_share

pytestmark = pytest.mark.filterwarnings("ignore:.*unknowns take at least")  # of project: few images
COLUMNS = [
    "removed", "layer", "off", "error", "val_loss", "val_before", "val", "test", "activations",
    "relu_units", "layers", "macs", "params", "macs_cut", "epochs", "seconds", "images_per_s",
]  # fmt: skip
residual = pytest.fixture(scope="module")(lambda: drawn(helpers.residual, dtype=torch.float32))


def collapse(model, data, method, remove=2, epochs=1.0, **options):
    how = dict(batch=32, keep="all", progress=False) | options
    return tlc.collapse(model, data, remove, epochs, method, **how)


@pytest.mark.parametrize("method", tlc.METHODS)
def test_every_method_keeps_the_contract(method, residual, data, tmp_path):
    before = kept(residual)
    run = collapse(residual, data, method, out=tmp_path)
    table = run.table
    assert list(table) == COLUMNS, "in this order, too"
    assert table["removed"].iloc[0] == 0 and table["removed"].iloc[-1] == 2
    assert (table["activations"] + table["removed"] == 5).all()
    assert math.isclose(table["epochs"].sum(), 1.0), "the whole budget, no more"
    for column in ("val", "val_before", "test"):
        assert table[column].between(0, 100).all() and not table[column].isna().any()
    assert (table["macs_cut"] <= table["macs"]).all() and table["off"].dropna().between(0, 1).all()
    gone = [name for names in table["layer"][1:] for name in names.split(", ")]
    assert len(set(gone)) == 2 and not set(gone) & set(activation_nodes(run.linear))
    for step, test in zip(table["removed"], table["test"]):  # though one trains before any goes
        assert test == tlc.evaluate(tlc.load_run(residual, tmp_path, step), data, "test").accuracy
    last, score = table.iloc[-1], tlc.evaluate(run.linear, data)
    assert [last["val_loss"], last["val"]] == pytest.approx([*score], rel=1e-5)
    assert tlc.count(run.linear, data).items() <= last.to_dict().items()
    finish = tlc.METHODS[method].finish(run.linear)
    with torch.no_grad():
        assert relative_error(run.model(data.example), finish(data.example)) < 1e-5
        assert relative_error(finish(data.example), run.linear(data.example)) < 1e-5
    assert tlc.count(finish, data)["macs"] == table["macs_cut"].iloc[-1]
    assert same(residual, before) and not residual.training
    assert same(tlc.load_run(residual, tmp_path, 2), run.linear)
    again = collapse(residual, data, method, out=tmp_path, resume=True)
    assert again.table.equals(table) and same(again.linear, run.linear)
    # Killed before its first, third and fourth step of tuning, wherever they fall: the same.
    killed = None
    with interrupted(1, 3, 4) as steps:
        while killed is None:
            try:
                killed = collapse(residual, data, method, out=tmp_path / "killed", resume=True)
            except KeyboardInterrupt:
                assert len(steps) in (1, 3, 4)
    assert len(steps) > 4 and not list((tmp_path / "killed").glob("*.state"))
    assert killed.table.drop(columns=CLOCK).equals(table.drop(columns=CLOCK))
    assert same(killed.linear, run.linear)
    given = copy.deepcopy(residual).double().train()
    before, double = kept(given), collapse(given, data, method, epochs=0.1).model
    assert all(p.dtype is torch.float64 for p in double.parameters()) and not double.training
    assert same(given, before) and all(m.training for m in given.modules())


@pytest.mark.parametrize("method, stages", {"at_once": 1, "one_by_one": 3, "easier": 3}.items())
def test_the_budget_is_kept_to_half_a_step_a_stage(method, stages, residual, data):
    """64 images are 6 steps of 10, 1.4 epochs 8.4 of them."""
    with interrupted() as steps:
        collapse(residual, data, method, 3, epochs=1.4, batch=10)
    assert len(steps) == stages * round(8.4 / stages)


def test_at_once_ranks_once_on_the_dense_network(residual, data):
    first = list(tlc.rank(residual, data, seed=3))[:3]
    table = collapse(residual, data, "at_once", 3, seed=3).table
    assert table["layer"][1].split(", ") == [n for n in activation_nodes(trace(residual))
                                             if n in first]  # fmt: skip
    together = tlc.linearize(residual, first, data)
    assert table["val_before"][1] == tlc.evaluate(together, data).accuracy


def test_at_once_can_rank_again_after_each_removal(residual, data):
    options = dict(rank="entropy", rule="affine")
    table = collapse(residual, data, "at_once", 3, again=True, **options).table
    current, gone = residual, set()
    for _ in range(3):
        name = next(iter(tlc.rank(current, data, "entropy", "affine")))
        current = tlc.linearize(current, name, data, "affine")
        gone.add(name)
    assert set(table["layer"][1].split(", ")) == gone and len(table) == 2
    assert table["val_before"][1] == tlc.evaluate(current, data).accuracy


def test_one_by_one_ranks_what_was_tuned(residual, data, tmp_path):
    table = collapse(residual, data, "one_by_one", 3, 3, out=tmp_path, rank="gaussian").table
    for step in range(3):
        tuned = tlc.load_run(residual, tmp_path, step)
        assert table["layer"][step + 1] == next(iter(tlc.rank(tuned, data, "gaussian")))


def test_chance_is_one_by_one_in_an_order_that_the_seed_draws(data):
    ask = dict(method="random", remove=3, epochs=0.3)
    tables = [collapse(perceptron(), data, seed=s, **ask).table for s in range(3)]
    orders = [tuple(t["layer"])[1:] for t in tables]
    assert len(set(orders)) > 1 and {frozenset(o) for o in orders} == {frozenset("246")}
    ask |= dict(method="one_by_one", rank="random")
    assert tuple(collapse(perceptron(), data, seed=1, **ask).table["layer"])[1:] == orders[1]


def test_rule_and_padding_reach_the_surgery(data):
    model, first = drawn(tlc.simple_cnn, width=4, dtype=torch.float32), {}
    for rule, padding in (("affine", "first"), ("affine", "as_trained"), ("on_off", "first")):
        options = dict(rank="magnitude", rule=rule, padding=padding)
        table = collapse(model, data, "at_once", 2, 0.1, **options).table
        names = list(tlc.rank(model, data, "magnitude"))[:2]
        linear = tlc.linearize(model, names, data, rule, padding)
        assert table["val_before"][1] == tlc.evaluate(linear, data).accuracy
        assert table["macs"][1] == tlc.count(linear, data)["macs"]
        first[rule, padding] = table["val_loss"][1]
    assert len(set(first.values())) == 3


def gaussians(*names):
    return {n: Gaussian(torch.arange(-1.0, i + 1), torch.ones(i + 2)) for i, n in enumerate(names)}


def test_decisions_come_back_in_their_groups_whatever_their_names():
    groups = [gaussians("relu", "a.b relu.mean", "x.std"), gaussians("10 relu"), gaussians("relu")]
    groups += [gaussians(f"relu{i}") for i in range(12)]  # more than ten keep their order
    there = as_tensors(groups)
    back = as_gaussians(dict(sorted(there.items(), reverse=True)))
    assert [set(g) for g in back] == [set(g) for g in groups]
    for group, want in zip(back, groups):
        for name, g in group.items():
            assert torch.equal(g.mean, want[name].mean) and torch.equal(g.std, want[name].std)
    for nothing in ({}, {"relu": torch.empty(0)}, as_tensors([])):
        assert as_gaussians(nothing) == []


def test_the_share_of_off_channels_is_of_all_that_go():
    """(-1, 0): both OFF. (-1, 0, 1): two of three. (-1, 0, 1, 2): two of four. Six of nine."""
    decision = as_tensors([gaussians("a", "b"), {"c": gaussians("", "", "c")["c"]}])
    assert off_share(decision) == pytest.approx(6 / 9)
    assert off_share({"a": torch.empty(0)}) is None


def test_a_method_of_ones_own_is_one_line(residual, data, tmp_path, monkeypatch):
    """The last activations first; a stage in which nothing goes is tuned, too, and its epochs are
    counted with the next; hooks hold while it is tuned, and no longer."""
    held = []

    def mine(task, share=0.5):
        def hold(model):
            held.append(model)
            return [model.get_parameter("0.weight").register_hook(torch.zeros_like)]

        def choose(model):
            return {list(activation_nodes(model))[-1]: torch.empty(0)}

        def change(model, decision):
            return tlc.linearize(model, list(decision), tlc.statistics(model, data), "identity")

        rest = task.epochs * (1 - share) / task.remove
        start = tlc.Stage(lambda m: {}, lambda m, d: copy.deepcopy(m), task.epochs * share, hold)
        return [start] + [tlc.Stage(choose, change, rest)] * 5

    monkeypatch.setitem(tlc.METHODS, "mine", tlc.Method(mine, {"lr": 0.01, "distil": False}))
    run = collapse(residual, data, "mine", 2, 1.0, share=0.8, weight_decay=0.0, out=tmp_path)
    names = list(activation_nodes(trace(residual)))
    assert list(run.table["layer"]) == ["", names[-1], names[-2]]
    assert list(run.table["epochs"]) == pytest.approx([0, 0.9, 0.1])
    stages = sorted(path.stem for path in tmp_path.glob("stage*.safetensors"))
    assert stages == ["stage_01", "stage_02", "stage_03"]
    (model,) = held
    assert torch.equal(model.get_parameter("0.weight"), residual.get_parameter("0.weight"))
    assert not torch.equal(model.get_parameter("7.weight"), residual.get_parameter("7.weight"))
    assert not model.get_parameter("0.weight")._backward_hooks
    with pytest.raises(TypeError, match="mine takes no 'rank'; it takes: share, lr"):
        collapse(residual, data, "mine", 2, rank="tlc")
    monkeypatch.delitem(tlc.METHODS, "mine")
    with pytest.raises(ValueError, match="holds a run by 'mine': add it to METHODS first"):
        tlc.load_run(residual, tmp_path, 1)
