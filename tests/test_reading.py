"""Whatever a network is written in, what is read is what it computes, in both modes."""

import copy
import math
import pickle
import warnings
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import Net, digits, kept, randomize, relative_error, same
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from torchvision.ops import FrozenBatchNorm2d

import tlc_minimal as tlc
from tlc_minimal.graph import activation_nodes, trace
from tlc_minimal.nodes import module_of
from tlc_minimal.reading.layers import NORM

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Subclass(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, eps=1e-3, momentum=0.01)


class NormAct(nn.BatchNorm2d):
    """As timm writes it: the norm is a function call, its activation a child."""

    def __init__(self, channels, mode=lambda norm: norm.training):
        super().__init__(channels)
        self.act, self.mode = nn.ReLU(), mode

    def forward(self, x):
        args = self.running_mean, self.running_var, self.weight, self.bias, self.mode(self)
        return self.act(F.batch_norm(x, *args, self.momentum, self.eps))


class Super(NormAct):
    def forward(self, x):
        return self.act(nn.BatchNorm2d.forward(self, x))


class Gain(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.gain = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, input):
        return super().forward(input) * self.gain


class ByHand(nn.Module):
    """A frozen batch norm with an epsilon of its own, as detection code has it."""

    def __init__(self, channels):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class OwnClass(ByHand):
    def forward(self, x):
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, self.training, 0.1, 1e-3)


class Held(nn.Sequential):
    def train(self, mode=True):
        return super().train(False)


def held(net, x):
    """Calls F.batch_norm with what its child holds."""
    bn = net.bn
    statistics, gain = (bn.running_mean, bn.running_var), (bn.weight, bn.bias)
    return F.relu(F.batch_norm(x, *statistics, *gain, net.training, 0.1, bn.eps))


def sequence(*norm):
    return randomize(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), *norm, nn.Conv2d(4, 2, 3)))


NORMS = {
    "subclass": lambda: (Subclass(4), nn.ReLU()), "function": lambda: (NormAct(4),),
    "branching": lambda: (NormAct(4, lambda n: True if n.training else n.running_mean is None),),
    "super": lambda: (Super(4),),
    "held by a child": lambda: (Net(held, bn=nn.BatchNorm2d(4)),),
    "SyncBatchNorm": lambda: (nn.SyncBatchNorm(4), nn.ReLU()),
    "FrozenBatchNorm2d": lambda: (FrozenBatchNorm2d(4), nn.ReLU()),
    "frozen by hand": lambda: (ByHand(4), nn.ReLU()),
    "a class of its own": lambda: (OwnClass(4), nn.ReLU()),
    "frozen in eval": lambda: (Held(nn.BatchNorm2d(4)), nn.ReLU()),
    "identity between": lambda: (nn.BatchNorm2d(4), nn.Identity(), nn.ReLU()),
    "dropout between": lambda: (nn.BatchNorm2d(4), nn.Dropout2d(0.5), nn.ReLU()),
}  # fmt: skip


@pytest.mark.parametrize("kind", NORMS)
def test_a_batch_norm_is_what_computes_one(kind):
    model = sequence(*NORMS[kind]())
    (layer,) = tlc.find_layers(model, X)
    assert layer.norm is not None and layer.channels == 4
    assert relative_error(trace(model)(X), model(X)) < 1e-12
    merged = tlc.merge(model, X, keep="all")
    kinds = [type(module_of(merged, n)) for n in merged.graph.nodes if n.op.startswith("call")]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert relative_error(merged(X), model(X)) < 1e-12
    model.train()  # reading changes nothing in this mode, either
    before, modes = kept(model), [m.training for m in model.modules()]
    for read in (tlc.find_layers, tlc.count, tlc.statistics, tlc.measured_statistics):
        read(model, X)
    tlc.latency({"m": model}, X, repeats=2)
    assert same(before, kept(model)) and modes == [m.training for m in model.modules()]
    traced = trace(model).train()  # in training it is the batch norm, too
    norm = traced.get_submodule(layer.norm)
    mean = norm.running_mean.clone()
    traced(X)
    assert torch.equal(mean, norm.running_mean) == ("frozen" in kind.lower())


