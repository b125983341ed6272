"""One layer in the place of a run: the regression is the textbook's, the run is the graph's."""

import copy
import random
import shutil
import sys
from types import SimpleNamespace

import numpy
import pytest
import torch
import torch.nn.functional as F
from helpers import Net, drawn, kept, randomize, received, relative_error, same
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models import mobilenet_v2, mobilenet_v3_small, resnet18

import tlc_minimal as tlc
from tlc_minimal.graph import activation_nodes, find_shapes, trace
from tlc_minimal.lessons.transformers import TextEncoder, swin, vit
from tlc_minimal.project import project
from tlc_minimal.runs import _run, find_runs

LINEAR = lambda: nn.LeakyReLU(1.0)  # an activation that changes nothing
X = torch.randn(60, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def layers(model) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Linear))]


@torch.no_grad()
def least_squares(layer: nn.Conv2d, x, y):
    """Kernel, bias and relative error by numpy, for groups = 1."""
    u = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    u = torch.cat([u, torch.ones_like(u[:, :1])], 1).transpose(1, 2).flatten(0, 1).numpy()
    y = y.movedim(1, -1).flatten(0, -2).numpy()
    w, residual, *_ = numpy.linalg.lstsq(u, y)
    error = numpy.sqrt(residual.sum() / ((y - y.mean(0)) ** 2).sum())
    return w[:-1].T.reshape(layer.weight.shape), w[-1], error


def values(model, *names, x=X):
    """What the modules of these names are given."""
    seen = received(trace(model), x, names)
    return [seen[name] for name in names]


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_linear_already_becomes_what_merging_composes(padding, stride):
    """All padding first (or none): then it is one layer, border included."""
    first = nn.Conv2d(3, 4, 3, stride, padding), nn.BatchNorm2d(4)
    model = randomize(nn.Sequential(*first, LINEAR(), nn.Conv2d(4, 5, 3), nn.ReLU()))
    plain = copy.deepcopy(model)
    plain[2] = nn.Identity().eval()
    (merged,) = layers(tlc.merge(plain, X[:2], keep="all"))
    result = project(model, "2", X, kernel=9, ridge=0)
    (one,) = layers(tlc.fold(result.model))
    assert one.stride == merged.stride and one.padding == merged.padding
    torch.testing.assert_close(one.weight, merged.weight, rtol=0, atol=1e-8)
    torch.testing.assert_close(one.bias, merged.bias, rtol=0, atol=1e-8)
    assert result.table.error[0] < 1e-6


def block(first, shortcut, act=LINEAR):
    run = lambda net, x: net.last(net.shortcut(x) + net.second(net.act(net.first(x))))
    second = nn.Conv2d(first.out_channels, first.out_channels, 3, 1, 1, bias=False)
    return Net(run, act=act(), last=nn.ReLU(), shortcut=shortcut, first=first, second=second)


def test_a_shortcut_is_part_of_the_run_and_everything_is_in_its_place():
    """Strides, dilation, "same" and even kernels: where a linear run cannot notice its padding it
    is one layer, and a layer that is off by a pixel would not be it."""
    conv = lambda *of, **options: nn.Conv2d(3, *of, bias=False, **options)
    cases = [
        (1, conv(3, 3, 1, 1), nn.Identity(), 5, (2, 2)),
        (1, conv(3, 3, 1, 2, dilation=2), nn.Identity(), 7, (3, 3)),
        (2, conv(4, 3, 2, 1), conv(4, 1, 2), 7, (3, 3)),
        (1, conv(4, 4, padding="same"), conv(4, 1), 7, (3, 3)),
        (2, conv(4, 2, 2), conv(4, 4, 2, 1), 6, (2, 2)),
    ]
    x = F.pad(X[..., :-1, :-1], [4] * 4)  # with zeros around no padding is noticed without biases
    for stride, first, shortcut, size, padding in cases:
        model = block(first, shortcut).double()
        result = project(model, "act", x, kernel=9, ridge=0)
        (one,) = layers(result.model)
        assert one.kernel_size == (size, size) and one.stride == (stride, stride)
        assert one.padding == padding and result.table.error[0] < 1e-6
        assert relative_error(result.model(x), model(x)) < 1e-8


