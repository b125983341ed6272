"""The rivals' methods: each against a case worked by hand, and step by step against its text."""

import copy
import importlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import Net, digits, drawn, perceptron, randomize, relative_error
from torch import fx, nn
from torch.nn.utils import prune as pruning

import tlc_minimal as tlc
from tlc_minimal.gaussian import Gaussian
from tlc_minimal.graph import trace
from tlc_minimal.measure import count
from tlc_minimal.methods import cut_constants, easier, lacoot, layer_folding, published
from tlc_minimal.methods.easier import without
from tlc_minimal.methods.egp import budgets, choose, empty, left_of, prunable, prune, prune_round
from tlc_minimal.methods.layer_folding import Slope, fold, largest, penalty, push, with_slopes
from tlc_minimal.methods.published import assumed, losses, mask, masked, pairs, select
from tlc_minimal.nodes import activation_nodes
from tlc_minimal.reading.images import Split
from tlc_minimal.stages import Task
from tlc_minimal.statistics import from_batch_norm

same_function = lambda a, b, x: torch.allclose(a.eval()(x), b.eval()(x), atol=1e-4)
data = pytest.fixture(scope="module")(lambda: digits(256))
model = pytest.fixture(scope="module")(lambda: drawn(tlc.resnet18, width=4, dtype=torch.float32))


@pytest.fixture(scope="module")
def trained(model, data):
    """Batch norms that fit the data: no neuron is stuck in one state."""
    trained = copy.deepcopy(model)
    tlc.fit(trained, data, 4, progress=None)
    return trained


def task_of(model, data, remove, epochs=0.5) -> Task:
    return Task(trace(model).eval(), data, remove, epochs, seed=0)


def collapsed(model, data, method, remove, epochs, **options):
    """The run, the activations that went in each of its rows, and the epochs of these."""
    how = dict(batch=128, lr=0.05, progress=False, keep="all") | options
    run = tlc.collapse(model, data, remove, epochs, method, **how)
    return run, list(run.table["layer"][1:].str.split(", ")), list(run.table["epochs"][1:])


# ---- TLC as published ----


def chain() -> nn.Sequential:
    """conv [2, -1], γ [1, 3], β [0.5, -1]; conv [1, 4], γ 2, β -1; batch statistics 0 and 1."""
    first = nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, eps=1e-12), nn.ReLU()
    last = nn.Conv2d(2, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1e-12), nn.ReLU()
    model, values = nn.Sequential(*first, *last), ([2, -1], [1, 3], [0.5, -1], [1, 4], [2], [-1])
    for parameter, value in zip(model.parameters(), values):
        parameter.data = torch.tensor(value).float().reshape(parameter.shape)
    return model.eval()


def states(on: dict[str, torch.Tensor]) -> dict[str, Gaussian]:
    """Statistics of channels that are ON or OFF."""
    return {name: Gaussian(keep.double() - 0.5, torch.ones(len(keep))) for name, keep in on.items()}


def test_the_published_mask_by_hand():
    """x = -3: z = (-5.5, 8), so that dense gives 2 * 32 - 1. Channel 1 has β < 0 and goes, with the
    8 that it had to say, channel 0 goes through: 2 * -5.5 - 1 = -12. Then β1 drifts to 0.25."""
    model, x = chain(), torch.full((1, 1, 1, 1), -3.0)
    assert model(x).item() == 63
    on = {"2": torch.tensor([True, False])}
    small = mask(model, states(on))
    first, norm = small.get_submodule("0"), small.get_submodule("1")
    assert first.weight.flatten().tolist() == [2, 0]
    assert (norm.weight.tolist(), norm.bias.tolist()) == ([1, 0], [0.5, 0])
    assert list(activation_nodes(small)) == ["5"]
    norm.bias.data[1] = 0.25
    small.get_submodule("4").bias.data[:] = 13.0  # 2 * (-5.5 + 4 * 0.25) + 13
    assert small(x).item() == 4
    shipped = cut_constants(small)
    assert shipped.get_submodule("0").weight.flatten().tolist() == [2]
    assert shipped.get_submodule("3").weight.flatten().tolist() == [1]
    assert shipped.get_submodule("4").running_mean.item() == -1  # the constant: 4 * 0.25
    assert shipped(x).item() == 4
    assert mask(model, states({"5": torch.tensor([False])}))(x).item() == 0


