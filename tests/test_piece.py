"""A linear piece is read off as the layer that it is: the algebra of lesson 03 says the same."""

import pytest
import torch
from helpers import Net, kept, randomize, relative_error, same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tlc_minimal.graph import find_shapes, trace
from tlc_minimal.lessons import kernels as k
from tlc_minimal.piece import extract, grow, obstacle, read
from tlc_minimal.reading.layers import CONV

KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def network(run, *layers):
    """``run(layers, x)``, its layers with random weights."""
    return randomize(Net(lambda net, x: run(net.layers, x), layers=nn.ModuleList(layers)))


def piece(net, x):
    """The largest linear piece that ends in the last node."""
    traced = trace(net.eval(), share=True)
    find_shapes(traced, x)
    found, _ = grow(traced, list(traced.graph.nodes)[-2])
    return extract(traced, found[-1][0], found[-1][1:])


def chain(*layers):
    return network(lambda layers, x: layers[1](layers[0](x)), *layers)


def equal(got, want):
    assert got.shape == want.shape
    assert relative_error(got, want) < 1e-11


one_or_two = st.sampled_from([[1, 1, 1], [1, 1, 1], [2, 2, 2], [1, 2, 1]])
sizes = lambda low, high: st.lists(st.integers(low, high), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    dims=st.integers(1, 3), k1=sizes(1, 4), k2=sizes(1, 3), s1=sizes(1, 3), s2=sizes(1, 2),
    d1=one_or_two, d2=one_or_two, p1=sizes(0, 3),
    groups=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
)  # fmt: skip
def test_what_is_run_is_what_the_algebra_composes(dims, k1, k2, s1, s2, d1, d2, p1, groups):
    make = lambda into, out, k, s, p, d, g: KINDS[dims](
        into, out, tuple(k[:dims]), tuple(s[:dims]), tuple(p[:dims]) if p else 0, tuple(d[:dims]), g
    )
    first, second = make(4, 6, k1, s1, p1, d1, groups[0]), make(6, 2, k2, s2, 0, d2, groups[1])
    size = [1 + d * (k - 1) + s * e * (m - 1) + 3 for d, k, s, e, m in zip(d1, k1, s1, d2, k2)]
    x = torch.randn(2, 4, *size[:dims]).double()
    net = chain(first, second)
    one = read(piece(net, x))
    equal(one(x), net(x))
    assert one.groups == min(groups)
    if groups == (1, 1) and max(d1[:dims] + d2[:dims]) == 1:
        want = k.compose(k.read(first), k.read(second))
        assert (one.stride, one.padding) == (want.stride, want.padding)
        equal(one.weight, want.weight)
        equal(one.bias, want.bias)


wide = lambda *of, **options: nn.Conv2d(4, 6, *of, **options)