def test_a_sum_of_another_size_is_not_in_a_run():
    """A convolution over the whole map, added to every pixel: no layer could do that."""
    model = block(nn.Conv2d(3, 3, 9), nn.Conv2d(3, 3, 1), nn.ReLU).double()
    traced = trace(model)
    shapes, act = find_shapes(traced, X[:2]), activation_nodes(traced)["act"]
    (run,), left = find_runs(traced, {act}, shapes, 3)
    assert [str(node.target) for node in run.nodes] == ["first", "act", "second"] and not left
    with pytest.raises(ValueError, match="branches of different sizes meet between the input and"):
        nodes = list(traced.graph.nodes)
        _run(traced, {act}, nodes[0], nodes[1:-2], shapes, 3)


def test_the_kernel_has_the_size_that_is_asked_for_or_needed():
    def kernel(*convs, kernel=3):
        traced = trace(nn.Sequential(*(m for conv in convs for m in (conv, nn.ReLU()))).double())
        *nodes, _ = activation_nodes(traced).values()
        (run,) = find_runs(traced, set(nodes), find_shapes(traced, X[:2]), kernel)[0]
        return run.layer.kernel_size[0], run.layer.padding[0], run.layer.stride[0]

    padded = lambda stride=1: nn.Conv2d(3, 3, 3, stride, 1)
    point, open_ = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3)
    assert kernel(padded(), padded()) == (3, 1, 1)
    assert kernel(padded(), padded(), kernel=1) == (1, 0, 1)
    assert kernel(padded(), padded(), kernel=5) == (5, 2, 1)
    assert kernel(padded(), padded(), kernel=11) == (5, 2, 1)  # it sees no more
    assert kernel(point, point) == (1, 0, 1)
    assert kernel(padded(2), padded(2)) == (5, 2, 4)  # as wide as its stride at least
    assert kernel(open_, open_) == (5, 0, 1)  # what it takes off the map


def test_the_fit_is_the_one_of_numpy():
    convs = nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, 3, 1, 1)
    model = randomize(nn.Sequential(*convs, nn.ReLU()))
    (y,) = values(model, "3")
    model_, table = project(model, "1", X, ridge=0)
    (one,) = layers(model_)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model_.modules()), "nor before"
    weight, bias, error = least_squares(one, X, y)
    assert abs(one.weight.detach().numpy() - weight).max() < 1e-8
    assert abs(one.bias.detach().numpy() - bias).max() < 1e-8
    assert table.error[0] == pytest.approx(error, abs=1e-10) and 0.1 < error < 0.9


def test_the_ridge_is_on_the_kernel_alone_in_units_of_the_variance():
    model = randomize(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)))
    x, ridge = 3 + torch.randn(50, 6).double(), 0.7
    (one,) = layers(project(model, "1", x, ridge=ridge).model)
    y = model(x).detach()
    u, v = x - x.mean(0), y - y.mean(0)
    shrink = ridge * u.square().sum(0).mean() * torch.eye(6).double()
    want = torch.linalg.solve(u.T @ u + shrink, u.T @ v).T
    torch.testing.assert_close(one.weight.detach(), want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one(x).mean(0).detach(), y.mean(0), rtol=1e-9, atol=1e-12)
    wide = layers(project(model, "1", x, ridge=1e9).model)[0]
    assert wide.weight.abs().max() < 1e-6  # the mean is left


def test_a_run_is_fitted_to_what_the_collapsed_network_gives_it():
    parts = [(nn.Conv2d(3, 3, 3, 1, 1), nn.BatchNorm2d(3), nn.LeakyReLU(0.1)) for _ in range(4)]
    model = randomize(nn.Sequential(*(part for three in parts for part in three)))
    result = project(model, ["2", "8"], X, ridge=0)
    one = result.model.get_submodule("8_layer")
    (x,) = values(result.model, "8_layer")
    dense_x, y = values(model, "6", "11")
    weight, _, error = least_squares(one, x, y)
    assert abs(one.weight.detach().numpy() - weight).max() < 1e-8
    assert result.table.error[1] == pytest.approx(error, abs=1e-10)
    other = least_squares(one, dense_x, y)[0]
    assert abs(one.weight.detach().numpy() - other).max() > 1e-3


def test_two_branches_are_two_runs_in_any_order():
    def run(net, x):
        y = net.first[1](net.first[0](x))  # begins first, ends last
        z = net.second(x)
        return net.head(net.first[3](net.first[2](y)) + z)

    mlp = lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU())
    model = Net(run, first=mlp(), second=mlp(), head=nn.Linear(5, 2)).double()
    x = torch.randn(40, 5).double()
    model_, table = project(model, ["first.1", "second.1"], x)
    assert table.removed.tolist() == ["first.1", "second.1"] and len(layers(model_)) == 3
    for name in ("first", "second"):
        alone = project(getattr(model, name), "1", x).table.error[0]
        assert table.error[table.removed == f"{name}.1"].item() == pytest.approx(alone)