def names_of(model):
    return list(activation_nodes(trace(model)))


def test_the_unmodified_resnet18_of_torchvision_has_17_layers():
    model = torchvision.models.resnet18(num_classes=7)
    layers = tlc.find_layers(model, torch.randn(1, 3, 32, 32))
    blocks = [f"layer{s}.{b}.relu{i}" for s in (1, 2, 3, 4) for b in (0, 1) for i in (1, 2)]
    assert [layer.name for layer in layers] == ["relu", *blocks]
    assert [layer.channels for layer in layers] == [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4
    assert [layer.after_sum for layer in layers] == [False] + [False, True] * 8
    assert layers[1].norm == "layer1.0.bn1" and layers[2].norm is None
    assert {layer.kind for layer in layers} == {"ReLU"}
    assert tlc.find_layers(tlc.resnet18(width=64), torch.randn(1, 3, 32, 32)) == layers, "ours, too"


def functional() -> Net:
    """Three functional activations in one forward, one in a child."""
    run = lambda net, x: net.child(F.relu(net.c(F.relu(net.b(F.relu(net.a(x)))))))
    child = Net(lambda net, x: net.b(F.relu(net.a(x))), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1))
    return Net(run, **{n: nn.Conv2d(3, 3, 1) for n in "abc"}, child=child)


def test_names_stay_what_they_were_after_removals():
    model = randomize(tlc.resnet18(width=4))
    before = names_of(model)
    once = tlc.linearize(model, "layer2.0.relu1", X, "affine")
    assert names_of(once) == [n for n in before if n != "layer2.0.relu1"]
    twice = tlc.linearize(once, "layer4.1.relu2", X, "affine")
    assert names_of(twice) == [n for n in names_of(once) if n != "layer4.1.relu2"]
    assert names_of(functional()) == ["relu1", "relu2", "relu3", "child.relu1"]
    left = tlc.linearize(functional().double(), "relu2", X, "affine")
    assert names_of(left) == ["relu1", "relu3", "child.relu1"]


def test_torchvision_as_built_is_read_and_left_as_it_is():
    model = torchvision.models.googlenet(num_classes=10, init_weights=False)
    before, x = kept(model), torch.randn(2, 3, 64, 64)
    tlc.find_layers(model, x)
    traced = trace(model)
    assert same(before, kept(model)) and model.training
    traced.eval()
    assert torch.equal(traced(x), traced(x))
    assert relative_error(traced(x), copy.deepcopy(model).eval()(x)) < 1e-5


class DropPath(nn.Module):
    def forward(self, x):
        return x * (torch.rand(len(x), 1, 1, 1) < 0.5) if self.training else x


Both = type("Both", (nn.Module,), {"forward": lambda m, x: F.dropout(F.relu(x), 0.5, m.training)})


def dropping(drop):
    run = lambda net, x: net.b(drop(net, F.relu(net.a(x))))
    layers = {"a": nn.Conv2d(3, 8, 3), "path": DropPath(), "b": nn.Conv2d(8, 4, 3)}
    layers |= {"two": Net(lambda n, x: n.drop(F.relu(x)), drop=nn.Dropout()), "one": Both()}
    return Net(run, **layers, depth=torchvision.ops.StochasticDepth(0.5, "row"))


DROPS = {
    "F.dropout": lambda m, x: F.dropout(x, 0.5, m.training),
    "by keyword": lambda m, x: F.dropout2d(x, p=0.5, training=m.training),
    "alpha": lambda m, x: F.alpha_dropout(x, 0.5, m.training),
    "a module that asks": lambda m, x: m.path(x),
    "torchvision": lambda m, x: m.depth(x),
    "beside an activation": lambda m, x: m.two(x),
    "in one forward with it": lambda m, x: m.one(x),
}