def table(**losses):
    """A loss by the set of what is out; all sets that were asked for are kept in ``asked``."""
    asked = []

    def loss(names):
        asked.append("".join(names))
        return losses["".join(sorted(names)) or "none"]

    return loss, asked


def test_the_set_grows_in_order_until_the_loss_exceeds_what_it_was():
    """Singly c < a < b < d < e. With c, a, b it is still below 1; d tips it and goes, too."""
    single = dict(none=1.0, a=0.9, b=0.95, c=0.8, d=1.1, e=1.2)
    loss, asked = table(**single, ac=0.7, abc=0.99, abcd=1.01)
    assert select(list("abcde"), loss, True) == ["c", "a", "b", "d"]
    assert asked[6:] == ["ca", "cab", "cabd"]
    assert select(list("abcde"), table(**single)[0], False) == ["c"]
    loss, asked = table(none=1.0, a=1.2, b=1.1, c=1.3)
    assert select(["a", "b", "c"], loss, True) == ["b"], "none helps: the best one"
    assert asked == ["", "a", "b", "c"]
    loss, asked = table(none=1.0, a=0.9, b=0.8, c=1.5, d=1.6, ab=0.7, abc=1.0)
    assert select(list("abcd"), loss, True) == ["b"], "a set that never exceeds it is not taken"
    assert asked[-1] == "bac", "all but one are tried, never all"
    assert select(["a", "b"], table(none=1.0, a=0.9, b=0.8)[0], True) == ["b"]


def test_the_published_code_pairs_a_sum_with_its_branch(model):
    found = pairs(trace(model, share=True))
    assert len(found) == 17
    for name, (conv, norm) in found.items():
        block = model.get_submodule(name.rpartition(".")[0])
        which = name[-1] if name != "relu" else "1"
        assert conv.weight is getattr(block, f"conv{which}").weight
        assert norm.weight is getattr(block, f"bn{which}").weight
    theirs = torchvision.models.resnet18()
    norm = pairs(trace(theirs, share=True))["layer2.0.relu2"][1]
    assert norm.weight is theirs.layer2[0].bn2.weight


def test_behind_a_sum_the_shortcut_is_left_alone(model, data):
    name, norm = "layer2.0.relu2", model.layer2[0].bn2
    on = norm.bias > 0
    assert 0 < on.sum() < len(on)
    small = mask(model, states({name: on}))
    before, after = model.state_dict(), small.state_dict()
    changed = {k for k, v in after.items() if not torch.equal(v, before[k])}
    tensors = ("conv2.weight", "bn2.weight", "bn2.bias", "bn2.running_mean")
    assert changed == {f"layer2.0.{k}" for k in tensors}
    assert (small.layer2.get_submodule("0").conv2.weight[~on] == 0).all()
    assert torch.equal(small.layer2.get_submodule("0").bn2.bias[on], norm.bias[on])
    run = fx.Interpreter(small, garbage_collect_values=False)
    run.run(data.example)
    total = next(n for n in small.graph.nodes if n.target == "layer2.1.conv1").args[0]
    values = [run.env[node] for node in (total, *lacoot.branch_and_shortcut(total))]
    assert torch.equal(values[0][:, ~on], values[2][:, ~on]), "its signal passes, OFF or not"
    assert not values[1][:, ~on].any() and values[2][:, ~on].std() > 0


def test_what_ranks_is_one_batch_augmented_anew_each_time(model, data):
    traced = trace(model).eval()
    known = assumed(traced)
    loss, again = (losses(traced, data, known, seed=3) for _ in range(2))
    values = [loss([]), loss([]), loss(["relu"])]
    assert values[0] != values[1]
    assert values == [again([]), again([]), again(["relu"])]
    scores = tlc.rank(model, data, "reference", seed=3)
    loss = losses(traced, data, known, seed=3)
    before, first = loss([]), next(iter(known))
    assert scores[first] == pytest.approx(loss([first]) - before, abs=1e-6)
    tail = Split(data.val.images.clone(), data.val.labels.clone())
    tail.images[128:], values = 0, values[0]
    assert losses(traced, replace(data, val=tail), known, 3)([]) == values, "128 are all it sees"