INNER = [f"layer{i}.{j}.relu1" for i in range(1, 5) for j in range(2)]
TWELVE = INNER + [f"layer{i}.0.relu2" for i in range(1, 5)]


@pytest.mark.parametrize("names, count", [(INNER, 10), (TWELVE, 6)])
def test_every_block_or_stage_of_a_resnet_becomes_one_layer(names, count):
    model = drawn(tlc.resnet18, width=4, stem="strong")
    x = torch.randn(150, 3, 16, 16).double()
    small, table = project(model, names, x, ridge=1e-6)
    assert len(layers(tlc.fold(small))) == count == len(table) + 2
    assert len(activation_nodes(small)) == 17 - len(names) and table.error.between(0.001, 1).all()
    strides = [m.stride for m in layers(small)[1:-1]]
    assert strides.count((2, 2)) == 3
    assert small(x).shape == model(x).shape
    # The error in the table is the one that the finished network has.
    names = ["layer1.1.relu2", "layer3.1.relu2", "layer4.1.relu2"]
    for name, got, y in zip(names, values(small, *names, x=x), values(model, *names, x=x)):
        error = (got - y).norm() / (y - y.mean((0, 2, 3), keepdim=True)).norm()
        row = table.removed.str.contains(name.removesuffix("relu2"), regex=False)
        assert table.error[row].item() == pytest.approx(error.item(), rel=1e-9)


def test_the_norm_left_behind_knows_the_layer_and_changes_nothing():
    model = drawn(tlc.simple_cnn, width=4)
    small = project(model, ["relu1", "relu2"], X).model
    conv, norm = small.get_submodule("relu1_layer"), small.get_submodule("relu1_norm")
    assert not small.training and conv.bias is None
    out = conv(X).detach()
    torch.testing.assert_close(norm.running_mean, out.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, out.var((0, 2, 3), correction=0))
    shift = norm(out) - out
    torch.testing.assert_close(shift, shift[:1, :, :1, :1].expand_as(out))
    torch.testing.assert_close(norm.train()(out), norm.eval()(out), rtol=1e-3, atol=1e-3)
    small.train()
    assert all(p.requires_grad for p in small.parameters())
    folded = tlc.fold(small.eval())
    assert len(layers(folded)) == 5 and relative_error(folded(X), small(X)) < 1e-12


def test_a_depthwise_run_stays_depthwise():
    wise = lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3)
    model = randomize(nn.Sequential(wise(), nn.BatchNorm2d(3), nn.ReLU6(), wise(), nn.ReLU()))
    small, table = project(model, "2", X, ridge=0)
    (one,) = layers(small)
    assert one.groups == 3
    (y,) = values(model, "4")
    for channel in range(3):
        part = nn.Conv2d(1, 1, 3, padding=1)
        weight, *_ = least_squares(part, X[:, channel : channel + 1], y[:, channel : channel + 1])
        assert abs(one.weight[channel].detach().numpy() - weight[0]).max() < 1e-9
    mixed = randomize(nn.Sequential(wise(), nn.ReLU6(), nn.Conv2d(3, 6, 1), nn.ReLU()))
    assert layers(project(mixed, "1", X).model)[0].groups == 1


def test_the_mlp_of_a_vit_becomes_one_matrix():
    model, x = vit(width=16, depth=2), torch.randn(6, 3, 32, 32).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    model = model.double().eval()
    names = [layer.name for layer in tlc.find_layers(model, x)]
    small, table = project(model, names, x, ridge=1e-9)
    assert not activation_nodes(small) and len(table) == 2
    one = small.get_submodule(f"{names[0]}_layer")
    assert isinstance(one, nn.Linear) and one.weight.shape == (16, 16)
    lines = tlc.linearize(model, names, x, rule="affine").eval()  # no better than the best layer
    assert relative_error(small(x), model(x)) < relative_error(lines(x), model(x))
    (u,) = values(model, "encoder.layers.encoder_layer_0.mlp.0", x=x)
    y = model.encoder.layers[0].mlp(u).flatten(0, 1).detach()
    u = torch.cat([u.flatten(0, 1), torch.ones(y.shape[0], 1).double()], 1)
    best = u @ torch.linalg.lstsq(u, y, driver="gelsd").solution  # behind LayerNorm of lower rank
    torch.testing.assert_close(one(u[:, :-1]).detach(), best, rtol=1e-4, atol=1e-4)
    # A shortcut around an MLP is in the matrix where nothing is between.
    model, x = TextEncoder(8, 5, 3, width=8, depth=1, heads=2).double().eval(), torch.rand(9, 5, 8)
    small = project(model, "blocks.0.mlp.1", x.double()).model
    inside = [str(node.target) for node in small.graph.nodes]
    at = inside.index("blocks.0.mlp.1_layer")
    assert inside[at - 1 : at + 2] == ["blocks.0.norm1", "blocks.0.mlp.1_layer", "blocks.0.norm2"]


