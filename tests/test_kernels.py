"""The algebra of convolutions: every operation equals running the layers, to double precision."""

import pytest
import torch
from helpers import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tlc_minimal import kernels as k


def random_conv(channels, out, kernel, stride=1, padding=0, dilation=1, groups=1, dims=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    each = lambda n: (n,) * dims if isinstance(n, int) else n
    weight = draw(out, channels // groups, *each(kernel))
    return k.Conv(weight, draw(out), each(stride), each(padding), each(dilation), groups)


def equal(got, want, tolerance=1e-10):
    assert got.shape == want.shape
    assert relative_error(got, want) < tolerance


one_to = lambda n: st.integers(1, n)


@settings(max_examples=60, deadline=None)
@given(
    dims=one_to(3), k1=one_to(4), k2=one_to(3), s1=one_to(3), s2=one_to(2), d1=one_to(2),
    d2=one_to(2), p1=st.integers(0, 3), g1=one_to(2), g2=one_to(2), seed=st.integers(0, 999),
)  # fmt: skip
def test_compose_equals_running_both(dims, k1, k2, s1, s2, d1, d2, p1, g1, g2, seed):
    first = random_conv(4, 6, k1, s1, p1, d1, g1, dims, seed)
    second = random_conv(6, 2, k2, s2, 0, d2, g2, dims, seed + 1)
    composed = k.compose(first, second)
    needed = 1 + d1 * (k1 - 1) + s1 * d2 * (k2 - 1)  # the formula of MATHS, section 4
    assert composed.kernel == (needed,) * dims and composed.stride == (s1 * s2,) * dims
    x = torch.randn(2, 4, *[needed + 3] * dims, dtype=torch.float64)
    equal(k.apply(composed, x), k.apply(second, k.apply(first, x)))


def test_compose_keeps_uneven_kernels_strides_and_paddings_apart():
    first = random_conv(3, 4, (3, 5), (2, 1), (1, 2), (1, 2))
    second = random_conv(4, 5, (1, 3), (1, 2), 0, (2, 1), seed=1)
    composed = k.compose(first, second)
    x = torch.randn(2, 3, 17, 19, dtype=torch.float64)
    equal(k.apply(composed, x), k.apply(second, k.apply(first, x)))


def test_depthwise_composes_with_pointwise():
    first, second = random_conv(4, 4, 3, 2, 1, groups=4), random_conv(4, 6, 1, seed=1)
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    equal(k.apply(k.compose(first, second), x), k.apply(second, k.apply(first, x)))
    assert k.compose(first, second).groups == 1


def test_linear_layers_compose():
    first, second = k.read(nn.Linear(5, 7).double()), k.read(nn.Linear(7, 3).double())
    x = torch.randn(4, 5, dtype=torch.float64)
    equal(k.apply(k.compose(first, second), x), k.apply(second, k.apply(first, x)))


def test_single_precision_composes_to_a_millionth():
    first, second = random_conv(8, 8, 3, 1, 1), random_conv(8, 8, 3, seed=1)
    narrow = [c._replace(weight=c.weight.float(), bias=c.bias.float()) for c in (first, second)]
    composed = k.compose(*narrow)
    assert composed.weight.dtype == torch.float32
    x = torch.randn(2, 8, 9, 9)
    equal(k.apply(composed, x), k.apply(narrow[1], k.apply(narrow[0], x)), 1e-6)


def test_compose_refuses_padding_in_between():
    with pytest.raises(ValueError, match="pads its input"):
        k.compose(random_conv(3, 3, 3), random_conv(3, 3, 3, padding=1))


@pytest.mark.parametrize(("size", "percent"), [(16, 23), (8, 44), (4, 75), (2, 100)])
def test_zeros_in_between_spoil_the_border(size, percent):
    """The shares of MATHS, section 4: composing as if the padding could simply be added."""
    first, second = random_conv(3, 4, 3, 1, 1), random_conv(4, 5, 3, 1, 1, seed=1)
    naive = k.compose(first, second._replace(padding=(0, 0)))._replace(padding=(2, 2))
    x = torch.randn(4, 3, size, size, dtype=torch.float64)
    wrong = (k.apply(naive, x) - k.apply(second, k.apply(first, x))).abs().amax((0, 1)) > 1e-9
    assert round(100 * wrong.double().mean().item()) == percent


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (dict(kernel=5, padding=2), dict(kernel=3, padding=1)),
        (dict(kernel=3, padding=1, stride=2), dict(kernel=1, stride=2)),
        (dict(kernel=7, padding=2, stride=2), dict(kernel=3, padding=0, stride=2)),
        (dict(kernel=3, padding=2, dilation=2), dict(kernel=3, padding=1, groups=2)),
        (dict(kernel=(5, 1), padding=(2, 0)), dict(kernel=(1, 3), padding=(0, 1))),
    ],
)
def test_branches_add(a, b):
    a, b = random_conv(4, 6, **a), random_conv(4, 6, seed=1, **b)
    for size in (12, 11):
        x = torch.randn(2, 4, size, size, dtype=torch.float64)
        want = k.apply(a, x) + k.apply(b, x)
        equal(k.apply(k.add(a, b), x), want)
        equal(k.apply(k.add(b, a), x), want)


