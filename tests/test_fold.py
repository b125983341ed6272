"""What is affine per channel disappears into the convolutions around it, and nothing changes."""

import pytest
import torch
import torch.nn.functional as F
from helpers import Net, randomize, relative_error
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.fold import fold
from tlc_minimal.modules import Affine, BiasMap, Ones, ScaledSum

X = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def kinds(model):
    return {type(m) for m in model.modules()}


def test_a_batch_norm_in_front_of_a_convolution_folds_forward_unless_it_pads():
    """DenseNet: concat, norm, (no ReLU), 1x1."""
    run = lambda net, x: net.b(net.norm(torch.cat([x, net.a(x)], 1)))
    layers = {"a": nn.Conv2d(3, 2, 1), "norm": nn.BatchNorm2d(5), "b": nn.Conv2d(5, 4, 1)}
    padded = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1))
    for model, stays in ((Net(run, **layers), False), (padded, True)):
        folded = fold(randomize(model))
        assert (nn.BatchNorm2d in kinds(folded)) == stays
        assert relative_error(folded(X), model(X)) < 1e-12


@pytest.mark.parametrize("shortcut", [True, False])
def test_an_affine_map_behind_a_sum_is_part_of_the_sum(shortcut):
    """Both branches take it if both can, else it scales the shortcut within the sum."""
    run = lambda net, x: net.last(F.relu(net.bn(net.a(x)) + net.shortcut(x)))
    layers = {"a": nn.Conv2d(3, 3, 3, padding=1), "bn": nn.BatchNorm2d(3)}
    layers["shortcut"] = nn.Conv2d(3, 3, 1) if shortcut else nn.Identity()
    model = randomize(Net(run, **layers, last=nn.Conv2d(3, 2, 3, padding=1)))
    linear = tlc.linearize(model, "relu1", X)
    assert Affine in kinds(linear)
    folded = fold(linear)
    assert Affine not in kinds(folded) and (ScaledSum in kinds(folded)) == (not shortcut)
    assert relative_error(folded(X), linear(X)) < 1e-12


def test_two_affine_maps_in_a_row_are_one():
    maps = Affine(torch.rand(3), torch.rand(3)), Affine(None, torch.rand(3))
    model = nn.Sequential(nn.ReLU(), *maps).double().eval()
    folded = fold(model)
    assert sum(isinstance(m, Affine) for m in folded.modules()) == 1
    assert relative_error(folded(X), model(X)) < 1e-12


def test_the_carrier_of_ones_becomes_a_row_of_the_convolution():
    torch.manual_seed(0)
    model = randomize(nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)
    ))  # fmt: skip
    g = tlc.Gaussian(torch.tensor([-1.0, 1.0, -0.5, 2.0]).double(), torch.ones(4).double())
    linear = tlc.linearize(model, "2", {"2": g})
    assert Ones in kinds(linear) and getattr(linear, "0").out_channels == 2
    folded = fold(linear.eval())
    assert Ones not in kinds(folded) and getattr(folded, "0").out_channels == 3
    assert not getattr(folded, "0").weight[2].any()
    assert relative_error(folded(X), linear(X)) < 1e-12


def test_dropout_goes_in_eval_mode_only():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Dropout(), nn.Identity()).double()
    assert kinds(fold(model.eval())) & {nn.Dropout, nn.Identity} == set()
    assert kinds(fold(model.train())) & {nn.Dropout, nn.Identity} == {nn.Dropout}


def test_a_bias_map_is_the_same_for_every_image_and_any_size():
    conv = nn.Conv2d(1, 3, 3, padding=1).double()
    for size in (1, 2, 7):
        x = torch.randn(5, 3, size, size).double()
        want = x + conv(torch.ones(5, 1, size, size).double())
        assert relative_error(BiasMap(conv)(x), want) < 1e-12


def test_tokens_are_no_channels():
    """On (N, tokens, features) a BatchNorm1d takes the tokens as channels, a Linear the features:
    the one does not fold into the other, not even where the numbers agree."""
    for tokens in (5, 4):
        model = randomize(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(tokens), nn.ReLU()))
        x = torch.randn(2, tokens, 3).double()
        merged = tlc.merge(model, x, keep="all")
        assert relative_error(merged(x), model(x)) < 1e-12 and nn.BatchNorm1d in kinds(merged)