def test_a_block_is_one_layer_attention_and_all():
    model, x = vit(width=8, depth=3).double().eval(), torch.randn(30, 3, 32, 32).double()
    first, second, third = (f"encoder.layers.encoder_layer_{i}" for i in range(3))
    small, table = project(model, [third, f"{first}.mlp.1", first], x, ridge=0)
    assert table.removed.tolist() == [first, third]  # whose MLP is a part of it
    assert list(activation_nodes(small)) == [f"{second}.mlp.1"]
    made = values(model, f"{second}.ln_1", "encoder.ln", x=x)
    for name, y, error in zip((first, third), made, table.error, strict=True):
        (u,), one = values(small, f"{name}_layer", x=x), small.get_submodule(f"{name}_layer")
        u, y = torch.cat([u, torch.ones_like(u[..., :1])], -1).flatten(0, 1), y.flatten(0, 1)
        best = u @ torch.linalg.lstsq(u, y).solution
        torch.testing.assert_close(one(u[:, :-1]), best, rtol=1e-8, atol=1e-8)
        assert error == pytest.approx(((best - y).norm() / (y - y.mean(0)).norm()).item())
    again = project(small, second, x).model  # a block of what has been changed
    assert not activation_nodes(again) and again(x).shape == model(x).shape


def test_a_block_of_maps_is_a_convolution_with_a_norm_behind_it():
    """Whatever is in it: a pool, a product (squeeze and excitation), functions, other blocks."""
    model, x = drawn(mobilenet_v3_small, num_classes=3), torch.randn(40, 3, 48, 48).double()
    small, table = project(model, ["features.1", "features.2.block.1", "features.2"], x, kernel=4)
    new = [small.get_submodule(f"{name}_layer") for name in table.removed]
    assert [one.kernel_size + one.stride for one in new] == [(5, 5, 2, 2)] * 2
    got, want = (values(m, "features.3.block.0.0", x=x)[0] for m in (small, model))
    error = (got - want).norm() / (want - want.mean((0, 2, 3), keepdim=True)).norm()
    assert table.error[1] == pytest.approx(error.item())
    small, _ = project(drawn(resnet18, num_classes=3), "layer2", x)
    assert len(activation_nodes(small)) == 13 and len(layers(tlc.fold(small))) == 17


@pytest.mark.parametrize("block, shape", [
    (nn.Conv2d(3, 4, 4, 4), (8, 8)), (nn.Conv2d(3, 4, 3, 2, 1), (8, 8)), (nn.AvgPool2d(3), (9, 9)),
    (nn.Conv2d(3, 4, 4), (9, 9)), (nn.AdaptiveAvgPool2d(1), (5, 5)), (nn.Conv1d(3, 4, 3, 2), (16,)),
    (nn.Conv3d(3, 2, 2), (3, 3, 3)), (nn.Conv2d(3, 4, 5), (11, 7)), (nn.Linear(8, 9), (8,)),
])  # fmt: skip
def test_a_block_that_is_a_layer_is_found_wherever_its_windows_are(block, shape):
    model = nn.Sequential(nn.Sequential(block, LINEAR()), nn.PReLU()).double()
    x = torch.randn(300, 3, *shape).double()
    small, table = project(model, "0", x, ridge=0)
    assert table.error[0] < 1e-6 and relative_error(small(x), model(x)) < 1e-8


def causal():
    """Attention with a mask, and its shortcut."""
    mask = lambda scores: scores.masked_fill(torch.ones(6, 6).tril() == 0, -torch.inf).softmax(-1)
    run = lambda net, x: x + net.last(F.gelu(mask(net.first(x) @ x.mT) @ x))
    return Net(run, first=nn.Linear(8, 8), last=nn.Linear(8, 8)).double()


