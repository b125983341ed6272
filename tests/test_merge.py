"""Merging: how many layers are left, which, and why; what decides, and what it costs."""

import importlib
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers import Net, kept, randomize, relative_error, same
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.fold import fold
from tlc_minimal.modules import Affine, Ones, ScaledSum
from tlc_minimal.reading.layers import Anew
from tlc_minimal.table import describe

module = importlib.import_module("tlc_minimal.merge")

X = torch.randn(4, 3, 32, 32, dtype=torch.float64)


def test_every_block_becomes_one_convolution():
    model = randomize(tlc.resnet18(width=4))
    inner = [f"layer{s}.{b}.relu1" for s in (1, 2, 3, 4) for b in (0, 1)]
    merged = tlc.merge(tlc.linearize(model, inner, X, "affine", "first"), X, keep="all")
    kernels = [m.kernel_size[0] for m in merged.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [3, 5, 5, 7, 5, 7, 5, 7, 5]  # stem, then each block: 5x5, 7x7 where strided
    assert tlc.count(merged, X)["layers"] == 10
    assert len(merged.meta["merges"]) == 8
    assert "merged into one" in describe(merged.meta["merges"][0])


def test_a_linear_cnn_becomes_one_convolution():
    model, names = randomize(tlc.simple_cnn(width=3)), [f"relu{i}" for i in range(1, 7)]
    linear = tlc.linearize(model, names, X, "affine", "first")
    merged = tlc.merge(linear, X[:1], keep="all")
    convolutions = [m for m in merged.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 and convolutions[0].stride == (8, 8)
    x = torch.randn(2, 3, 32, 32).double()
    assert relative_error(merged(x), linear(x)) < 1e-10


@pytest.mark.parametrize("keep", ["all", "fastest"])
def test_what_pads_in_between_stays_two_and_says_so(keep):
    model = randomize(tlc.resnet18(width=4))
    linear = tlc.linearize(model, ["layer1.0.relu1", "layer4.1.relu1"], X, "affine", "as_trained")
    merged = tlc.merge(linear, X, keep)
    rows = {(row["first"], row["second"]): row for row in merged.meta["merges"]}
    assert set(rows) == {(f"layer{n}.conv1", f"layer{n}.conv2") for n in ("1.0", "4.1")}
    for row in rows.values():
        assert row["verdict"] == "left in two: zeros are put between them"
        assert row["one_macs"] == row["two_macs"] and "ms" not in describe(row)


def test_the_table_says_what_became_of_every_layer_and_the_given_model_stays(capsys):
    """Cut, gone, merged, left and why; MACs as they are counted."""
    model = randomize(tlc.resnet18(width=4, stem="strong"))
    names = ["layer1.0.relu1", "layer1.1.relu1", "layer2.1.relu1", "layer3.1.relu2"]
    layers = {x.name: x.channels for x in tlc.find_layers(model, X)}
    mixed = lambda n: torch.tensor([1.0, -1.0]).repeat(n // 2).double()
    stats = {n: tlc.Gaussian(mixed(layers[n]), mixed(layers[n]).abs()) for n in names}
    stats[names[1]] = tlc.Gaussian(-torch.ones(4).double(), torch.ones(4).double())
    before = tlc.explain(model, X)
    linear = tlc.linearize(model, names, stats, padding="first").eval()
    given = kept(model), kept(linear)
    merged = tlc.merge(linear, X, "all", verbose=True)
    assert same(model, given[0]) and same(linear, given[1])
    table = module.table(model, linear, merged, X)
    weights = [n for n, p in model.named_parameters() if p.ndim > 1]
    assert [f"{n}.weight" for n in table.index] == weights
    assert list(before["MACs"]) == list(before["MACs merged"]) == list(table["MACs"])
    for model_, column in ((model, "MACs"), (merged, "MACs merged")):
        assert tlc.count(model_, X)["macs"] == table[column].sum()
    what = table["what"]
    assert what["layer1.0.conv1"] == "4 → 2 channels; merged into layer1.0.conv2"
    assert what["layer1.1.conv1"] == what["layer1.1.conv2"] == "gone: its branch is a constant"
    for name in ("layer4.0.conv1", "layer4.0.shortcut.0"):
        assert what[name].startswith("layer3.1.relu2_affine is in front, which no layer takes in")
    printed = capsys.readouterr().out
    assert all(describe(row) in printed for row in merged.meta["merges"])


def test_fastest_keeps_what_the_clock_prefers():
    model = randomize(tlc.resnet18(width=4), dtype=torch.float32)
    names = ["layer1.0.relu1", "layer3.0.relu1"]
    linear = tlc.linearize(model, names, torch.randn(4, 3, 32, 32), "affine", "first")
    merged = tlc.merge(linear, torch.randn(1, 3, 32, 32), keep="fastest")
    assert merged.meta["merges"]
    for row in merged.meta["merges"]:
        assert row["verdict"].startswith(("merged into one", "left in two"))
        assert row["one_ms"] > 0 and row["two_ms"] > 0
    x = torch.randn(2, 3, 32, 32)
    assert relative_error(merged(x), linear(x)) < 1e-5


@pytest.mark.parametrize("one, faster", [
    ([9, 19, 29, 39, 49, 59, 69], True),  # though it overlaps: within each round it wins
    ([11, 19, 29, 39, 49, 59, 69], True),
    ([11, 21, 31, 39, 49, 59, 69], False),  # four rounds of seven
    ([10, 20, 30, 40, 50, 60, 70], False),
])  # fmt: skip
def test_one_is_faster_if_it_wins_three_rounds_of_four(monkeypatch, one, faster):
    """A busy machine slows down whole rounds: here from 10 to 70 ms."""
    two, row, layer = [10, 20, 30, 40, 50, 60, 70], {}, nn.Linear(2, 2)
    monkeypatch.setattr(module, "race", lambda runs, device: [two, one])
    assert module.is_faster(layer, layer, torch.ones(1, 2), row) == faster
    assert row == {"two_ms": 40, "one_ms": one[3]}


def test_each_layer_keeps_its_own_precision():
    run = lambda net, x: net.head(net.r(net.a(x)).mean((2, 3)).double())
    head = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 3)).double()
    model, x = Net(run, a=nn.Conv2d(3, 4, 3), r=nn.ReLU(), head=head).eval(), X.float()
    linear = tlc.linearize(model, "head.1", x)
    for small in (tlc.merge(model, x, "all"), tlc.merge(linear, x, "all"), linear,
                  tlc.project(model, "head.1", x).model):  # fmt: skip
        assert small(x).dtype == torch.float64 and small.a.weight.dtype == torch.float32
    spectral = lambda net, x: net.b(net.a(torch.fft.irfft(torch.fft.rfft(x.float()) * net.w, n=32)))
    fourier = Net(spectral, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1)).eval()
    fourier.w = nn.Parameter(torch.randn(17, dtype=torch.cfloat))
    merged = tlc.merge(fourier, x, "all")
    assert not hasattr(merged, "a") and relative_error(merged(x), fourier(x)) < 1e-5