@pytest.mark.parametrize("kind", DROPS)
@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_that_of_the_moment_not_of_the_tracing(kind, mode):
    x = X.float()
    model = dropping(DROPS[kind]).train(mode)
    layers = tlc.find_layers(model, x)
    assert len(layers) == 1 + ("with" in kind or "beside" in kind)
    linear = tlc.linearize(model, layers[0].name, x, "affine")
    assert torch.equal(linear.eval()(x), linear(x))
    draws = [linear.train()(x) for _ in range(12)]  # two may be the same by chance
    assert any(not torch.equal(draw, draws[0]) for draw in draws)


def test_a_dropout_in_place_changes_what_is_read_later(recwarn):
    run = lambda net, y: F.dropout(y, 0.5, net.training, inplace=True) + y
    model, x = Net(lambda net, x: run(net, net.a(x)), a=nn.Conv2d(3, 4, 1)).train(), X.float()
    both = [[torch.manual_seed(1), network(x)][1] for network in (model, trace(model))]
    assert torch.equal(*both) and not recwarn.list
    encoder = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    tlc.count(encoder, torch.zeros(2, 5, 8))
    assert "neither its activations nor its layers are seen" in str(recwarn.list[0].message)


def test_who_asks_for_the_mode_by_any_word_is_told():
    for ask in (lambda t: (0, 1)[t], lambda t: t > 0, lambda t: t ^ False, lambda t: True & t):
        with pytest.warns(UserWarning, match="branches on its mode"):
            trace(Net(lambda net, x, ask=ask: F.dropout(x, 0.5 * ask(net.training))))
    own = {"forward": lambda self, x: self.a(x) if self.training is True else x}
    with pytest.warns(UserWarning, match="branches on its mode"):
        trace(type("Own", (Net,), own)(None, a=nn.ReLU()))


class Optional(Net):
    def forward(self, x, mask=None, features: bool = False, **kwargs):
        y = F.relu(self.a(x)) if mask is None else mask
        return y if features else self.b(y)


def test_optional_arguments_have_their_defaults():
    model = Optional(None, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 2, 1)).double().eval()
    (layer,) = tlc.find_layers(model, X)
    assert tlc.count(model, X)["activations"] == 1 == len(tlc.statistics(model, X))
    linear = tlc.linearize(model, layer.name, X, "affine").eval()
    merged = tlc.merge(linear, X, keep="all")
    other = torch.randn(7, 3, 8, 8, dtype=torch.float64)  # more than the example has
    assert relative_error(merged(x=other), linear(other)) < 1e-10


# ---- what a forward asks of shapes, and does to tensors ----


def checked(net, x):
    y = net.relu(net.a(x))
    batch, channels, *size = y.shape
    assert channels == net.a.out_channels and len(size) == 2 and y.dim() == 4
    if y.device != net.a.weight.device:
        raise ValueError("another device")
    with torch.autocast(y.device.type, enabled=False):  # as attention has it
        return net.b(y.reshape(batch, channels, -1).view(batch, channels, *size))


def looped(net, x):
    y = net.relu(net.a(x))
    total = torch.zeros(y.shape[0], y.shape[1], 3, y.shape[3], dtype=y.dtype)
    for row in range(y.shape[2] - 2):
        total = total + y[:, :, row : row + 3]
    return net.b(F.pad(total, (0, 4 - y.shape[-1] % 4)) if y.shape[-1] % 4 else total)


def in_place(net, x):
    y = net.a(x)
    skip, size = y, y.shape[2]
    y += 1
    y.clamp_(min=-0.5)
    F.leaky_relu_(y, 0.3)
    net.hard(y)
    y /= 2
    size += 1
    return net.b(y + skip) * size * y.shape[2]


class Minus(torch.autograd.Function):
    forward, backward = staticmethod(lambda ctx, x: x.view_as(x)), staticmethod(lambda ctx, g: -g)


def numbers(net, x):
    height, width = (x - net.mean).shape[2:]  # a plain tensor
    net.b(net.a(x)) / torch.sqrt(torch.tensor(x.shape[1]))
    size = int(math.sqrt(height * width) * 0.5), sum(divmod(height, 3)) - round(width / 3)
    return F.interpolate(net.b(net.relu(net.a(x))), size=size)


