"""Activations are found in the graph, whatever they are called; the traced model is the model."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import Net, kept, randomize, same
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.graph import activation_nodes, find_node, trace

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def names(model):
    return list(activation_nodes(trace(model)))


def around(between) -> Net:
    """conv → ``between`` → conv, to try out ways of writing an activation."""
    ends = {name: nn.Conv2d(n, 4, 3, padding=1) for name, n in (("first", 3), ("last", 4))}
    run = lambda net, x: net.last(between(net, net.first(x)))
    return Net(run, **ends, relu=nn.ReLU(inplace=True))


# Each of these has exactly one activation; the later ones use its input again afterwards.
WAYS = {
    "module": lambda net, z: net.relu(z), "F.relu": lambda net, z: F.relu(z),
    "F.relu by keyword": lambda net, z: F.relu(input=z), "torch.relu": lambda net, z: torch.relu(z),
    "method": lambda net, z: z.relu(), "relu_ method": lambda net, z: z.relu_() + z,
    "F.relu in place": lambda net, z: F.relu(z, inplace=True) + z,
    "F.relu in place, positional": lambda net, z: F.relu(z, True) - 2 * z,
    "torch.relu_": lambda net, z: torch.relu_(z) * z, "relu6": lambda net, z: F.relu6(5 * z),
    "module in place, input used later": lambda net, z: net.relu(z) + 3 * z,
    "input used before": lambda net, z: (2 * z) + F.relu(z) + z,
    "clamp": lambda net, z: z.clamp(min=0), "in place": lambda net, z: z.clamp_min_(0) + z,
    "leaky": lambda net, z: F.leaky_relu(z, negative_slope=0.3),
    "leaky, positional": lambda net, z: F.leaky_relu(z, 0.3),
    "gelu": lambda net, z: F.gelu(z, approximate="tanh"), "silu": lambda net, z: F.silu(z),
    "hardswish": lambda net, z: F.hardswish(z), "threshold": lambda net, z: F.threshold(z, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_an_activation_is_found_and_kept(way):
    torch.manual_seed(0)
    model = around(WAYS[way])
    traced = trace(model)
    assert len(activation_nodes(traced)) == 1
    torch.testing.assert_close(traced(X), model(X), rtol=1e-6, atol=1e-7)


def resnet_of_torchvision():
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [2] * 4, num_classes=7)


def test_the_unmodified_resnet18_of_torchvision_has_17_layers():
    model = randomize(resnet_of_torchvision(), dtype=torch.float32)
    layers = tlc.find_layers(model, torch.randn(1, 3, 32, 32))
    blocks = [f"layer{s}.{b}.relu{i}" for s in (1, 2, 3, 4) for b in (0, 1) for i in (1, 2)]
    assert [layer.name for layer in layers] == ["relu", *blocks]
    assert [layer.channels for layer in layers] == [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4
    assert [layer.after_sum for layer in layers] == [False] + [False, True] * 8
    assert layers[1].norm == "layer1.0.bn1" and layers[2].norm is None
    assert {layer.kind for layer in layers} == {"ReLU"}
    assert tlc.find_layers(tlc.resnet18(width=64), torch.randn(1, 3, 32, 32)) == layers, "ours, too"
    assert torch.equal(trace(model)(X), model(X))


def functional() -> Net:
    """Three functional activations in one forward, one in a child."""
    run = lambda net, x: net.child(F.relu(net.c(F.relu(net.b(F.relu(net.a(x)))))))
    return Net(run, **{n: nn.Conv2d(3, 3, 1) for n in "abc"}, child=around(WAYS["F.relu"]))


def test_names_stay_what_they_were_after_removals():
    model = randomize(tlc.resnet18(width=4), dtype=torch.float32)
    before = names(model)
    once = tlc.linearize(model, "layer2.0.relu1", X, "affine")
    assert names(once) == [n for n in before if n != "layer2.0.relu1"]
    twice = tlc.linearize(once, "layer4.1.relu2", X, "affine")
    assert names(twice) == [n for n in names(once) if n != "layer4.1.relu2"]
    assert names(functional()) == ["relu1", "relu2", "relu3", "child.relu1"]
    left = tlc.linearize(functional(), "relu2", X, "affine")
    assert names(left) == ["relu1", "relu3", "child.relu1"]


def test_an_unknown_layer_suggests_the_closest():
    with pytest.raises(ValueError, match="did you mean 'layer3.0.relu1'"):
        find_node(trace(tlc.resnet18(width=4)), "layer3.0.rel1")
    with pytest.raises(ValueError, match="there are: 1"):
        find_node(trace(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())), "zzz")


def test_the_given_model_is_never_modified():
    model = functional().train()
    model.child.eval()
    modules = {n: (type(m), m.training) for n, m in model.named_modules()}
    before, traced = kept(model), trace(model)
    tlc.find_layers(model, X)
    for parameter in traced.parameters():
        parameter.data.zero_()
    assert {n: (type(m), m.training) for n, m in model.named_modules()} == modules
    assert same(model, before)