PAIRS = {"relu": ("conv1", "bn1"), "layer1.0.relu1": ("layer1.0.conv1", "layer1.0.bn1")}
PAIRS |= {"layer2.0.relu2": ("layer2.0.conv2", "layer2.0.bn2")}


def test_a_masked_channel_comes_back_as_a_constant_and_never_as_a_signal(trained, data):
    """And the weights are those that torch's own pruning has, after each of 20 steps with much
    momentum and decay, so that what can move moves. Filters are there, as in the released code
    (lines 562 to 597), a weight times a mask, of whose gradient nobody takes care."""
    on = {n: pairs(trace(trained, share=True))[n][1].bias.detach() > 0 for n in PAIRS}
    assert all(0 < keep.sum() < len(keep) for keep in on.values())
    pruned, small = copy.deepcopy(trained).double(), mask(trained, states(on)).double()
    for name, keep in on.items():
        conv, norm = (pruned.get_submodule(n) for n in PAIRS[name])
        pruning.custom_from_mask(conv, "weight", keep.view(-1, 1, 1, 1).expand(conv.weight.shape))
        norm.weight.data[~keep] = norm.bias.data[~keep] = norm.running_mean[~keep] = 0
        pruned.set_submodule(name, nn.Identity())
    twins = pruned, small
    steps = [torch.optim.SGD(m.parameters(), 0.1, 0.9, weight_decay=0.01) for m in twins]
    for x, y in zip(data.train.images[:160].split(8), data.train.labels.split(8)):
        for twin, step in zip(twins, steps):
            step.zero_grad()
            F.cross_entropy(twin.train()(data.normalize(x).double()), y).backward()
            step.step()
        theirs, ours = (twin.state_dict() for twin in twins)
        assert all(torch.allclose(v, theirs[k], atol=1e-9) for k, v in ours.items() if k in theirs)
    x = data.example.double()
    assert relative_error(small.eval()(x), twins[0].eval()(x)) < 1e-9
    run = fx.Interpreter(small, garbage_collect_values=False)
    run.run(x)
    out = {node.target: value for node, value in run.env.items() if node.op == "call_module"}
    for name, keep in on.items():
        theirs, off = twins[0].get_submodule(PAIRS[name][0]), ~keep
        conv, norm = (small.get_submodule(n) for n in PAIRS[name])
        assert torch.allclose(theirs.weight_orig * theirs.weight_mask, conv.weight, atol=1e-9)
        assert not conv.weight[off].any() and not norm.weight[off].any()
        assert norm.bias[off].all(), "β drifts"
        assert not from_batch_norm(norm).std[off].any()
        here = out[PAIRS[name][1]][:, off]
        assert torch.equal(here, norm.bias.detach()[off].reshape(1, -1, 1, 1).expand_as(here))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_no_training_moves_what_is_masked(data, frozen, half):
    """Not behind a bias, nor by a batch norm that keeps its statistics, nor in half precision."""
    vgg = torchvision.models.vgg11_bn(init_weights=False)
    cnn = randomize(vgg.features[:7].append(nn.Flatten()), dtype=torch.float32)
    small = mask(cnn, assumed(trace(cnn)))
    before = [(node.target, off) for node, off in masked(small)]
    assert len(before) == 2
    small.train()
    for name, _ in before:
        small.get_submodule(name).train(not frozen)
    step = torch.optim.SGD(small.parameters(), 0.1, 0.9, weight_decay=0.01)
    for x in data.normalize(data.train.images[:70]).split(7):  # a mean is rounded
        step.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            small(x).square().mean().backward()
        step.step()
    after = [(node.target, off) for node, off in masked(small)]
    assert all(n == m and torch.equal(a, b) for (n, a), (m, b) in zip(before, after, strict=True))
    parts = dict(conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4), relu=nn.ReLU())
    net = Net(lambda net, x: net.relu(net.bn(y := net.conv(x))) + y, **parts)
    with pytest.raises(ValueError, match="relu follows no convolution that feeds a batch norm a"):
        pairs(trace(net))