def test_nothing_to_merge_is_no_mistake():
    for model in (nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Sequential(nn.Conv2d(3, 2, 3))):
        merged = tlc.merge(model.double().eval(), X, verbose=True)
        assert relative_error(merged(X), model(X)) < 1e-12 and merged.meta["merges"] == []


COST = """
import time, torch, torchvision, tlc_minimal as tlc
status = lambda key: next(int(l.split()[1]) for l in open("/proc/self/status") if key in l) * 1024
model = torchvision.models.resnet50(weights=None).eval()
x = torch.randn(1, 3, 224, 224)
with torch.no_grad():
    model(x)  # so that torch has loaded what it needs
size = sum(t.nbytes for t in model.state_dict().values())
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins here
before, start = status("VmRSS"), time.process_time()
tlc.find_layers(model, x), tlc.merge(model, x, keep="all")
print(time.process_time() - start, (status("VmHWM") - before) / size)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux tells its memory")
def test_the_tools_are_quick_and_small_on_a_resnet50():
    """3 s of computing and 1.5 times the model's memory; a slow machine may take more."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # free memory is given back
    how = dict(capture_output=True, text=True, env=environment)
    done = subprocess.run([sys.executable, "-c", COST], **how)
    seconds, memory = map(float, done.stdout.split())
    assert seconds < 30 and memory < 1.8, done.stdout + done.stderr