@pytest.mark.parametrize("a, b", [
    (wide(5, 1, 2), wide(3, 1, 1)), (wide(3, 2, 1), wide(1, 2)), (wide(7, 2, 2), wide(3, 2)),
    (wide(3, padding=2, dilation=2), wide(3, padding=1, groups=2)),
    (wide((5, 1), padding=(2, 0)), wide((1, 3), padding=(0, 1))),
])  # fmt: skip
def test_branches_are_added_as_the_algebra_adds_them(a, b):
    net = network(lambda layers, x: layers[0](x) + layers[1](x), a, b)
    for size in (12, 11):
        x = torch.randn(2, 4, size, size).double()
        one = read(piece(net, x))
        equal(one(x), net(x))
        if a.groups == b.groups == max(a.dilation):
            want = k.add(k.read(a), k.read(b))
            assert (one.stride, one.padding) == (want.stride, want.padding)
            equal(one.weight, want.weight)


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_a_whole_block_is_one_layer(dims):
    """Norms in front, between and behind, a shortcut, a second branch."""
    make = lambda k: KINDS[dims](4, 4, k, padding=k // 2) if dims else nn.Linear(4, 4)
    norm = getattr(nn, f"BatchNorm{max(dims, 1)}d")
    block = lambda l, x: l[5](l[2](l[1](l[0](x))) + l[3](x)) + l[4](x) + x
    net = network(block, make(3), norm(4), make(1), make(1), norm(4), norm(4))
    x = torch.randn(5, 4, *[6] * dims).double()
    one = read(piece(net, x))
    assert isinstance(one, CONV) and one.weight.shape == (4, 4, *[3] * dims)
    equal(one(x), net(x))


def test_depthwise_layers_of_equal_groups_stay_grouped_and_an_identity_is_a_tap():
    net = network(
        lambda layers, x: layers[1](layers[0](x)) + x,
        nn.Conv2d(4, 8, 3, padding=2, groups=4), nn.Conv2d(8, 4, 3, groups=4),
    )  # fmt: skip
    x = torch.randn(2, 4, 7, 7).double()
    one = read(piece(net, x))
    assert one.groups == 4 and one.weight.shape == (4, 1, 5, 5)
    equal(one(x), net(x))


@pytest.mark.parametrize("far", [0, 1])
def test_a_layer_that_would_fill_the_memory_is_not_made(far, monkeypatch):
    """Far apart taps (DeepLab's dilation) become a kernel that is nearly all zeros."""
    monkeypatch.setattr("tlc_minimal.piece.MOST", 729)
    net = chain(nn.Conv2d(1, 9, 3, dilation=3 + far), nn.Conv2d(9, 9, 1))
    why = obstacle(piece(net, torch.randn(1, 1, 12, 12).double()))
    assert why == ("", "as one they would have 729 weights, and a run takes 1,089 numbers")[far]


def test_zeros_pass_a_layer_that_makes_zeros_of_them():
    """A 1x1 without bias: the padding behind it may as well stand in front."""
    x = torch.randn(2, 3, 9, 9).double()
    for stride in (1, 2):
        net = chain(nn.Conv2d(3, 4, 1, stride, bias=False), nn.Conv2d(4, 2, 3, padding=1))
        one = read(piece(net, x))
        assert one.padding == (stride, stride)
        equal(one(x), net(x))


conv = lambda *of, **options: nn.Conv2d(4, 4, *of, **options)


@pytest.mark.parametrize("first, second, why", [
    (conv(1), conv(3, padding=1), "zeros are put between them"),
    (conv(1), conv(3, padding="same", dilation=2), "zeros are put between them"),
    (conv(3, 3), conv(1, padding=1), "zeros are put between them"),
    (conv(2, padding="same"), conv(1), "layers.0 pads one side more than the other; an odd kernel"),
    (conv(1), conv(3, padding=1, padding_mode="reflect"),
     "layers.1 pads with reflect, and only zero padding composes"),
    (conv(1), nn.Linear(6, 4), "one is a convolution, the other a linear layer"),
])  # fmt: skip
def test_what_is_no_layer_says_why(first, second, why):
    f = piece(chain(first, second), torch.randn(2, 4, 6, 6).double())
    assert obstacle(f).startswith(why)


@pytest.mark.parametrize("first, other", [(conv(1), conv(1, 2)), (conv(3, 2, 1), conv(3, 1, 1))])
def test_branches_that_differ_in_size_are_no_layer_though_one_example_adds_them(first, other):
    """One pixel is one pixel, whatever the stride."""
    net = network(lambda layers, x: layers[0](x) + layers[1](x), first, other)
    f = piece(net, torch.randn(2, 4, 1, 1).double())
    assert obstacle(f) == "branches of different sizes meet"


def test_reading_changes_neither_the_network_nor_the_piece():
    net = chain(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)).float()  # a piece is in float64
    before, f = kept(net), piece(net, torch.randn(1, 3, 8, 8))
    read(f).weight.data.zero_()
    assert same(net, before)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in net.parameters())
    assert read(f).weight.any()


# ---- the algebra alone, as the lesson uses it ----


@pytest.mark.parametrize(("size", "percent"), [(16, 23), (8, 44), (4, 75), (2, 100)])
def test_zeros_in_between_spoil_the_border(size, percent):
    """The shares of lesson 03, section 4: composing as if the padding could simply be added."""
    first, second = (k.read(nn.Conv2d(4, 4, 3, padding=1).double()) for _ in range(2))
    naive = k.compose(first, second._replace(padding=(0, 0)))._replace(padding=(2, 2))
    x = torch.randn(4, 4, size, size).double()
    wrong = (k.apply(naive, x) - k.apply(second, k.apply(first, x))).abs().amax((0, 1)) > 1e-9
    assert round(100 * wrong.double().mean().item()) == percent


def test_a_folded_batch_norm_computes_the_same():
    conv, norm = nn.Conv2d(4, 6, 3, 2, 1).double(), randomize(nn.BatchNorm2d(6))
    x = torch.randn(2, 4, 7, 7).double()
    equal(k.apply(k.fold_batch_norm(k.read(conv), norm), x), norm(conv(x)))


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_identity_adds_the_input_and_what_is_read_can_be_written(dims):
    layer = KINDS[dims](4, 4, 3, padding=1) if dims else nn.Linear(4, 4, bias=False)
    x = torch.randn(2, 4, *[5] * dims).double()
    value = k.read(layer.double())
    equal(k.write(value)(x), layer(x))
    equal(k.apply(k.add(value, k.identity(4, dims, x)), x), layer(x) + x)
