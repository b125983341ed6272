"""What cannot be done is refused by name, with the way out, and nothing is changed.

Wrong models, data and options one by one: tests/test_bad_inputs.py.
"""

import re

import pytest
import torch
import torch.nn.functional as F
from helpers import Net, digits, kept, perceptron, randomize, relative_error, same
from helpers import refused as said
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import tlc_minimal as tlc

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def chain(**options):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, **options), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(4, 4, 3, padding=1)).eval()


linear_of = lambda model: tlc.linearize(model, "2", X)
merged = lambda model: tlc.merge(model, X, keep="all")
BOTH = pytest.mark.parametrize("do", [linear_of, merged], ids=["linearize", "merge"])


def refused(do, model, *words):
    """``do(model)`` raises one sentence with these words and leaves the model as it was."""
    before, modes = kept(model), [module.training for module in model.modules()]
    with said(ValueError, "".join(f"(?=.*{re.escape(word)})" for word in words)):
        do(model)
    assert same(model, before) and modes == [module.training for module in model.modules()]


class Merging(nn.Linear):
    def train(self, mode=True):
        self.weight.data += 0.5 * (self.training - mode)  # as LoRA merges
        return super().train(mode)

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


def test_what_only_looks_at_a_model_does_not_call_its_eval():
    model = nn.Sequential(nn.Flatten(), Merging(192, 9), nn.ReLU(), nn.Linear(9, 10))
    taught = lambda m, d: tlc.fit(perceptron(), d, 0.1, teacher=m, progress=None)
    before, compared = kept(model), lambda m, d: tlc.compare({"m": m}, d, [1])
    for look in (tlc.find_layers, tlc.evaluate, tlc.rank, compared, taught):
        look(model, digits(40))
        assert same(model, before) and all(m.training for m in model.modules())


class Centred(nn.Conv2d):
    weight = property(lambda self: self.raw - self.raw.mean())


class Scaling(nn.Module):
    def forward(self, x):
        return F.dropout(x) if self.training else x.mul_(0.5)


def test_an_own_dropout_that_scales_and_a_computed_weight_are_no_plain_layers():
    model = nn.Sequential(Centred(3, 4, 1), Scaling(), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    model[0].raw = model[0]._parameters.pop("weight")
    assert relative_error(merged(model)(X), model(X)) < 1e-6
    linear = tlc.linearize(model, tlc.find_layers(model, X), X)
    assert same(linear, tlc.linearize(model, tlc.find_layers(model, X)[0], X))
    assert tlc.linearize(nn.Sequential(nn.ReLU()), "0", X)(X).shape == X.shape, "without weights"


def test_training_mode_and_batch_statistics_name_the_module_and_the_way_out():
    model = chain()
    refused(merged, model.train(), "training mode", "model.eval()")
    model.eval()[1].train()
    refused(merged, model, "1 is in training mode", "model.eval()")
    model = chain(track_running_stats=False)
    refused(merged, model, "1: ", "without running statistics", "give it running statistics")


@pytest.mark.parametrize("do", [lambda m: tlc.find_layers(m, X), merged])
def test_control_flow_that_depends_on_data_names_the_line(do):
    doubt = lambda net, x: x if net.conv(x).sum() > 0 else F.relu(net.conv(x))
    words = ("Net cannot be traced", "test_refusals.py, line", "torch.fx.wrap")
    refused(do, Net(doubt, conv=nn.Conv2d(3, 3, 1)).eval(), *words)


@BOTH
def test_a_parametrised_convolution_and_a_quantised_one_are_named(do):
    model = chain()
    weight_norm(model[0])
    refused(do, model.eval(), "0 carries a hook or a parametrization", "remove_parametrizations")
    quantized = pytest.importorskip("torch.ao.nn.quantized")
    with pytest.raises(ValueError, match="4 is quantised: give the float model"):
        do(chain().append(quantized.Conv2d(4, 4, 1)).eval())


PADS = {f"pads with {mode}": dict(kernel_size=3, padding=1, padding_mode=mode)
        for mode in ("reflect", "circular", "replicate")}  # fmt: skip
PADS["pads one side more than the other"] = dict(kernel_size=4, padding="same")


@pytest.mark.parametrize("words", PADS)
def test_other_paddings_are_left_alone_and_said_so(words):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, **PADS[words]), nn.BatchNorm2d(4), nn.ReLU()
    layers += nn.Conv2d(4, 4, **PADS[words]), nn.Conv2d(4, 2, 1)
    model, x = randomize(nn.Sequential(*layers)), X.double()
    for padding in ("first", "as_trained"):
        linear = tlc.linearize(model, "2", x, "affine", padding)
        small = tlc.merge(linear, x, keep="all")
        assert relative_error(small(x), linear(x)) < 1e-10
        assert not any(isinstance(m, nn.BatchNorm2d) for m in small.modules()), "norms fold"
        assert words in tlc.explain(linear, x)["what"]["3"]


def test_what_feeds_two_and_what_is_called_twice_is_left_alone_and_said_so():
    def fork(net, x):
        x = net.a(x)
        return net.b(x), {"c": net.c(x), "d": None}

    layers = {name: nn.Conv2d(3, 3, 1) for name in "abc"}
    small = merged(Net(fork, **layers).eval())  # and its outputs, whatever holds them, are compared
    assert isinstance(small.a, nn.Conv2d) and set(small(X)[1]) == {"c", "d"}
    table = tlc.explain(Net(fork, **layers).eval(), X)
    assert list(table.index) == ["a", "b", "c"] and (table["MACs"] == table["MACs merged"]).all()
    assert list(table["what"]) == ["", "a feeds b, c", "a feeds b, c"]
    twice = Net(lambda net, x: net.b(net.b(net.a(x))), a=layers["a"], b=layers["b"]).eval()
    assert relative_error(merged(twice)(X), twice(X)) < 1e-6
    assert tlc.explain(twice, X)["what"]["b"] == "b is called more than once"


def test_branches_that_meet_at_a_sum_and_stay_two_say_why():
    model, x = randomize(tlc.resnet18(width=4, stem="strong")), X.double()
    first, second, shortcut = (f"layer2.0.{n}" for n in ("conv1", "conv2", "shortcut.0"))
    what = tlc.explain(model, x)["what"]
    assert what[second] == f"{second} and {shortcut} meet at a sum, with different inputs"
    what = tlc.explain(model, x, "layer2.0.relu1", "affine")["what"]
    assert what[second] == "zeros are put between them"
    what = tlc.explain(model, x, "layer2.0.relu1", "affine", "first")["what"]
    assert what[first] == what[shortcut] == f"merged into {second}" and what[second] == ""