INNER = [f"layer{s}.{b}.relu1" for s in (1, 2, 3, 4) for b in (0, 1)]
SUMS = [name.replace("relu1", "relu2") for name in INNER]
SOME_OFF = ("layer1.0.relu1", "layer2.0.relu1", "layer3.1.relu2")
NETWORKS = {
    "residual": lambda: tlc.resnet18(width=6),
    "pool and flatten": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(72, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5),
    ),
    "depthwise": lambda: torchvision.models.mobilenet_v2(width_mult=0.25),
    "simple": lambda: tlc.simple_cnn(width=6),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_constants_are_cut_exactly(name):
    network, x = NETWORKS[name](), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert count(cut_constants(trace(network)), x) == count(network, x), "none: as it is"
    every = list(pairs(trace(network)))
    cases = [(every, ()), (every[::2], ())]
    if name == "residual":
        cases = [(remove, off) for remove in (INNER, SUMS, every) for off in ((), SOME_OFF)]
    for remove, all_off in cases:
        dense = randomize(copy.deepcopy(network), len(remove))
        on = {n: norm.bias.detach() > 0 for n, (_, norm) in pairs(trace(dense)).items()}
        small = mask(dense, states({n: on[n] & (n not in all_off) for n in remove})).eval()
        for node, off in masked(small):  # β has drifted anywhere
            small.get_submodule(node.target).bias.data[off] = torch.randn(int(off.sum())).double()
        shipped = cut_constants(small)
        assert relative_error(shipped(x), small(x)) <= 1e-10
        macs = [count(m, x)["macs"] for m in (small, shipped)]
        assert macs[1] < macs[0] or (remove == SUMS and not all_off and macs[1] == macs[0])
        if name == "residual":  # all inside a block are gone
            assert all("bn2" in n.target or n.target == "bn1" for n, _ in masked(shipped))


def test_a_set_is_no_larger_than_what_is_left(trained, data, monkeypatch):
    some = lambda names, loss, set_rule: names[: 5 if set_rule else 1]
    monkeypatch.setitem(published.__globals__, "select", some)
    run, gone, epochs = collapsed(trained, data, "published", 7, 0.7)
    assert [len(names) for names in gone] == [5, 2] and epochs == pytest.approx([0.5, 0.2])
    assert run.table["macs"].nunique() == 1, "masked, and still there"
    _, gone, _ = collapsed(trained, data, "published", 2, 0.2, set_rule=False)
    assert [len(names) for names in gone] == [1, 1]


# ---- EASIER ----


def test_easier_takes_the_layers_that_never_change_their_state(data):
    """All neurons of the second layer always OFF: entropy 0, chosen, and the network changes."""
    task = task_of(perceptron((0.0, -50.0, 0.0)), data, 1)
    (stage,) = easier(task)
    assert list(stage.choose(task.model)) == ["4"] and stage.epochs == 0.5
    passed = stage.change(task.model, {"4": torch.empty(0)})
    assert same_function(passed, tlc.linearize(task.model, "4", data, "identity"), data.example)
    assert not same_function(passed, task.model, data.example)
    always_on = task_of(perceptron(), data, 1).model
    assert same_function(without(always_on, {"4": torch.empty(0)}), always_on, data.example)
    # As its code: the lowest is set to 0, and all that are 0 become the identity.
    model = perceptron((0.0, 50.0, -50.0))
    for remove, gone in ((1, 1), (2, 2), (3, 2)):
        task = task_of(model, data, remove)
        stages = easier(task)
        assert len(stages) == remove and len(stages[0].choose(task.model)) == gone
    assert collapsed(model, data, "easier", 3, 0.5)[1] == [["4", "6"], ["2"]]


# ---- EGP ----