def test_a_strided_shortcut_is_one_tap_of_a_strided_kernel():
    block, shortcut = random_conv(2, 3, 3, 2, 1), random_conv(2, 3, 1, 2, seed=1)
    difference = k.add(block, shortcut).weight - block.weight
    assert torch.equal(
        difference.abs().sum((0, 1)) > 0, torch.eye(3)[1:2].T @ torch.eye(3)[1:2] > 0
    )
    torch.testing.assert_close(difference[:, :, 1, 1], shortcut.weight[:, :, 0, 0])


@pytest.mark.parametrize("other", [dict(kernel=3, padding=1, stride=2), dict(kernel=3, padding=0)])
def test_branches_that_lie_differently_are_refused(other):
    with pytest.raises(ValueError, match="cannot be added"):
        k.add(random_conv(4, 4, 3, 1, 1), random_conv(4, 4, **other))


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_identity_changes_nothing_and_adds_the_input(dims):
    like = torch.zeros(1, dtype=torch.float64)
    x = torch.randn(2, 4, *[5] * dims, dtype=torch.float64)
    one = k.identity(4, dims, like)
    assert torch.equal(k.apply(one, x), x)
    if dims:
        conv = random_conv(4, 4, 3, 1, 1, dims=dims)
        equal(k.apply(k.add(conv, one), x), k.apply(conv, x) + x)


def random_norm(kind=nn.BatchNorm2d, channels=6, **options):
    norm = kind(channels, **options).double()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 3)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm.eval()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_a_folded_batch_norm_computes_the_same(kind, affine):
    torch.manual_seed(0)
    dims = int(kind.__name__[-2])
    conv, norm = random_conv(4, 6, 3, 2, 1, groups=2, dims=dims), random_norm(kind, affine=affine)
    x = torch.randn(2, 4, *[7] * dims, dtype=torch.float64)
    with torch.no_grad():
        equal(k.apply(k.fold_batch_norm(conv, norm), x), norm(k.apply(conv, x)))


def test_a_batch_norm_folds_into_a_linear_layer():
    conv, norm = k.read(nn.Linear(4, 6).double()), random_norm(nn.BatchNorm1d)
    x = torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        equal(k.apply(k.fold_batch_norm(conv, norm), x), norm(k.apply(conv, x)))


def test_a_batch_norm_in_training_is_refused():
    with pytest.raises(ValueError, match="call model.eval"):
        k.fold_batch_norm(random_conv(4, 6, 3), random_norm().train())


