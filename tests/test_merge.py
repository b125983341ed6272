"""Merged equals unmerged: random BN statistics, every rule, subsets of layers, odd sizes."""

import copy
import importlib
import os
import random
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import randomize, relative_error
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.clock import race
from tlc_minimal.graph import activation_nodes, trace
from tlc_minimal.linearize import RULES
from tlc_minimal.table import describe

module = importlib.import_module("tlc_minimal.merge")

X = torch.randn(4, 3, 32, 32, dtype=torch.float64)
MODELS = {
    "resnet18": lambda: tlc.resnet18(width=4),
    "resnet18 strong": lambda: tlc.resnet18(width=4, stem="strong"),
    "simple_cnn": lambda: tlc.simple_cnn(width=4),
    "torchvision": lambda: torchvision.models.ResNet(
        torchvision.models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=7
    ),
}


def _collapsed(name: str, rule: str, seed: int, dtype, padding="first"):
    torch.manual_seed(seed)
    model = randomize(MODELS[name](), seed, dtype)
    x = torch.randn(4, 3, 32, 32, dtype=dtype)
    removable = list(activation_nodes(trace(model)))
    dice = random.Random(seed)
    names = dice.sample(removable, dice.randint(1, len(removable)))
    return tlc.linearize(model, names, x, rule, padding).eval(), names


@pytest.mark.parametrize(("seed", "rule"), list(enumerate([*RULES, "thrifty"])))
@pytest.mark.parametrize("name", ["resnet18", "simple_cnn"])
def test_merged_equals_linear(name, rule, seed):
    linear, _ = _collapsed(name, rule, seed, torch.float64)
    merged = tlc.merge(linear, torch.randn(2, 3, 32, 32), keep="all")
    for size, batch in ((32, 1), (27, 7)):
        x = torch.randn(batch, 3, size, size, dtype=torch.float64)
        want, got = linear(x), merged(x)
        assert got.shape == want.shape
        assert relative_error(got, want) < 1e-10


@pytest.mark.parametrize("name", ["resnet18", "resnet18 strong", "torchvision"])
def test_merged_equals_linear_in_float32(name):
    linear, _ = _collapsed(name, "on_off_affine", 3, torch.float32)
    merged = tlc.merge(linear, torch.randn(2, 3, 32, 32), keep="all")
    x = torch.randn(3, 3, 32, 32)
    assert relative_error(merged(x), linear(x)) < 1e-5
    assert not any(isinstance(m, nn.BatchNorm2d) for m in merged.modules())