Caching = type("Caching", (Net,), {"cache": {}})
with warnings.catch_warnings(action="ignore"):
    APPLY, COMPILED = Minus.apply, torch.jit.trace(lambda x: x * x.sigmoid(), X)


Helped = type("Helped", (nn.Conv2d,), {"fan": property(lambda self: self.in_channels)})
Swish = type("Swish", (nn.Module,), {"gain": 2.0, "forward": lambda self, x: x * x.sigmoid()})
FORWARDS = {
    "helpers": lambda n, x: n.b(n.swish(n.a(x) / n.a.fan * isinstance(n.a, Helped)) * n.swish.gain),
    "out": torch.no_grad()(lambda n, x: [y := n.a(x), torch.clamp(y, min=0, out=y), n.b(y)][-1]),
    "compiled": lambda n, x: n.b(COMPILED(n.a(x))),
    "a gradient of its own": lambda n, x: n.b(n.relu(APPLY(n.a(x)) + Minus.apply(n.a(x)) / 3)),
    "checkpointed": lambda n, x: n.b(checkpoint(n.relu, n.a(x), use_reentrant=True)),
    "numbers": numbers, "checked": checked, "looped and padded": looped,
    "a part": lambda n, x: n.both[1:](n.both[:1](x)),
    "remembers": lambda n, x: n.b(n.relu(n.a(x)) * n.cache.setdefault(1, x.new_ones(6, 6))),
    "in place": in_place,
    "asks what its input is": lambda n, x: n.b(n.relu(n.a(x)) if torch.is_tensor(x) else n.a(x)),
    "options by position": lambda n, x: n.b(F.softplus(n.a(x), 3.0) + F.elu_(n.a(x), 0.3)),
    "inputs by name": lambda n, x: n.b(n.relu(input=n.code(input=n.a(input=x)))),
    "a gate": lambda n, x: n.b(F.relu(n.a(x)) * F.relu(n.gate * n.graph)),
    "classes": lambda n, x: n.b(n.a(x)).argmax(1),
    "masked": lambda n, x: n.b(n.a(x)).tril().masked_fill(n.gate > 0, float("-inf")),
}  # fmt: skip
REFUSED = {  # by these words
    "the forward writes into seen": lambda n, x: [n.seen.add_(1), n.b(n.a(x) * n.seen)][-1],
    "works in place on a view": lambda n, x: [y := n.a(x), y.unsqueeze(0).add_(1), n.b(y)][-1],
    "in place on a view": lambda n, x: [y := n.a(x), z := F.relu_(y.double()), n.b(y + z)][-1],
    "compare self.training": lambda n, x: n.b(n.a(x) if n.training is False else n.relu(n.a(x))),
    "or branches on it": lambda n, x: n.b(n.a(x) if x.shape[0] == 1 else n.relu(n.a(x))),
    "a number of the batch size": lambda n, x: torch.stack([n.b(n.a(v[None]))[0] for v in x]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDS | REFUSED)
def test_a_graph_computes_what_the_model_computes_or_is_refused(name):
    layers = {"code": Gain(4), "relu": nn.ReLU(), "hard": nn.Hardsigmoid(inplace=True)}
    a, b, layers["swish"] = Helped(3, 4, 3), nn.Conv2d(4, 2, 3), Swish()
    layers["both"] = nn.Sequential(a, nn.ReLU(), b)
    net = Caching((FORWARDS | REFUSED)[name], a=a, b=b, **layers)
    net.gate, net.graph, net.mean = (*map(nn.Parameter, torch.ones(2, 1)), torch.zeros(3, 1, 1))
    net.register_buffer("seen", torch.ones(1))
    net.double().eval()
    if name in REFUSED:
        for example in (DataLoader(TensorDataset(X, X), 4, shuffle=True), X):
            with pytest.raises(ValueError, match=name):
                tlc.merge(net, example, keep="all")
        return
    merged = tlc.merge(net, X, keep="all")
    other = {"options by position": [4, 4], "classes": [], "masked": []}
    assert [layer.channels for layer in tlc.find_layers(net, X)] == other.get(name, [4])
    again = copy.deepcopy(pickle.loads(pickle.dumps(merged)))
    with torch.no_grad():
        for batch in (X, X[:1]):
            torch.testing.assert_close(merged(batch), net(batch), rtol=1e-12, atol=1e-12)
            assert torch.equal(again(batch), merged(batch))
    if name not in ("in place", "classes", "out"):
        slope = lambda m: [m.zero_grad(), m(X).sum().backward(), m.a.weight.grad.clone()][-1]
        torch.testing.assert_close(slope(net), slope(trace(net, example=[X])))


SIZED = [lambda net, x: net.a(F.avg_pool2d(x, 2) if x.shape[-1] > 16 else x)]
SIZED += [lambda net, x: net.a(F.pad(x, (0, -x.shape[3] % 4)) if x.shape[3] % 4 else x)]
SIZED += [lambda net, x: F.interpolate(net.a(x), size=(int(x.shape[2] * 1.5), 9))]
SIZED += [lambda net, x: net.a(x if x.shape[3] > 4 else F.interpolate(x, size=(8, 8)))]
SIZED += [lambda net, x: sum(net.a(x[:, :, t]) for t in range(x.shape[2]))]


@pytest.mark.parametrize("run", SIZED)
def test_a_copy_of_one_size_of_images_says_so(run):
    layer = nn.Conv1d(3, 4, 3) if run is SIZED[-1] else nn.Conv2d(3, 4, 3)
    model = Net(run, a=layer).double().eval()
    with warnings.catch_warnings(action="default", record=True) as seen:
        tlc.find_layers(model, X)
        tlc.merge(model, X)  # once a line, and not only the first one who asks
    assert [w.filename for w in seen] == [__file__] * 2
    assert all("for inputs of (3, 8, 8) only" in str(w.message) for w in seen)
    fixed = lambda net, x: run(net, x if x.shape[1:] == (3, 8, 8) else None)  # it takes no other
    with warnings.catch_warnings(action="error"):
        tlc.merge(Net(fixed, a=layer).double().eval(), X, "all")


def placed(net, x):
    """Asks a layer's weight where it lies and of what type it is, as position encodings do."""
    weight = net.p.weight
    place = torch.zeros(1, 4, *x.shape[2:], device=weight.device).cumsum(2) + 1
    return net.b(F.relu(net.n(net.a(x.to(dtype=weight.dtype)) + net.p(place.to(weight.dtype)))))


def test_a_weight_may_be_asked_where_it_lies():
    net = Net(placed, a=nn.Conv2d(3, 4, 1), p=nn.Conv2d(4, 4, 1), n=nn.BatchNorm2d(4),
              b=nn.Conv2d(4, 2, 1))  # fmt: skip
    merged = tlc.merge(randomize(net), X, keep="all")
    assert merged.state_dict().keys() <= net.state_dict().keys() | {"a.bias", "p.bias", "b.bias"}
    assert not any(isinstance(m, NORM) for m in merged.modules())
    assert relative_error(merged(X), net(X)) < 1e-12
    assert relative_error(merged.float()(X), net(X).float()) < 1e-5  # the answer follows


@dataclass
class Out:
    """An output with names."""

    logits: torch.Tensor
    features: torch.Tensor | None = None


@dataclass
class Named(Out, dict):
    """One as transformers has it."""

    def __post_init__(self):
        self["logits"] = self.logits


@pytest.mark.parametrize("kind", [Out, Named])
def test_an_output_keeps_its_class(kind):
    net = Net(lambda net, x: kind(net.b(F.relu(net.n(net.a(x))))), a=nn.Conv2d(3, 4, 1),
              n=nn.BatchNorm2d(4), b=nn.Conv2d(4, 2, 1))  # fmt: skip
    linear = tlc.linearize(randomize(net), "relu1", X)
    merged = tlc.merge(linear, X, keep="all")
    again = pickle.loads(pickle.dumps(merged))
    assert type(merged(x=X)) is type(again(X)) is kind and merged(X).features is None
    assert relative_error(merged(X).logits, linear(X).logits) < 1e-12


class Asserts(nn.Sequential):
    """Asks for the shape before every layer, as timm's batch norms do; and has two forwards."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.forward = self.asking

    def asking(self, x):
        for layer in self:
            torch._assert(x.ndim == 4, f"expected 4D input, not {x.ndim}D")
            x = layer(x)
        return x


def test_what_somebody_traced_may_name_the_inputs_of_its_layers():
    net = Net(lambda net, x: net.b(F.relu(net.a(input=x))), a=nn.Conv2d(3, 4, 1), b=nn.ReLU())
    traced = torch.fx.symbolic_trace(net.double())
    assert [layer.name for layer in tlc.find_layers(traced, X)] == ["relu1", "b"]
    with pytest.raises(ValueError, match="an example is a batch, not one of .3, 8, 8."):
        tlc.find_layers(traced, X[0])


def test_a_question_about_the_shape_and_a_choice_of_forwards_are_in_nobodys_way():
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)
    model = randomize(nn.Sequential(Asserts(*layers)))
    half = tlc.Gaussian(torch.tensor([-1.0, 1, -1, 1]).double(), torch.ones(4).double())
    linear = tlc.linearize(model, "0.2", {"0.2": half}, "on_off")
    found = linear.get_submodule("0")
    assert getattr(found, "0").out_channels == getattr(found, "3").in_channels == 2
    assert relative_error(tlc.merge(model, X, keep="all")(X), model(X)) < 1e-12


def test_the_name_of_a_call_is_nobody_elses_and_what_is_in_lists_of_blocks_is_read():
    blocks = nn.ModuleList([sequence(*NORMS["function"]())[:2]])
    net = Net(lambda net, x: (net.blocks[0](x), net.heads["a"](x)), blocks=blocks,
              heads=nn.ModuleDict({"a": dropping(DROPS["F.dropout"])}))  # fmt: skip
    names = [layer.name for layer in tlc.find_layers(net.double(), X)]
    assert names == ["blocks.0.1.act", "heads.a.relu1"]
    run = lambda net, x: net.b(net.relu(net.relu1(net.relu(x))))  # a container of a call's name
    model = Net(run, relu=nn.ReLU(), relu1=nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()),
                b=nn.Conv2d(4, 2, 1)).double().eval()  # fmt: skip
    assert [layer.name for layer in tlc.find_layers(model, X)] == ["relu2", "relu1.1", "relu3"]
    assert torch.equal(trace(model)(X), model(X))
    model.relu1 = Net(lambda net, x: F.relu(x))  # calls functions only: the grammar found it
    model.b = nn.Conv2d(3, 3, 1).double()
    assert [layer.name for layer in tlc.find_layers(model, X)] == ["relu2", "relu1.relu1", "relu3"]
    linear = tlc.linearize(model, "relu2", X, "identity")
    assert [layer.name for layer in tlc.find_layers(linear, X)] == ["relu1.relu1", "relu3"]


def test_functions_of_parameters_that_a_module_of_any_kind_holds_are_layers():
    conv = lambda net, x: F.conv2d(x, net.w1, net.b1, 2, padding=1)
    run = lambda net, x: F.linear(F.relu(net.norm(conv(net, x))).mean((2, 3)), net.w2)
    model = Net(run, norm=nn.BatchNorm2d(4))
    for name, shape in {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (2, 4)}.items():
        model.register_parameter(name, nn.Parameter(torch.randn(shape)))
    model = randomize(model)
    assert tlc.count(model, X)["layers"] == 2
    merged = tlc.merge(model, X, keep="all")
    assert not any(isinstance(m, NORM) for m in merged.modules())
    assert relative_error(merged(X), model(X)) < 1e-12
    half = tlc.Gaussian(torch.tensor([1.0, -1, 1, -1]), torch.ones(4))
    name = tlc.find_layers(model, X)[0].name
    assert tlc.count(tlc.linearize(model, name, {name: half}), X)["params"] == 3 * 27 // 3 * 2 + 12


def test_what_was_frozen_or_under_no_grad_learns_nothing():
    frozen = torch.no_grad()(lambda net, x: F.relu(net.a(x)))
    run = lambda net, x: net.c(F.relu(net.b(frozen(net, x))))
    layers = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(4, 4, 1), "c": nn.Conv2d(4, 2, 1)}
    model = Net(run, **layers).double().eval()
    model.b.requires_grad_(False)
    linear = tlc.linearize(model, "relu2", X)
    for copied in (linear, pickle.loads(pickle.dumps(linear))):
        copied(X).sum().backward()
        learnt = [n for n, p in copied.named_parameters() if p.grad is not None]
        assert learnt[-2:] == ["c.weight", "c.bias"]
        assert copied.a.weight.grad is None and copied.b.weight.grad is None


ACTIVATIONS = [nn.Mish(), nn.ELU(0.7), nn.SELU(), nn.Tanh(), nn.Softplus(), nn.Hardtanh()]
ACTIVATIONS += [nn.PReLU(), nn.PReLU(4), Net(lambda net, x: x.mul_(x.sigmoid())),
                Net(lambda net, x: x * torch.sigmoid(1.702 * x))]  # by hand  # fmt: skip
ReluThatIsNone = type("ReluThatIsNone", (nn.ReLU,), {"forward": lambda self, x: F.relu(x - 1.0)})
ACTIVATIONS += [ReluThatIsNone()]


@pytest.mark.parametrize("act", ACTIVATIONS, ids=str)
def test_any_elementwise_activation_has_its_best_line(act):
    if isinstance(act, nn.PReLU):
        nn.init.uniform_(act.weight, -0.5, 0.9)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Conv2d(4, 2, 1)).double().eval()
    g = tlc.Gaussian(torch.linspace(-1, 2, 4), torch.linspace(0.5, 2, 4))
    linear = tlc.linearize(model, "1", {"1": g}, "affine")
    z = g.mean + g.std * torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0))
    f = act(z.double()).detach()  # channels are axis 1, for a PReLU too
    z = z.double() - z.double().mean(0)
    slope = (z * f).mean(0) / z.square().mean(0)
    want = model[2]((model[0](X) - g.mean.double()[:, None, None]) * slope[:, None, None]
                    + f.mean(0)[:, None, None])  # fmt: skip
    assert relative_error(linear(X), want) < 0.02
    assert tlc.count(model, X)["activations"] == 1


QUICK = lambda x: x * torch.sigmoid(1.702 * x)
INLINE = {  # written where it is used, in as many ways as people do
    "SiLU": [lambda x: x * torch.sigmoid(x), lambda x: x.sigmoid().mul(x), F.silu],
    "ReLU": [lambda x: torch.where(x > 0, x, 0.0), lambda x: torch.max(x, torch.tensor(0.0)),
             lambda x: x * (x > 0).float(), lambda x: (x + x.abs()) / 2, F.relu, torch.relu,
             lambda x: F.relu(input=x), lambda x: x.relu(), lambda x: x.clamp(min=0),
             lambda x: F.threshold(x, 0, 0), lambda x: 2 * x + F.relu(x) + x,
             # in place, and the input is read again
             lambda x: x.relu_() + x, lambda x: F.relu(x, inplace=True) + x,
             lambda x: F.relu(x, True) - 2 * x, lambda x: torch.relu_(x) * x,
             lambda x: x.clamp_min_(0) + x],
    "ReLU6": [lambda x: F.relu6(5 * x)],
    "Hardswish": [lambda x: x * F.relu6(x + 3) / 6, lambda x: x * F.hardsigmoid(x), F.hardswish],
    "Mish": [lambda x: x * torch.tanh(F.softplus(x))], "QuickGELU": [QUICK],
    "GELU": [lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
             lambda x: F.gelu(x, approximate="tanh")],
    "LeakyReLU": [lambda x: torch.maximum(0.1 * x, x), lambda x: F.leaky_relu(x, 0.3),
                  lambda x: F.leaky_relu(x, negative_slope=0.3)], "PReLU": [4, ()],
    None: [lambda x: x * torch.sigmoid(x.detach()), lambda x: x * x.softmax(1),
           lambda x: x.clamp(0, 65504) * 1, lambda x: x * (x > 0.05), lambda x: x.clamp(1e-6) * 1],
}  # fmt: skip


@pytest.mark.parametrize("kind", INLINE)
@torch.no_grad()
def test_an_activation_is_what_its_operations_compute(kind):
    for f in INLINE[kind]:
        run = lambda net, x, f=f: net.b(f(net.a(x)) if callable(f) else F.prelu(net.a(x), net.s))
        net = Net(run, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 2, 1)).double()
        net.s = nn.Parameter(torch.rand(1 if callable(f) else f, dtype=torch.float64))
        kinds = [layer.kind for layer in tlc.find_layers(net, X)]
        assert kinds == [kind][: kind is not None]
        assert relative_error(trace(net)(X), net(X)) < 1e-7


BEHIND = [  # each does nothing to what comes out of a rectifier
    lambda x: x.abs(), lambda x: x * 1.0, lambda x: (x.abs() + 1e-10).sqrt(),
    lambda x: x.square().sqrt(), lambda x: x.sign() * (x.abs() + 1e-10).sqrt(),
]  # fmt: skip


@pytest.mark.parametrize("f", BEHIND)
@torch.no_grad()
def test_what_follows_an_activation_is_no_part_of_it(f):
    layers = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(4, 2, 1)}
    net = Net(lambda n, x: n.b(f(n.act(n.a(x)))), act=nn.ReLU(), **layers)
    assert [layer.name for layer in tlc.find_layers(net, X.float())] == ["act"]
    linear = tlc.linearize(net, "act", X.float(), "identity")
    assert relative_error(linear(X.float()), net.b(f(net.a(X.float())))) < 1e-5
    net.run = lambda n, x: n.b(F.relu(QUICK(n.a(x))) * 1.0)
    assert [layer.kind for layer in tlc.find_layers(net, X.float())] == ["QuickGELU", "ReLU"]


def test_a_network_that_amplifies_is_compared_with_its_own_rounding():
    layers = []
    for _ in range(12):  # each doubles what rounding does, and keeps the size
        layers += [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()]
    model = nn.Sequential(*layers).eval()
    for norm in model[1::3]:
        norm.running_mean.fill_(300.0)
        norm.bias.data.fill_(300.0)
    merged = tlc.merge(model, torch.randn(4, 64), keep="all")
    assert not any(isinstance(m, nn.BatchNorm1d) for m in merged.modules())


def test_a_model_that_is_random_in_eval_mode_is_merged_and_told():
    run = lambda net, x: net.b(F.dropout(F.relu(net.n(net.a(x))), 0.5, len(x.shape) > 3))
    net = Net(run, a=nn.Conv2d(3, 4, 3), n=nn.BatchNorm2d(4), b=nn.Conv2d(4, 2, 1))
    with warnings.catch_warnings(action="error"):
        merged = tlc.merge(randomize(net), X, keep="all")  # the same dice: equal
        state, *_ = torch.get_rng_state(), tlc.count(net, X), tlc.measured_statistics(net, X)
        assert torch.equal(state, torch.get_rng_state())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in merged.modules())


@pytest.mark.parametrize("kind", ["convolution", "matrix", "head first"])
def test_grey_images_have_one_channel_for_a_network_of_one(kind):
    data, ends = digits(60), (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), *ends]
    if kind == "matrix":
        layers = [nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10)]
    model = nn.Sequential(*layers)
    if kind == "head first":
        run = lambda net, x: net.head(net.r(net.a(x)).mean((2, 3)))
        model = Net(run, head=nn.Linear(4, 10), a=nn.Conv2d(1, 4, 3), r=nn.ReLU())
    losses = tlc.fit(model, data, 2, progress=None)
    assert len(losses) == 2 and tlc.find_layers(model, data) and tlc.statistics(model, data)
    run = tlc.collapse(model, data, 1, 1, progress=False)
    table = tlc.compare({"dense": model, "small": run.model}, data, (1,))
    assert table.notna().all(axis=None)
