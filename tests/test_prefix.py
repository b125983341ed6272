"""Many variants at the price of their differences: the same losses, half the work, one memory."""

import functools
import gc
import sys
import weakref
from dataclasses import replace

import pytest
import torch
import torchvision
from helpers import randomize
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import tlc_minimal as tlc
from tlc_minimal.graph import trace
from tlc_minimal.linearize import statistics_for
from tlc_minimal.modules import Affine
from tlc_minimal.nodes import activation_nodes
from tlc_minimal.prefix import equal, losses, share, side_by_side, unchanged
from tlc_minimal.rank import RULES


def with_validation(data, count):
    """``data`` with so many random validation images of 16 x 16 and random labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (count,), generator=generator)
    return replace(data, val=data.val._replace(images=images, labels=labels))


@pytest.fixture(scope="module")
def data():
    return with_validation(tlc.load_data("digits", size=16).subset(100), 520)  # two batches


@pytest.fixture(scope="module")
def small(data):
    return with_validation(data, 20)


class Excite(nn.Module):
    """Squeeze and excitation that scales in place, sizes read from the input, a buffer, F.relu."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2, 1)
        self.narrow, self.widen = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)
        self.last, self.fc = nn.Conv2d(6, 5, 3, 2, 1), nn.Linear(5 * 16, 10)
        self.register_buffer("offset", torch.randn(6, 1, 1))

    def forward(self, x, unused=None):
        count = x.size(0)
        x = torch.relu(self.conv(x)) + self.offset
        scale = self.widen(nn.functional.relu(self.narrow(x.mean((2, 3), keepdim=True))))
        x = x.addcmul_(x, scale)
        return self.fc(nn.functional.relu_(self.last(x)).reshape(count, -1))


def collapsed():
    """A ResNet after two removals: no longer what its class says, with a branch gone or thinner."""
    torch.manual_seed(0)
    model = randomize(tlc.resnet18(width=4), dtype=torch.float32)
    for name in ("layer2.0.relu1", "layer1.1.relu2"):
        model = tlc.linearize(model, name, torch.randn(8, 3, 16, 16))
    return model


MODELS = {
    "resnet18": lambda: tlc.resnet18(width=4),
    "simple_cnn": lambda: tlc.simple_cnn(width=4),
    "collapsed": collapsed,
    "torchvision": lambda: torchvision.models.resnet18(num_classes=10),
    "excite": Excite,
}


def build(name, dtype=torch.float32):
    torch.manual_seed(0)
    model = randomize(MODELS[name](), dtype=dtype)
    model.fc.weight.data *= 30  # what a random network says hardly depends on anything
    return model


def naive(model, data, replacement, names=None):
    """What the score is, by its definition: whole passes of whole models."""
    before, gaussians = tlc.evaluate(model, data).loss, statistics_for(replacement, model, data)
    return {
        n: tlc.evaluate(tlc.linearize(model, n, gaussians, replacement), data).loss - before
        for n in names or gaussians
    }


# --------------------------------------------------------- the same numbers


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("resnet18", "on_off_affine"),
        ("resnet18", "published"),
        ("resnet18", "affine"),
        ("simple_cnn", "on_off_affine"),
        ("simple_cnn", "on_off"),
        ("simple_cnn", "identity"),
        ("collapsed", "on_off_affine"),
        ("collapsed", "affine"),
        ("excite", "affine"),
        ("excite", "on_off_affine"),
    ],
)
def test_scores_are_those_of_whole_passes(name, replacement, data, small):
    model, data = build(name), data if name == "simple_cnn" else small
    want, got = naive(model, data, replacement), tlc.rank(model, data, "tlc", replacement)
    size = tlc.evaluate(model, data).loss
    assert set(got) == set(want) and len({round(v, 5) for v in want.values()}) > len(want) - 2
    assert all(got[n] == pytest.approx(want[n], abs=1e-6 * size) for n in want)