def test_egp_budgets_by_hand():
    """I = (0.5, 1), R = 1.5 / I = (3, 1.5): shares e^1.5 : 1, which is 81.8 to 18.2 of 100."""
    h, magnitudes = torch.tensor([0.5, 1.0]), torch.ones(2)
    assert budgets(h, magnitudes, torch.tensor([1000, 1000]), 100).tolist() == [81, 18]
    assert budgets(h, magnitudes, torch.tensor([10, 1000]), 100).tolist() == [10, 90]
    assert budgets(h, 2 * magnitudes, torch.tensor([1000, 1000]), 100).tolist() == [81, 18]
    assert budgets(h, magnitudes, torch.tensor([10, 20]), 100).tolist() == [10, 20]
    assert budgets(h, magnitudes, torch.tensor([10, 20]), 1).tolist() == [1, 0], "never nothing"
    # R = (6, 3, 2): the first should lose 94 of 100 and has 10. The others share 90 anew, with
    # I = (1, 1.5), R = (2.5, 1.67): 69.7 to 30.3 %.
    h, left = torch.tensor([0.5, 1.0, 1.5]), torch.tensor([10, 1000, 1000])
    assert budgets(h, torch.ones(3), left, 100).tolist() == [10, 62, 27]


def test_egp_prunes_the_smallest_that_are_left_in_layers_that_one_convolution_feeds(model):
    assert list(prunable(trace(model))) == ["relu", *INNER]
    weight = torch.tensor([[0.0, -0.1, 3.0], [0.2, -5.0, 0.3]])
    prune(weight, 2)
    assert weight.tolist() == [[0.0, 0.0, 3.0], [0.0, -5.0, pytest.approx(0.3)]]
    prune(weight, 0)
    assert weight.count_nonzero() == 3
    prune_round([layer := nn.Linear(4, 2)], torch.ones(1))
    assert left_of(layer) == 4, "half of what was there"


def test_egp_removes_an_empty_layer_without_changing_anything(trained, data):
    dead = trace(trained)
    dead.get_submodule("layer2.0.conv1").weight.data.zero_()
    decision = choose(dead, data)
    assert not any(decision[name] for name in prunable(dead)), "nothing is left to prune"
    smaller = empty(dead, decision)
    assert set(activation_nodes(dead)) - set(activation_nodes(smaller)) == {"layer2.0.relu1"}
    assert same_function(smaller, dead, data.example)


def test_egp_tunes_after_each_round_and_keeps_the_zeros(trained, data, monkeypatch):
    """Half of what is left goes in a round, with it an activation; then that round is tuned."""
    fits, fit = [], tlc.fit
    left = lambda net: {n: left_of(m) for n, m in net.named_modules() if hasattr(m, "weight")}

    def watching(network, *args, **how):
        before = left(network)
        fit(network, *args, **how)
        fits.append((before, left(network)))

    monkeypatch.setattr(importlib.import_module("tlc_minimal.collapse"), "fit", watching)
    run, gone, epochs = collapsed(trained, data, "egp", 3, 3.0)
    assert [len(names) for names in gone] == epochs == [1, 1, 1] and len(fits) == 3
    assert all(before == after for before, after in fits), "no tuning fills what was pruned"
    there = lambda network: sum(left_of(layer) for layer in prunable(network).values())
    assert there(run.linear) <= there(trace(trained)) / 8 + 3 * 9


# ---- Layer Folding ----


def test_a_slope_leads_from_the_rectifier_to_the_identity_and_a_penalty_pushes_it():
    """d/da of 0.25 |1 - a²|: -0.5 a below 1, +0.5 a above, 0 at 1."""
    slope, z = Slope(), torch.tensor([[-2.0, 3.0]])
    assert slope(z).tolist() == [[0.0, 3.0]]
    slope.slope.data.fill_(0.25)
    assert slope(z).tolist() == [[-0.5, 3.0]]
    assert slope(z.bfloat16()).dtype == torch.bfloat16
    slope.slope.data.fill_(1.0)
    assert torch.equal(slope(z), z)
    slope.slope.data.fill_(-0.5)  # never below the rectifier
    assert slope(z).tolist() == [[0.0, 3.0]]
    assert penalty(torch.tensor([0.5, 2.0, 1.0])).tolist() == [-0.25, 1.0, 0.0]
    slope.slope.data.fill_(0.5)
    (handle,) = push(nn.Sequential(slope))
    slope(z).sum().backward()  # of its own: -2
    assert slope.slope.grad.item() == pytest.approx(-2.25)
    handle.remove()


