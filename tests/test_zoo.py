"""torchvision's networks as they are: every activation is found, linear is right, merged is equal.

Weights and BN statistics are random, the statistics of the activations too (so that ON and OFF
occur in every layer). Which activations go, and by which rule, is drawn with the network's name;
how many is bounded, because merged kernels grow with every merge. VGG, MobileNetV2 and ViT are
built narrower: what is read and merged is the same, and a gigabyte of weights proves nothing more.
"""

import copy
import random
import zlib
from collections import Counter

import pytest
import torch
import torchvision
from helpers import randomize, relative_error
from test_grammar import by_hand, draw_gaussian
from torch import nn
from torchvision.models import vgg

import tlc_minimal as tlc
from tlc_minimal.graph import trace
from tlc_minimal.linearize import RULES

# name: (activations that run in eval mode, sizes of the images, at most so many activations go)
ZOO = {
    "resnet18": ({"ReLU": 17}, (32, 45), 8), "resnet34": ({"ReLU": 33}, (33, 48), 6),
    "resnet50": ({"ReLU": 49}, (32, 45), 6), "wide_resnet50_2": ({"ReLU": 49}, (33, 40), 4),
    "resnext50_32x4d": ({"ReLU": 49}, (32, 45), 6), "vgg11_bn": ({"ReLU": 10}, (33, 48), 4),
    "vgg16_bn": ({"ReLU": 15}, (32, 45), 4), "vgg16": ({"ReLU": 15}, (33, 48), 4),
    "mobilenet_v2": ({"ReLU6": 35}, (32, 45), 12), "mnasnet1_0": ({"ReLU": 35}, (33, 48), 12),
    "regnet_x_400mf": ({"ReLU": 67}, (32, 45), 16), "regnet_y_400mf": ({"ReLU": 65}, (33, 48), 16),
    "densenet121": ({"ReLU": 121}, (32, 45), 30), "googlenet": ({"ReLU": 57}, (33, 48), 57),
    "squeezenet1_1": ({"ReLU": 26}, (32, 45), 26), "efficientnet_b0": ({"SiLU": 49}, (33, 48), 12),
    "mobilenet_v3_small": ({"Hardswish": 19, "ReLU": 14}, (32, 45), 33),
    "convnext_tiny": ({"GELU": 18}, (32, 45), 9), "vit_b_16": ({"GELU": 12}, (64,), 3),
}  # fmt: skip
IN_FLOAT32_TOO = {"resnet18", "mobilenet_v2", "regnet_y_400mf", "squeezenet1_1"}
LARGE = 2000  # layers of more channels are not drawn: merging them is minutes of matrix products


def narrow_vgg(name: str) -> nn.Module:
    channels = vgg.cfgs["A" if "11" in name else "D"]
    few = [n if n == "M" else n // 4 for n in channels]
    model = vgg.VGG(vgg.make_layers(few, name.endswith("bn")), 10)
    model.classifier[0], model.classifier[3] = nn.Linear(128 * 49, 64), nn.Linear(64, 48)
    model.classifier[6] = nn.Linear(48, 10)
    return model


def build(name: str) -> nn.Module:
    """The network as torchvision has it, ten classes, everything random, float64."""
    options = {"googlenet": {"init_weights": False}, "mobilenet_v2": {"width_mult": 0.5}}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # the rest is drawn here
        if name.startswith("vgg"):
            model = narrow_vgg(name)
        elif name == "vit_b_16":
            model = torchvision.models.VisionTransformer(64, 16, 12, 4, 96, 384, num_classes=10)
        else:
            some = options.get(name, {})
            model = torchvision.models.get_model(name, weights=None, num_classes=10, **some)
    model = model.to(torch.float64).to_empty(device="cpu")
    torch.manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.ndim > 1:
                bound = (6 / value[0].numel()) ** 0.5
                value.uniform_(-bound, bound)
            else:
                value.normal_(0.0 if key.endswith("bias") else 1.0, 0.1)
    return randomize(model)


@pytest.fixture(scope="module", params=ZOO)
def network(request):
    """(name, model, layers): one network at a time is in memory."""
    size = ZOO[request.param][1][0]
    model = build(request.param)
    return request.param, model, tlc.find_layers(model, torch.randn(1, 3, size, size))


def test_every_activation_is_found(network):
    name, _, layers = network
    assert Counter(layer.kind for layer in layers) == ZOO[name][0]
    assert len({layer.name for layer in layers}) == len(layers)


def draw(name: str, layers: list, dtype) -> tuple:
    """Statistics of some activations, a rule and where the padding goes; the name is the seed."""
    dice, generator = random.Random(f"{name} {dtype}"), torch.Generator().manual_seed(0)
    chosen = dice.sample([x for x in layers if x.channels < LARGE], ZOO[name][2])
    drawn = {x.name: draw_gaussian(x.channels, "mixed", generator, dtype) for x in chosen}
    return drawn, dice.choice(list(RULES)), dice.choice(["first", "as_trained"])


@torch.no_grad()
def check(name: str, model, layers, dtype):
    """Linear is the affine map by hand (padding as trained), and merged is linear."""
    sizes, model = ZOO[name][1], model.to(dtype)
    gaussians, rule, padding = draw(name, layers, dtype)
    linear = tlc.linearize(model, list(gaussians), gaussians, rule, padding).eval()
    pictures = [torch.randn(n, 3, size, size, dtype=dtype) for n, size in zip((1, 3), sizes)]
    wanted = [linear(x) for x in pictures]
    hand = next(by_hand(trace(model, share=True), gaussians, rule))
    for x, want in zip(pictures, wanted):
        got = hand(x)
        assert got.shape == want.shape
        if padding == "as_trained" and dtype == torch.float64:
            assert relative_error(want, got) < 1e-10
    del hand
    merged = tlc.merge(linear, pictures[0], keep="all")
    for x, want in zip(pictures, wanted):
        got = merged(x)
        assert got.shape == want.shape
        if dtype == torch.float64:
            assert relative_error(got, want) < 1e-10
        else:
            exact = copy.deepcopy(linear).double()(x.double())
            assert relative_error(copy.deepcopy(merged).double()(x.double()), exact) < 1e-5
            # Dozens of layers in float32 are not 1e-5 of float64 on their own, merged or not.
            assert relative_error(got, exact) < max(1e-5, 3 * relative_error(want, exact))


def test_merged_equals_linear(network):
    name, model, layers = network
    check(name, model, layers, torch.float64)
    if name in IN_FLOAT32_TOO:
        check(name, model, layers, torch.float32)