def test_scores_of_a_torchvision_model_in_double_precision(small):
    """Its sums are written in place (``out += identity``); a rule takes any names, in any order."""
    model, names = build("torchvision", torch.float64), ["layer4.0.relu1", "relu", "layer1.1.relu2"]
    want = naive(model, small, "on_off_affine", names)
    got = RULES["tlc"](model, small, names, "on_off_affine", 0)
    size = tlc.evaluate(model, small).loss
    assert list(got) == names
    assert all(got[n] == pytest.approx(want[n], abs=1e-6 * size) for n in names)


def test_equal_weights_under_other_paddings_are_not_confused(small):
    """With the rule "identity" the two ways to pad are the same weights: only padding differs."""
    model = build("simple_cnn")
    variants = [tlc.linearize(model, "relu3", {"relu3": g}, "identity", padding)
                for g in [tlc.statistics(model, small)["relu3"]]
                for padding in ("first", "as_trained")]  # fmt: skip
    want = [tlc.evaluate(m, small).loss for m in (model, *variants)]
    assert losses(side_by_side(model, variants), small) == pytest.approx(want, rel=1e-6)
    assert abs(want[1] - want[2]) > 1e-4 * want[1]


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (5, 3, 12, 20)])
def test_outputs_are_those_of_the_models_bit_for_bit(shape):
    model, x = build("torchvision"), torch.randn(shape)
    names = ["layer1.0.relu1", "layer2.1.relu2", "layer4.1.relu1"]
    variants = [tlc.linearize(model, n, x) for n in names]
    with torch.no_grad():
        want = [m.eval()(x) for m in (model, *variants)]
        got = side_by_side(model, variants)(x)
    assert len(got) == 4 and all(torch.equal(a, b) for a, b in zip(got, want))


def test_a_variant_that_is_no_variant_costs_nothing():
    model, x = build("simple_cnn"), torch.randn(2, 3, 16, 16)
    joint = side_by_side(model, [trace(model), trace(model)])
    assert all(torch.equal(out, model(x)) for out in joint(x))
    assert flops(joint, x) == flops(model, x)


# --------------------------------------------------------- what it costs


def flops(model, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(x)
    return counter.get_total_flops()


def test_ranking_17_layers_costs_about_half_of_17_passes(monkeypatch, small):
    """Counted where it is spent, in rank itself: all that it does after the statistics."""
    model, x = randomize(tlc.resnet18(width=8), dtype=torch.float32), small.normalize(small.val[0])
    one = flops(model, x)
    gaussians = tlc.statistics(model, small)
    module = sys.modules["tlc_minimal.rank"]  # tlc.rank is the function
    monkeypatch.setattr(module, "statistics_for", lambda rule, model, data: gaussians)
    with FlopCounterMode(display=False) as counter:
        assert len(tlc.rank(model.train(), small, "tlc")) == 17
    total = counter.get_total_flops()
    assert 0.1 * 17 * one < total <= 0.55 * 17 * one + one


def test_only_what_differs_is_kept(small):
    """No module twice, and the tensors of all others are gone at once, without garbage collection
    (a GraphModule and its graph refer to each other)."""
    model = randomize(tlc.resnet18(width=8), dtype=torch.float32)
    gaussians, made = tlc.statistics(model, small), []

    def candidates():
        for name in activation_nodes(trace(model)):
            variant = tlc.linearize(model, name, gaussians)
            made.extend(weakref.ref(p) for p in variant.parameters())
            yield variant

    gc.collect()
    gc.disable()
    try:
        joint = side_by_side(model, candidates())
        alive = {p().untyped_storage().data_ptr() for p in made if p() is not None}
    finally:
        gc.enable()
    kept = {p.untyped_storage().data_ptr(): p.numel() for p in joint.parameters()}
    assert alive <= set(kept)
    dense = {p.untyped_storage().data_ptr(): p.numel() for p in model.parameters()}
    assert len(made) > 900 and dense.keys() <= kept.keys()
    assert sum(kept.values()) <= 2 * sum(dense.values())
    for name, part in joint.named_modules():
        own, _, variant = name.rpartition("@")
        if variant.isdigit():
            assert not equal(part, dict(joint.named_modules()).get(own))


def test_nothing_is_kept_longer_than_needed():
    """A value goes when its last reader has run: side by side, the peak is that of two models."""
    model = randomize(tlc.resnet18(width=4, stem="strong"), dtype=torch.float32)
    x, names = torch.randn(4, 3, 16, 16), list(activation_nodes(trace(model)))
    joint = side_by_side(model, (tlc.linearize(model, n, x, "identity") for n in names))
    living, peak, seen = weakref.WeakValueDictionary(), [0], []

    def watch(module, inputs, output):
        living[id(output)] = output
        seen.append(module)
        peak[0] = max(peak[0], sum(t.numel() for t in living.values()))

    def highest(m):
        living.clear()
        peak[0] = 0
        hooks = [p.register_forward_hook(watch) for p in m.modules() if not list(p.children())]
        with torch.no_grad():
            m(x)
        for hook in hooks:
            hook.remove()
        return peak[0]

    assert highest(joint) <= 2 * highest(trace(model).eval()) and len(seen) > 300


# --------------------------------------------------------- what counts as the same


def test_modules_are_equal_if_type_settings_and_every_tensor_are():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, padding=1)

    def other(**settings):
        new = nn.Conv2d(3, 4, 3, **({"padding": 1} | settings))
        new.load_state_dict({k: v for k, v in conv.state_dict().items() if k in new.state_dict()})
        return new

    assert equal(conv, other())
    assert not equal(conv, other(padding=0)) and not equal(conv, other(padding_mode="circular"))
    assert not equal(conv, other(stride=2)) and not equal(conv, other(bias=False))
    assert not equal(conv, other().double()) and not equal(conv, other().eval())
    near = other()
    near.weight.data[0, 0, 0, 0] += 1e-6
    assert not equal(conv, near) and not equal(conv, nn.Linear(3, 4)) and not equal(conv, None)
    norm, moved = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    assert equal(norm, moved) and not equal(norm, nn.BatchNorm2d(4, eps=1e-3))
    moved.running_mean += 1
    assert not equal(norm, moved)
    shift = torch.ones(4)
    assert equal(Affine(None, shift), Affine(None, shift))
    assert not equal(Affine(None, shift), Affine(None, shift, dim=-1))
    assert equal(nn.Sequential(conv), nn.Sequential(other()))
    assert not equal(nn.Sequential(conv), nn.Sequential(other(padding=0)))