# ---- maps per channel fold into the convolutions around them, and nothing changes ----

SMALL = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def kinds(model):
    return {type(m) for m in model.modules()}


def test_a_batch_norm_without_running_statistics_stays_where_it_is():
    front = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1), nn.ReLU()]
    anew = [nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 2, 3)]
    model = nn.Sequential(*randomize(nn.Sequential(*front)), *anew).double().eval()
    linear = tlc.linearize(model, "3", SMALL)
    for small in (tlc.fold(linear, SMALL), merged := tlc.merge(linear, SMALL, keep="all")):
        assert relative_error(small(SMALL), linear(SMALL)) < 1e-12
        assert [type(m) for m in small.modules()].count(Anew) == 1
    assert tlc.count(merged, SMALL)["layers"] == 2 and not tlc.merge(merged, SMALL).meta["merges"]


def test_a_batch_norm_in_front_of_a_convolution_folds_forward_unless_it_pads():
    """DenseNet: concat, norm, (no ReLU), 1x1."""
    run = lambda net, x: net.b(net.norm(torch.cat([x, net.a(x)], 1)))
    layers = {"a": nn.Conv2d(3, 2, 1), "norm": nn.BatchNorm2d(5), "b": nn.Conv2d(5, 4, 1)}
    padded = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1))
    for model, stays in ((Net(run, **layers), False), (padded, True)):
        folded = fold(randomize(model))
        assert (nn.BatchNorm2d in kinds(folded)) == stays
        assert relative_error(folded(SMALL), model(SMALL)) < 1e-12


@pytest.mark.parametrize("shortcut", [True, False])
def test_an_affine_map_behind_a_sum_is_part_of_the_sum(shortcut):
    """Both branches take it if both can, else it scales the shortcut within the sum."""
    run = lambda net, x: net.last(F.relu(net.bn(net.a(x)) + net.shortcut(x)))
    layers = {"a": nn.Conv2d(3, 3, 3, padding=1), "bn": nn.BatchNorm2d(3)}
    layers["shortcut"] = nn.Conv2d(3, 3, 1) if shortcut else nn.Identity()
    model = randomize(Net(run, **layers, last=nn.Conv2d(3, 2, 3, padding=1)))
    linear = tlc.linearize(model, "relu1", SMALL)
    assert Affine in kinds(linear)
    folded = fold(linear)
    assert Affine not in kinds(folded) and (ScaledSum in kinds(folded)) == (not shortcut)
    assert relative_error(folded(SMALL), linear(SMALL)) < 1e-12


def test_the_carrier_of_ones_becomes_a_row_of_the_convolution():
    model = randomize(nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)
    ))  # fmt: skip
    g = tlc.Gaussian(torch.tensor([-1.0, 1.0, -0.5, 2.0]).double(), torch.ones(4).double())
    linear = tlc.linearize(model, "2", {"2": g})
    assert Ones in kinds(linear) and getattr(linear, "0").out_channels == 2
    folded = fold(linear.eval())
    assert Ones not in kinds(folded) and getattr(folded, "0").out_channels == 3
    assert not getattr(folded, "0").weight[2].any()
    assert relative_error(folded(SMALL), linear(SMALL)) < 1e-12


def test_dropout_goes_in_eval_mode_only():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Dropout(), nn.Identity()).double()
    assert kinds(fold(model.eval())) & {nn.Dropout, nn.Identity} == set()
    assert kinds(fold(model.train())) & {nn.Dropout, nn.Identity} == {nn.Dropout}


def test_a_layer_that_is_called_twice_counts_twice_and_a_line_along_rows_stays_apart():
    run = lambda net, x: net.b(F.relu(net.a(torch.sigmoid(net.a(x)))))
    model = Net(run, a=nn.Conv2d(3, 3, 3, padding=1), b=nn.Conv2d(3, 4, 3)).double().eval()
    assert tlc.explain(model, X)["MACs"].sum() == tlc.count(model, X)["macs"]
    run = lambda net, x: net.b(F.relu(net.a(x).swapdims(1, 2)))
    model = Net(run, a=nn.Conv2d(3, 4, 3, padding=1), b=nn.Conv2d(32, 5, 3)).double().eval()
    linear = tlc.linearize(model, "relu1", X, "affine")
    assert relative_error(tlc.merge(linear, X, "all")(X), linear(X)) < 1e-12