def test_blocks_at_the_input_with_masks_and_of_what_was_changed_before():
    model, x = nn.Sequential(causal(), causal(), causal()), torch.randn(90, 6, 8).double()
    small = project(model, ["0", "1"], x).model
    assert len(layers(small)) == 4 and all(one.in_features == 8 for one in layers(small))
    assert project(model, "2.gelu1", x).table.error[0] < 1
    assert [s.mean.shape for s in tlc.statistics(model[:1], x).values()] == [(8,)]
    model, x = drawn(tlc.resnet18, width=4), torch.randn(30, 3, 16, 16).double()
    model.layer1[0].bn1.bias.data[:] = torch.tensor([-9, 9, 9, 9])
    linear = tlc.linearize(model, ["layer1.0.relu1", "layer2.0.relu1"], x).eval()
    for changed in (linear, tlc.fold(linear), tlc.merge(linear, x)):
        small = project(changed, ["layer1.0", "layer2"], x).model
        assert [*activation_nodes(small)][:3] == ["relu", "layer1.1.relu1", "layer1.1.relu2"]
        assert not [n for n in small.graph.nodes if str(n.target).startswith("layer1.0.")]


def test_what_no_layer_is_like_is_no_block():
    merges = swin(width=8).double(), "features.2", torch.randn(4, 3, 32, 32).double()
    run = lambda net, x: net.same(x) + net.same(net.other(x))
    twice = Net(run, same=nn.Sequential(nn.Conv2d(3, 3, 1)), other=nn.ReLU()).double()
    part = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1))
    shared = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(part, nn.ReLU(), *part), part).double()
    for call, text in (
        (merges, r"no layer makes \(2, 8, 8, 16\) of \(2, 16, 16, 8\) as features.2 does: name an"),
        ((twice, "same", X), "same has not one input and one output: name a block that has"),
        ((resnet18(), "layer1.0.relu", X), "no activation 'layer1.0.relu' in .* 'layer1.0.relu2'"),
        ((shared, ["1", "1.0"], X), "1.0 is partly in another block: name one of the two"),
    ):
        with pytest.raises(ValueError, match=text):
            project(*call)


def test_a_run_begins_and_ends_where_the_network_is_narrow():
    """Between its wide activations a block of MobileNetV2 would cost 36 times a layer between its
    bottlenecks."""
    model = trace(mobilenet_v2(num_classes=3))
    shapes, nodes = find_shapes(model, torch.randn(2, 3, 32, 32)), activation_nodes(model)
    gone = {nodes[f"features.{b}.conv.{i}.2"] for b in (2, 5, 8) for i in (0, 1)}
    runs, left = find_runs(model, gone, shapes, 3)
    outer = [(run.layer.in_channels, run.layer.out_channels, run.layer.stride) for run in runs]
    assert outer == [(16, 24, (2, 2)), (32, 32, (1, 1)), (64, 64, (1, 1))] and not left
    assert all(run.saved > 0 and len(run.removed) == 2 for run in runs)


def test_pools_end_a_run_and_an_activation_without_a_layer_stays():
    model = drawn(tlc.resnet18, width=4)
    x = torch.randn(40, 3, 16, 16).double()
    small, table = project(model, ["relu", "layer1.0.relu2"], x)
    assert table.removed.tolist() == ["relu", "layer1.0.relu2"]
    why = "layer1.0.relu2 stays: no layer is between a sum and layer1.0.relu2"
    assert table.left.tolist()[1] == why and table.error[0] > 0
    assert len(activation_nodes(small)) == 16
    (got,), (y,) = values(small, "maxpool", x=x), values(model, "maxpool", x=x)
    error = (got - y).norm() / (y - y.mean((0, 2, 3), keepdim=True)).norm()
    assert table.error[0] == pytest.approx(error.item())