def test_every_block_becomes_one_convolution():
    model = randomize(tlc.resnet18(width=4))
    inner = [f"layer{s}.{b}.relu1" for s in (1, 2, 3, 4) for b in (0, 1)]
    linear = tlc.linearize(model, inner, torch.randn(4, 3, 32, 32).double(), "affine", "first")
    merged = tlc.merge(linear, torch.randn(2, 3, 32, 32), keep="all")
    kernels = [m.kernel_size[0] for m in merged.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [3, 5, 5, 7, 5, 7, 5, 7, 5]  # stem, then each block: 5x5, 7x7 where strided
    assert tlc.count(merged, torch.randn(1, 3, 32, 32))["layers"] == 10
    assert len(merged.meta["merges"]) == 8
    assert "merged into one" in describe(merged.meta["merges"][0])


def test_a_linear_cnn_becomes_one_convolution():
    linear = tlc.linearize(
        randomize(tlc.simple_cnn(width=3)),
        [f"relu{i}" for i in range(1, 7)],
        torch.randn(4, 3, 32, 32).double(),
        "affine",
        "first",
    )
    merged = tlc.merge(linear, torch.randn(1, 3, 32, 32), keep="all")
    convolutions = [m for m in merged.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 and convolutions[0].stride == (8, 8)
    x = torch.randn(2, 3, 32, 32).double()
    assert relative_error(merged(x), linear(x)) < 1e-10


def test_linear_layers_merge():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(48, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 10)
    )
    linear = tlc.linearize(randomize(model), "3", torch.randn(64, 3, 4, 4).double(), "affine")
    merged = tlc.merge(linear, torch.randn(2, 3, 4, 4), keep="all")
    assert tlc.count(merged, torch.randn(2, 3, 4, 4))["layers"] == 1
    x = torch.randn(5, 3, 4, 4).double()
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


def test_the_table_says_what_became_of_every_layer(capsys):
    """Cut, gone, merged, left and why; MACs as they are counted."""
    model = randomize(tlc.resnet18(width=4, stem="strong"))
    names = ["layer1.0.relu1", "layer1.1.relu1", "layer2.1.relu1", "layer3.1.relu2"]
    layers = {x.name: x.channels for x in tlc.find_layers(model, X)}
    mixed = lambda n: torch.tensor([1.0, -1.0]).repeat(n // 2).double()
    stats = {n: tlc.Gaussian(mixed(layers[n]), mixed(layers[n]).abs()) for n in names}
    stats[names[1]] = tlc.Gaussian(-torch.ones(4).double(), torch.ones(4).double())
    before = tlc.explain(model, X)
    linear = tlc.linearize(model, names, stats, padding="first").eval()
    merged = tlc.merge(linear, X, "all", verbose=True)
    table = module.table(model, linear, merged, X)
    assert list(table.index) == [
        n for n, m in model.named_modules() if hasattr(m, "weight") and m.weight.ndim > 1
    ]
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


def test_two_residual_blocks_in_a_row_and_a_shortcut_with_an_affine_map():
    model = randomize(tlc.resnet18(width=4))
    names = [f"layer{s}.{b}.relu{i}" for s in (1, 2) for b in (0, 1) for i in (1, 2)]
    for rule in ("affine", "on_off_affine"):
        linear = tlc.linearize(model, names, torch.randn(8, 3, 32, 32).double(), rule)
        merged = tlc.merge(linear, torch.randn(2, 3, 32, 32), keep="all")
        x = torch.randn(2, 3, 31, 31).double()
        assert relative_error(merged(x), linear(x)) < 1e-10


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


@pytest.mark.parametrize(
    ("one", "faster"),
    [
        ([9, 19, 29, 39, 49, 59, 69], True),  # though it overlaps: within each round it wins
        ([11, 19, 29, 39, 49, 59, 69], True),
        ([11, 21, 31, 39, 49, 59, 69], False),  # four rounds of seven
        ([10, 20, 30, 40, 50, 60, 70], False),
    ],
)
def test_one_is_faster_if_it_wins_three_rounds_of_four(monkeypatch, one, faster):
    """A busy machine slows down whole rounds: here from 10 to 70 ms."""
    two, row, layer = [10, 20, 30, 40, 50, 60, 70], {}, nn.Linear(2, 2)
    monkeypatch.setattr(module, "race", lambda runs, device: [two, one])
    assert module.is_faster(layer, layer, torch.ones(1, 2), row) == faster
    assert row == {"two_ms": 40, "one_ms": one[3]}


def test_race_sees_the_slower_one():
    x = torch.randn(256, 256)
    quick, slow = race([lambda: x + 1, lambda: [x @ x for _ in range(20)]], repeats=3)
    assert max(quick) < min(slow)


def test_the_given_model_is_not_modified():
    model = randomize(tlc.resnet18(width=4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    names = list(activation_nodes(trace(model)))
    linear = tlc.linearize(model, names[:9], torch.randn(2, 3, 32, 32).double())
    frozen = {k: v.clone() for k, v in linear.state_dict().items()}
    tlc.merge(linear, torch.randn(1, 3, 32, 32), keep="all")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert all(torch.equal(v, linear.state_dict()[k]) for k, v in frozen.items())
    assert len(tlc.find_layers(model, torch.randn(1, 3, 32, 32))) == 17


def test_nothing_to_merge_is_no_mistake():
    for model in (nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Sequential(nn.Conv2d(3, 2, 3))):
        merged = tlc.merge(model.double().eval(), X, verbose=True)
        assert relative_error(merged(X), model(X)) < 1e-12 and merged.meta["merges"] == []


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="eval"):
        tlc.merge(tlc.resnet18(width=4), torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="keep"):
        tlc.merge(tlc.resnet18(width=4).eval(), torch.randn(1, 3, 32, 32), keep="some")


class Shared(nn.Module):
    """One convolution called twice: what belongs to one call must not change the other."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(F.relu(self.conv(x)))


def test_shared_weights_are_refused_by_name():
    with pytest.raises(ValueError, match="conv is called more than once"):
        tlc.linearize(Shared(), "relu1", torch.randn(2, 3, 8, 8))


def test_reflect_padding_is_left_alone():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    )
    linear = tlc.linearize(model.eval(), "1", torch.randn(4, 3, 8, 8), "affine")
    merged = tlc.merge(linear, torch.randn(1, 3, 8, 8), keep="all")
    x = torch.randn(2, 3, 8, 8)
    assert relative_error(merged(x), linear(x)) < 1e-5
    assert len([m for m in merged.modules() if isinstance(m, nn.Conv2d)]) == 2


def test_results_are_ordinary_modules():
    linear, _ = _collapsed("resnet18", "on_off_affine", 4, torch.float32)
    merged = tlc.merge(linear, torch.randn(1, 3, 32, 32), keep="all")
    x = torch.randn(2, 3, 32, 32)
    twin = copy.deepcopy(merged)
    twin.load_state_dict(merged.state_dict())
    assert torch.equal(twin(x), merged(x))
    exported = torch.export.export(merged, (x,)).module()
    assert relative_error(exported(x), merged(x)) < 1e-6


COST = """
import time, torch, torchvision, tlc_minimal as tlc
status = lambda key: next(int(l.split()[1]) for l in open("/proc/self/status") if key in l) * 1024
model = torchvision.models.resnet50(weights=None).eval()
x = torch.randn(1, 3, 224, 224)
with torch.no_grad():
    model(x)  # so that torch has loaded what it needs
size = sum(t.nbytes for t in model.state_dict().values())
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins here
before, start = status("VmRSS"), time.perf_counter()
tlc.find_layers(model, x), tlc.merge(model, x, keep="all")
print(time.perf_counter() - start, (status("VmHWM") - before) / size)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux tells its memory")
def test_the_tools_are_quick_and_small_on_a_resnet50():
    """3 s and 1.5 times the model's memory on a quiet machine; more is allowed on a busy one."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # free memory is given back
    done = subprocess.run(
        [sys.executable, "-c", COST], capture_output=True, text=True, env=environment
    )
    seconds, memory = map(float, done.stdout.split())
    assert seconds < 30 and memory < 1.8, done.stdout + done.stderr