# ---- what is left alone, and says why ----

merged_of = lambda model: tlc.merge(model, SMALL, keep="all")


class Centred(nn.Conv2d):
    weight = property(lambda self: self.raw - self.raw.mean())


class Scaling(nn.Module):
    def forward(self, x):
        return F.dropout(x) if self.training else x.mul_(0.5)


def test_an_own_dropout_that_scales_and_a_computed_weight_are_no_plain_layers():
    model = nn.Sequential(Centred(3, 4, 1), Scaling(), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    model[0].raw = model[0]._parameters.pop("weight")
    model.double()
    assert relative_error(merged_of(model)(SMALL), model(SMALL)) < 1e-6
    linear = tlc.linearize(model, tlc.find_layers(model, SMALL), SMALL)
    assert same(linear, tlc.linearize(model, tlc.find_layers(model, SMALL)[0], SMALL))
    without_weights = tlc.linearize(nn.Sequential(nn.ReLU()), "0", SMALL)
    assert without_weights(SMALL).shape == SMALL.shape


PADS = {f"pads with {mode}": dict(kernel_size=3, padding=1, padding_mode=mode)
        for mode in ("reflect", "circular", "replicate")}  # fmt: skip
PADS["pads one side more than the other"] = dict(kernel_size=4, padding="same")


@pytest.mark.parametrize("words", PADS)
def test_other_paddings_are_left_alone_and_said_so(words):
    layers = nn.Conv2d(3, 4, **PADS[words]), nn.BatchNorm2d(4), nn.ReLU()
    layers += nn.Conv2d(4, 4, **PADS[words]), nn.Conv2d(4, 2, 1)
    model = randomize(nn.Sequential(*layers))
    for padding in ("first", "as_trained"):
        linear = tlc.linearize(model, "2", SMALL, "affine", padding)
        small = merged_of(linear)
        assert relative_error(small(SMALL), linear(SMALL)) < 1e-10
        assert not any(isinstance(m, nn.BatchNorm2d) for m in small.modules()), "norms fold"
        assert words in tlc.explain(linear, SMALL)["what"]["3"]


def test_what_feeds_two_and_what_is_called_twice_is_left_alone_and_said_so():
    def fork(net, x):
        x = net.a(x)
        return net.b(x), {"c": net.c(x), "d": None}

    layers = {name: nn.Conv2d(3, 3, 1).double() for name in "abc"}
    small = merged_of(Net(fork, **layers).eval())  # its outputs, whatever holds them, are compared
    assert isinstance(small.a, nn.Conv2d) and set(small(SMALL)[1]) == {"c", "d"}
    table = tlc.explain(Net(fork, **layers).eval(), SMALL)
    assert list(table.index) == ["a", "b", "c"] and (table["MACs"] == table["MACs merged"]).all()
    assert list(table["what"]) == ["", "a feeds b, c", "a feeds b, c"]
    twice = Net(lambda net, x: net.b(net.b(net.a(x))), a=layers["a"], b=layers["b"]).eval()
    assert relative_error(merged_of(twice)(SMALL), twice(SMALL)) < 1e-6
    assert tlc.explain(twice, SMALL)["what"]["b"] == "b is called more than once"


def test_branches_that_meet_at_a_sum_and_stay_two_say_why():
    model, x = randomize(tlc.resnet18(width=4, stem="strong")), SMALL
    first, second, shortcut = (f"layer2.0.{n}" for n in ("conv1", "conv2", "shortcut.0"))
    what = tlc.explain(model, x)["what"]
    assert what[second] == f"{second} and {shortcut} meet at a sum, with different inputs"
    what = tlc.explain(model, x, "layer2.0.relu1", "affine")["what"]
    assert what[second] == "zeros are put between them"
    what = tlc.explain(model, x, "layer2.0.relu1", "affine", "first")["what"]
    assert what[first] == what[shortcut] == f"merged into {second}" and what[second] == ""