@pytest.mark.parametrize("name", ["resnet18", "collapsed"])
def test_the_same_is_what_does_not_depend_on_the_change(name):
    """Also in a GraphModule: its nodes are named as in trace(model), too."""
    base, removed = trace(build(name)).eval(), "layer3.0.relu1"
    variant = tlc.linearize(build(name), removed, torch.randn(8, 3, 16, 16), "affine").eval()
    share(variant, base)
    same, changed = unchanged(variant, base), set()
    for node in base.graph.nodes:  # the batch norm in front takes slope and shift
        if node.target == "layer3.0.bn1" or changed & set(node.all_input_nodes):
            changed.add(node)
    assert set(same.values()) == set(base.graph.nodes) - changed
    assert all(a.name == b.name and a.target == b.target for a, b in same.items())
    tensors = dict(variant.named_parameters())  # what comes later is not the same, but shared
    own = {k for k, v in base.named_parameters() if v is not tensors.get(k)}
    assert own == {"layer3.0.bn1.weight", "layer3.0.bn1.bias"}


def test_the_given_model_stays_as_it_was(small):
    model = build("collapsed").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    code = model.code
    tlc.rank(model, small, "tlc")
    assert model.training and all(m.training for m in model.modules()) and model.code == code
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert list(before) == list(model.state_dict())


def test_the_bars_advance_if_progress_is_wanted(small, capsys, monkeypatch):
    every = functools.partial(tqdm, mininterval=0)  # show every step, however fast
    for module in ("rank", "prefix"):
        monkeypatch.setattr(sys.modules[f"tlc_minimal.{module}"], "tqdm", every)
    tlc.rank(build("simple_cnn"), small, "tlc", progress=True)
    shown = capsys.readouterr().err
    assert "rank by tlc" in shown and "6/6" in shown and "1/1" in shown
    tlc.rank(build("simple_cnn"), small, "tlc")
    assert not capsys.readouterr().err