def test_of_random_networks_only_what_was_named_goes():
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed, file=sys.stderr)  # shown if this fails
    rng, tables = random.Random(seed), []
    torch.manual_seed(seed)
    for _ in range(6):
        blocks, width = [], 3
        for _ in range(rng.randint(2, 4)):
            stride, wide, size = map(rng.choice, ([1, 1, 2], [2, 3, 4], [1, 3]))
            first = nn.Conv2d(width, wide, size, stride, size // 2)
            straight = stride == 1 and wide == width and rng.random() < 0.5
            shortcut = nn.Identity() if straight else nn.Conv2d(width, wide, 1, stride)
            norm = [nn.BatchNorm2d(wide)] if rng.random() < 0.5 else []
            blocks += [block(first, shortcut, nn.ReLU), *norm]
            width = wide
        model = randomize(nn.Sequential(*blocks))
        names = [layer.name for layer in tlc.find_layers(model, X)]
        gone = rng.sample(names, rng.randint(1, len(names)))
        try:
            small, table = project(model, gone, X)
        except ValueError as error:
            assert "stays" in str(error)  # so of one in six
            continue
        tables.append(table)
        went = [n for removed in table.removed[table.error.notna()] for n in removed.split(", ")]
        kept = list(table.removed[table.error.isna()])
        assert sorted(went + kept) == sorted(gone)
        assert list(activation_nodes(small)) == [n for n in names if n not in went]
        assert table.error.dropna().between(0, 1).all() and small(X).shape == model(X).shape
        folded, want = tlc.fold(small)(X), small(X)  # all zeros, now and then
        assert (folded - want).norm() <= 1e-10 * want.norm()
    assert tables, "all were refused"


def test_data_is_read_from_the_training_split_once_and_the_given_model_is_what_it_was():
    data = tlc.load_data("digits").subset(60)
    model = tlc.simple_cnn(width=2).double().train()
    seen, before = [], kept(model)
    watch = lambda x: seen.append(len(x)) or torch.stack(x)
    loader = DataLoader(data.normalize(data.train.images), 25, collate_fn=watch)
    want = project(model, ["relu1", "relu3"], data)
    got = project(model, ["relu1", "relu3"], loader, images=60)
    assert seen == [25, 25, 25, 10]  # one more for the shapes
    torch.testing.assert_close(want.table.error.tolist(), got.table.error.tolist())
    x = data.example.double()  # batches of any size make the same layer
    assert relative_error(got.model(x), want.model(x)) < 1e-9
    assert same(project(model, ["relu1", "relu3"], data).model, want.model)
    assert same(model, before)
    assert model.training and model.bn1.training and not got.model.training
    ours = {v.data_ptr() for v in got.model.state_dict().values() if v.numel()}
    assert not ours & {v.data_ptr() for v in model.state_dict().values()}


def test_too_few_images_are_said_at_once_and_taps_that_follow_from_others_need_a_ridge(recwarn):
    model = nn.Sequential(nn.Linear(50, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU()).double()
    x = torch.randn(60, 50).double()
    text = "the input to 3: 51 unknowns take at least 51 images and there are 20"
    with pytest.warns(UserWarning, match=text) as caught:
        project(model, "1", x[:20])
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.raises(ValueError, match=f"{text}: give more or a ridge above 0"):
        project(model, "1", x, images=20, ridge=0)
    recwarn.clear()
    project(model, "1", x, ridge=0)
    assert not recwarn
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).double()
    with pytest.raises(ValueError, match="76 unknowns take at least 4 images and there are 3"):
        project(model, "1", X[:3], kernel=5, ridge=0)  # 25 pixels each are equations, too
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x = torch.randn(30, 3).double()
    x[:, 2] = x[:, 1]
    with pytest.raises(ValueError, match="to the output: some taps follow from others, give a rid"):
        project(model, "1", x, ridge=0)
    x = torch.ones(30, 3).double()  # constant: the bias does it all
    torch.testing.assert_close(project(model, "1", x).model(x), model(x))


def test_what_cannot_be_is_refused_in_a_sentence(monkeypatch):
    model = tlc.simple_cnn(width=4).double()
    with pytest.raises(ValueError, match="inputs hold NaN or inf"):
        project(model, "relu1", X.clone().index_fill_(0, torch.tensor([5]), torch.nan))
    broken = copy.deepcopy(model)
    broken.conv4.weight.data *= 1e308  # finite, and what it makes is not
    with pytest.raises(ValueError, match="relu2 to relu4: values are not finite"):
        project(broken, "relu3", X)
    with pytest.raises(ValueError, match="what conv4 makes is not finite: it is too large, or NaN"):
        project(broken, "relu5", 1e9 * X)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"GiB wait in .*, 0.0 are free: give fewer images, or set"):
        project(tlc.simple_cnn(width=32).double(), "relu3", X.repeat(300, 1, 1, 1))
    monkeypatch.setattr(sys.modules["tlc_minimal.project"], "free_memory", lambda device: 2**20)
    text = "the input to relu2: normal equations of side 32 take 0.3 GiB, and 0.0 are free"
    with pytest.raises(MemoryError, match=text):
        project(model, "relu1", X)