def test_layer_folding_folds_the_largest_slopes_between_two_halves_of_the_tuning(data):
    model = with_slopes(trace(perceptron()), {})
    for name, slope in {"2": 0.1, "4": 0.3, "6": 0.9}.items():
        model.get_submodule(name).slope.data.fill_(slope)
    assert list(largest(model, 2)) == ["6", "4"]
    folded = fold(model, largest(model, 1))
    assert list(activation_nodes(folded)) == ["2", "4"]
    assert folded.get_submodule("4").negative_slope == pytest.approx(0.3)
    want = copy.deepcopy(model)
    want.get_submodule("6").slope.data.fill_(1.0)
    assert same_function(folded, want, data.example)
    # It learns for one half of the epochs and tunes two removals for the other.
    assert [s.epochs for s in layer_folding(task_of(perceptron(), data, 2, 2.0))] == [1.0, 0.5]


# ---- LaCoOT ----


def test_max_sliced_wasserstein_by_hand():
    """On a line the smallest goes to the smallest: 0, 1, 5 to 2, 3, 7 is 2 each, in any order."""
    x, y = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[7.0], [2.0], [3.0]])
    assert lacoot.max_sliced(x, y, 0) == pytest.approx(2.0)
    assert lacoot.max_sliced(x, x[[2, 0, 1]], 0) == 0.0
    shifted = torch.randn(50, 2)
    found = lacoot.max_sliced(shifted, shifted + torch.tensor([3.0, 4.0]), 0)
    assert 4.9 < found <= 5.0 + 1e-6  # the direction of the shift sees all of its length


def test_blocks_become_their_shortcuts(model, data):
    traced = trace(model)
    found = lacoot.blocks(traced)
    assert list(found) == SUMS
    assert str(found["layer1.1.relu2"][1].target) == "layer1.0.relu2"
    assert str(found["layer3.0.relu2"][1].target) == "layer3.0.shortcut.1"
    short = copy.deepcopy(model)
    short.layer1[1], short.layer3[0] = nn.Identity(), short.layer3[0].shortcut
    for names in (["layer1.1.relu2", "layer3.0.relu2"], ["layer3.0.relu2", "layer1.1.relu2"]):
        dropped = lacoot.drop(traced, names)
        assert len(activation_nodes(dropped)) == 13
        assert same_function(dropped, short, data.example)


def test_lacoot_drops_the_block_that_does_nothing(model, data):
    still = copy.deepcopy(model)
    still.layer2[1].bn2.weight.data.zero_()
    still.layer2[1].bn2.bias.data.zero_()
    assert next(iter(lacoot.distances(still, data, 0).items())) == ("layer2.1.relu2", (0.0, 2))
    task = task_of(still, data, 2)
    (stage,) = lacoot.lacoot_without_regulariser(task)
    dropped = stage.change(task.model, stage.choose(task.model))
    gone = set(activation_nodes(task.model)) - set(activation_nodes(dropped))
    assert gone == {"layer2.1.relu1", "layer2.1.relu2"} and stage.epochs is None
    assert same_function(dropped, still, data.example)


def test_lacoot_chooses_the_nearest_blocks_and_says_what_it_cannot_do(model, data):
    found = {"b": (0.1, 2), "a": (0.5, 2), "c": (0.9, 3)}
    assert lacoot.choose(found, 4) == ["b", "a"]
    with pytest.raises(ValueError, match="takes out 7 activations here, not 5: ask for 7"):
        lacoot.choose(found, 5)
    for remove, gone in ((3, 4), (17, 16)):
        with pytest.raises(ValueError, match=f"out {gone} .* here, not {remove}.*'easier'"):
            lacoot.lacoot_without_regulariser(task_of(model, data, remove))