def test_a_batch_norm_without_running_statistics_is_refused():
    norm = nn.BatchNorm2d(6, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="track_running_stats"):
        k.fold_batch_norm(random_conv(4, 6, 3), norm)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(4, 6),
        nn.Linear(4, 6, bias=False),
        nn.Conv1d(4, 6, 3, 2, 1, 2, 2),
        nn.Conv2d(4, 6, (3, 1), (2, 1), (1, 0), bias=False),
        nn.Conv3d(4, 4, 2, groups=4),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2),
        nn.Conv2d(4, 6, 3, padding="valid"),
    ],
    ids=str,
)
def test_what_is_read_can_be_written(module):
    dims = module.weight.ndim - 2
    x = torch.randn(2, 4, *[9] * dims)
    value = k.read(module)
    equal(k.apply(value, x), module(x), 1e-6)
    written = k.write(value)
    assert type(written) is type(module)
    assert torch.equal(written.weight, module.weight) and written.weight is not module.weight
    equal(written(x), module(x), 1e-6)


def test_padding_that_does_not_compose_is_refused_by_name():
    with pytest.raises(ValueError, match="reflect"):
        k.read(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(ValueError, match="odd kernel"):
        k.read(nn.Conv2d(3, 3, 2, padding="same"))


def test_no_function_changes_its_arguments():
    first, second = random_conv(4, 4, 3, 1, 1), random_conv(4, 4, 3, seed=1)
    copies = [t.clone() for t in (*first[:2], *second[:2])]
    k.compose(first, second), k.add(first, first), k.fold_batch_norm(first, random_norm(channels=4))
    k.write(first).weight.data.zero_()
    assert all(torch.equal(a, b) for a, b in zip(copies, (*first[:2], *second[:2])))


@pytest.mark.parametrize("groups", [2, 4])
def test_equal_groups_stay_grouped(groups):
    first, second = random_conv(4, 8, 3, 2, 1, groups=groups), random_conv(8, 4, 3, groups=groups)
    composed = k.compose(first, second)
    x = torch.randn(2, 4, 13, 13, dtype=torch.float64)
    equal(k.apply(composed, x), k.apply(second, k.apply(first, x)))
    assert composed.groups == groups and composed.weight.shape[1] == 4 // groups


@pytest.mark.parametrize(("dims", "groups"), [(0, 1), (1, 1), (2, 1), (2, 2), (2, 4), (3, 2)])
def test_an_affine_map_in_front_folds_forward(dims, groups):
    slope, shift = torch.randn(2, 4, dtype=torch.float64)
    conv = random_conv(4, 8, 3, groups=groups, dims=dims)
    if dims == 0:
        conv = k.read(nn.Linear(4, 8).double())
    x = torch.randn(2, 4, *[5] * dims, dtype=torch.float64)
    each = lambda v: v.reshape(-1, *[1] * dims)
    equal(
        k.apply(k.scale_input(conv, slope, shift), x), k.apply(conv, each(slope) * x + each(shift))
    )


def test_a_shift_in_front_of_padding_is_refused_and_a_slope_is_not():
    conv, slope = random_conv(4, 8, 3, padding=1), torch.rand(4, dtype=torch.float64)
    with pytest.raises(ValueError, match="map of biases"):
        k.scale_input(conv, slope, torch.ones(4))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    want = k.apply(conv, slope.reshape(-1, 1, 1) * x)
    equal(k.apply(k.scale_input(conv, slope, torch.zeros(4)), x), want)


def test_a_channel_of_ones_behind_the_others():
    conv = random_conv(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    got = k.apply(k.append_ones(conv), x)
    equal(got[:, :4], k.apply(conv, x))
    assert (got[:, 4] == 1).all()


def test_a_channel_of_ones_carries_a_constant_under_zero_padding():
    """The map of biases of MATHS, section 4: less at the border, and least in the corners."""
    ones, kernel = torch.ones(1, 1, 6, 6).double(), random_conv(1, 1, 3, padding=1)
    kernel = kernel._replace(weight=torch.ones_like(kernel.weight), bias=0 * kernel.bias)
    taps = k.apply(kernel, ones)[0, 0]
    assert taps[2, 2] == 9 and taps[0, 2] == 6 and taps[0, 0] == 4
