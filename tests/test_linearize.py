"""Taking activations out: the right affine map, channels that are really gone, padding in front.

That this holds in any network, whatever goes: tests/test_grammar.py and tests/test_zoo.py.
"""

import pytest
import torch
import torch.nn.functional as F
from helpers import Net, Replaced, digits, drawn, kept, maps, randomize, relative_error, same
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.gaussian import Gaussian, mean_relu
from tlc_minimal.graph import activation_nodes, trace
from tlc_minimal.linearize import RULES
from tlc_minimal.modules import Affine
from tlc_minimal.stages import as_gaussians, as_tensors

torch.manual_seed(0)
X = torch.randn(64, 3, 9, 9, dtype=torch.float64)
names = lambda model: list(activation_nodes(trace(model)))


def by_hand(model, name, g, rule, dim=1):
    model = trace(model)
    model.add_submodule(name, Replaced(*maps(rule, g)[0], dim))
    return model


def gaussian(*ratios):
    """Ready statistics with these ratios mean / std."""
    mean = torch.tensor(ratios, dtype=torch.float64)
    return Gaussian(mean, torch.ones_like(mean))


def chain(bn=True, padding=0, stride=1, last_bias=True):
    """conv, norm, ReLU, conv; in float64 and with random statistics."""
    layers = [nn.Conv2d(3, 6, 3, stride, padding, bias=not bn)]
    layers += [nn.BatchNorm2d(6)] if bn else []
    layers += [nn.ReLU(), nn.Conv2d(6, 5, 3, stride, padding, bias=last_bias)]
    return randomize(nn.Sequential(*layers))


MIXED = gaussian(-1.0, 0.5, -0.2, 2.0, 0.0, 0.3)  # ON: channels 1, 3 and 5


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("bn", [True, False], ids=["BN-fed", "without BN"])
def test_a_chain_gets_exactly_slope_and_shift_and_off_channels_are_physically_gone(rule, bn):
    model = chain(bn).requires_grad_(False)
    name = names(model)[0]
    linear = tlc.linearize(model, name, {name: MIXED}, rule)
    assert names(linear) == []
    for frozen in (linear, tlc.fold(linear), tlc.merge(linear, X, "all")):
        assert not any(p.requires_grad for p in frozen.parameters())
    learning = tlc.merge(linear.requires_grad_(True), X, "all").parameters()
    assert all(p.requires_grad for p in learning)
    assert relative_error(linear(X), by_hand(model, name, MIXED, rule)(X)) < 1e-12
    kinds, left = (nn.Conv2d, nn.BatchNorm2d), 3 if rule.startswith("on_off") else 6
    first, *norms, last = [m for m in linear.children() if isinstance(m, kinds)]
    assert first.weight.shape == (left, 3, 3, 3) and first.out_channels == left
    assert last.weight.shape == (5, left, 3, 3) and last.in_channels == left
    assert [n.num_features for n in norms] == [left] * bn
    assert all(n.weight.shape == n.running_mean.shape == (left,) for n in norms)


@pytest.mark.parametrize("last_bias", [True, False])
@pytest.mark.parametrize("bn", [True, False])
def test_the_constants_of_off_channels_arrive_inside(bn, last_bias):
    """Exact inside with either padding, and as trained also on the border; conv bias or BN, or a
    channel of ones takes the constant. It goes into the mean of a norm behind, so that tuning goes
    on as it was: no bias to learn appears in front of one."""
    model = chain(padding=1, last_bias=last_bias)
    if bn:
        model.append(randomize(nn.Sequential(nn.BatchNorm2d(5)), 3)[0])
    want = by_hand(model, "2", MIXED, "on_off_affine")(X)
    for padding in ("first", "as_trained"):
        linear = tlc.linearize(model, "2", {"2": MIXED}, padding=padding)
        inside = (..., slice(2, -2), slice(2, -2)) if padding == "first" else ...
        assert relative_error(linear(X)[inside], want[inside]) < 1e-12
        assert linear(X).shape == want.shape
        if bn and not last_bias:
            assert linear.get_submodule("3").bias is None
            moved = linear.get_submodule("4").running_mean != model[4].running_mean
            assert moved.any() == (padding == "first"), "else zeros are in between"


@pytest.mark.parametrize("rule", ["on_off_affine", "on_off"])
def test_nothing_comes_back_after_tuning_and_the_papers_rule_leaves_a_frozen_mask(rule):
    data = digits(60, size=16)
    model = randomize(tlc.resnet18(width=4, stem="strong"), dtype=torch.float32)
    stats = tlc.statistics(model, data)
    cut, residual = "layer2.0.relu1", "layer2.0.relu2"
    assert 0 < stats[residual].on.sum() < len(stats[residual].on)
    linear = tlc.linearize(model, [cut, residual], stats, rule)
    affine = linear.get_submodule(f"{residual}_affine")
    before = kept(affine)
    tlc.fit(linear, data, 2, lr=0.02, progress=None)
    assert linear.get_submodule("layer2.0.conv1").out_channels == stats[cut].on.sum()
    assert isinstance(affine, Affine) and torch.equal(affine.on.bool(), stats[residual].on)
    z = torch.randn(2, len(affine.shift), 3, 3)
    response = affine(z) - affine(0 * z)
    assert not response[:, ~stats[residual].on].any() and response[:, stats[residual].on].any()
    assert same(affine, before) == (rule == "on_off"), "else the ON slopes are tuned"
    assert rule != "on_off" or set(affine.slope.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("padding", ["first", "as_trained"])
@pytest.mark.parametrize("rule", ["on_off", "on_off_affine"])
def test_an_all_off_residual_branch_disappears_into_a_constant(rule, padding):
    model = randomize(tlc.resnet18(width=4, stem="strong")).requires_grad_(False)
    off, name = gaussian(-1.0, -0.1, -3.0, 0.0), "layer1.0.relu1"
    linear = tlc.linearize(model, name, {name: off}, rule, padding)
    left = {k.removeprefix("layer1.0.") for k in linear.state_dict() if "layer1.0." in k}
    assert not any(p.requires_grad for p in linear.parameters())
    want = by_hand(model, name, off, rule)
    if rule == "on_off_affine" and padding == "as_trained":  # under zero padding: a map of biases
        assert left == {"conv2_constant.conv.weight", "conv2_constant.conv.bias"}
        assert linear.get_submodule("layer1.0.conv2_constant").conv.in_channels == 1
    else:
        assert left == {"conv2_constant.shift"}
    if rule == "on_off" or padding == "as_trained":  # a zero has no border
        assert relative_error(linear(X), want(X)) < 1e-12
    z, block = torch.randn(2, 4, 9, 9, dtype=torch.float64), model.layer1[0]
    inner = Replaced(*maps(rule, off)[0])(block.bn1(block.conv1(z)))
    branch = block.bn2(block.conv2(inner))[0, :, 4, 4].view(1, -1, 1, 1)
    got = linear.get_submodule("layer1.0.conv2_constant")(z)
    assert relative_error((got - z)[..., 4, 4], branch[..., 0, 0].expand(2, 4)) < 1e-12


@pytest.mark.parametrize("rule", ["on_off", "on_off_affine"])
def test_an_all_off_chain_keeps_the_channel_closest_to_on_and_a_stream_passes_something(rule):
    model, off = chain(), gaussian(-1.0, -0.3, -4.0, -1.0, -2.0, -0.4)
    off.std[2] = 20.0  # r = -0.2
    linear = tlc.linearize(model, "2", {"2": off}, rule)
    assert torch.equal(linear.get_submodule("0").weight, model[0].weight[2:3])
    out = linear(X)
    assert out.isfinite().all() and out.std(0).max() > 0, "something still gets through"
    model = tlc.resnet18(10, 4).eval()  # what the stem makes goes into a branch and its shortcut
    nn.init.constant_(model.bn1.bias, -0.1)
    linear = tlc.linearize(model, "relu", torch.randn(8, 3, 16, 16), rule)
    x = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(linear(x)[0], linear(x)[1])


def test_an_all_off_chain_is_no_worse_for_the_channel_that_it_keeps():
    """The kept channel should cost at most what its constant would have cost."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)).double().eval()
    model[0].bias.data.fill_(-1.0)
    model[2].weight.data.copy_(torch.eye(2).view(2, 2, 1, 1))
    g = tlc.statistics(model, X)["1"]
    assert not g.on.any()
    error = (tlc.linearize(model, "1", X)(X) - model(X)).square().mean()
    constant = mean_relu(g.mean, g.std).view(1, 2, 1, 1) + model[2].bias.view(1, 2, 1, 1)
    assert error <= (constant - model(X)).square().mean()


def fork(net, x):
    """One activation that feeds two convolutions, one of them behind a functional pool."""
    z = F.relu(net.bn(net.a(x)))
    return net.b(z).mean((2, 3)) + net.c(F.max_pool2d(z, 2)).mean((2, 3))


SMALL = {  # layers, size of the input, axis of the channels, weights afterwards
    "a flattened map, pixel by pixel": (lambda: (
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(), nn.Linear(54, 5)), (3, 9, 9), 1, {"0": (3, 3, 3, 3), "6": (5, 27)}),
    "linear layers and a norm, which might be one of tokens: nothing goes": (lambda: (
        nn.Linear(7, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)),
        (7,), 1, {"0": (6, 7), "3": (2, 6)}),
    "flattened tokens, of which nobody said how many: nothing goes": (lambda: (
        nn.Linear(7, 6), nn.ReLU(), nn.Flatten(), nn.Linear(30, 2)),
        (5, 7), -1, {"0": (6, 7), "3": (2, 30)}),
    "a norm that takes the tokens, not the features, as channels": (lambda: (
        nn.Linear(7, 4), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)),
        (6, 7), 1, {"0": (4, 7), "4": (2, 24)}),
    "behind a depthwise convolution, what is in front of it (MobileNetV2)": (lambda: (
        nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6), nn.SiLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 5, 1)), (3, 9, 9), 1,
        {"0": (3, 3, 1, 1), "1": (3,), "3": (3, 1, 3, 3), "6": (5, 3, 1, 1)}),
    "everything that the channels feed": (lambda: (
        Net(fork, a=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm2d(6), b=nn.Conv2d(6, 4, 3),
            c=nn.Conv2d(6, 4, 2, bias=False)),),
        (3, 9, 9), 1, {"0.a": (3, 3, 3, 3), "0.b": (4, 3, 3, 3), "0.c": (4, 3, 2, 2)}),
}  # fmt: skip
for g, h in ((1, 6), (3, 1), (1, 2)):
    SMALL[f"neighbours in {g} and {h} groups"] = (lambda g=g, h=h: (
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=g, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=h)), (3, 9, 9), 1,
        {"1": (6, 6 // g, 3, 3), "4": (6, 6 // h, 3, 3)})  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_what_is_cut_of_small_networks_and_that_the_rest_is_right(name):
    layers, size, dim, shapes = SMALL[name]
    model, x = randomize(nn.Sequential(*layers())), torch.randn(8, *size, dtype=torch.float64)
    *_, act = names(model)
    linear = tlc.linearize(model, act, {act: MIXED})
    assert {k: tuple(linear.get_submodule(k).weight.shape) for k in shapes} == shapes
    want = by_hand(model, act, MIXED, "on_off_affine", dim)(x)
    assert relative_error(linear(x), want) < 1e-12


def test_inputs_tell_that_a_norm_behind_a_linear_layer_is_one_of_features():
    model = nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    model[1].bias.data.copy_(torch.tensor([5.0, -5, 5, -5, 5, -5]))
    linear = tlc.linearize(model.double().eval(), "2", torch.randn(64, 7).double())
    assert linear.get_submodule("0").out_features == linear.get_submodule("3").in_features == 3
    assert isinstance(tlc.fold(model).get_submodule("1"), nn.BatchNorm1d), "without inputs it stays"
    x = torch.randn(64, 6, 7).double()  # here it is one of tokens, though there are as many
    linear = tlc.linearize(model, "2", x)
    assert linear(x).shape == model(x).shape == tlc.merge(linear, x)(x).shape


# ---- padding ----
paddings = lambda model: [m.padding[0] for m in model.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("rule", RULES)
def test_padding_moves_to_the_first_convolution_or_stays_where_it_is(rule):
    model = chain(padding=1, stride=2)
    linear = tlc.linearize(model, "2", {"2": MIXED}, rule, "first")
    assert paddings(linear) == [3, 0]  # p1 + s1 p2
    for size in (9, 16, 17):
        x = torch.randn(1, 3, size, size, dtype=torch.float64)
        assert linear(x).shape == model(x).shape
    assert paddings(tlc.linearize(model, "2", {"2": MIXED}, rule)) == [1, 1]
    if rule == "affine":  # no zeros in between
        z = model[1](F.conv2d(X, model[0].weight, stride=2, padding=3))
        z = Replaced(*maps("affine", MIXED)[0])(z)
        want = F.conv2d(z, model[3].weight, model[3].bias, 2)
        assert relative_error(linear(X), want) < 1e-12


@pytest.mark.parametrize("order, rule", [((2, 3), "affine"), ((3, 2), "on_off")])
def test_padding_moves_through_a_chain_of_three_in_any_order(order, rule):
    linear = model = randomize(tlc.simple_cnn(width=4))
    for number in order:
        linear = tlc.linearize(linear, f"relu{number}", X, rule, "first")
    # relu2 and relu3 join convolutions 2, 3 and 4 with strides 2, 1, 2: 1 + 2 · (1 + 1 · 1)
    assert paddings(linear) == [1, 5, 0, 0, 1, 1]
    for size in (16, 19, 32):
        x = torch.randn(1, 3, size, size, dtype=torch.float64)
        assert linear(x).shape == model(x).shape


def test_padding_does_not_move_past_a_pool_or_a_branch():
    model = randomize(tlc.resnet18(width=4))
    linear = tlc.linearize(model, ["relu", "layer1.0.relu2"], X, "affine", "first")
    assert paddings(linear) == paddings(model)


@pytest.mark.parametrize("rule", [*RULES, "thrifty"])
def test_the_given_model_is_never_modified_and_what_was_frozen_stays_frozen(rule):
    model = randomize(tlc.resnet18(width=4)).train()
    model.bn1.eval()
    before = kept(model)
    linear = tlc.linearize(model, names(model), X, rule)
    for parameter in linear.parameters():
        parameter.data.add_(1)
    assert same(model, before)
    assert model.training and linear.training and len(names(model)) == 17
    assert not linear.bn1.training and linear.layer1.get_submodule("0").bn1.training


# ---- constants that are none ----
def attack(path, front=False, end=None):
    """conv, ReLU, ``path`` (or in front), a layer: what is OFF goes only if ``path`` lets it."""
    last, first = (F.relu, path) if front else (path, F.relu)
    run = lambda net, x: net.b(last(first(net.bn(net.a(x)))))
    ends = {"bn": nn.BatchNorm2d(6), "b": end or nn.Conv2d(6, 5, 3, padding=1)}
    return randomize(Net(run, a=nn.Conv2d(3, 6, 3), **ends))


MIXES = {
    "they change places in groups": lambda z: z.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2),
    "the mean of all is added, hardly": lambda z: torch.add(z, z.mean(1, True), alpha=1e-7),
    "channels are normalised by their neighbours": lambda z: F.local_response_norm(z, 3),
    "noise saturates": lambda z: z.sum(1, True).clamp(5e6, 6e6).expand(-1, 6, -1, -1),
    "pixels and channels change places": lambda z: z.transpose(1, 2)[:, :6],
    "only what is large is mixed": lambda z: z * (z.amax(1, True) < 50),
    "a softmax counts the channels": lambda z: z.softmax(1),
    "the channels are counted": lambda z: z * z.shape[1],
    "the images are counted": lambda z: z + z.size(0), "they are turned round": lambda z: z.flip(1),
    "they are sorted": lambda z: z.sort(1).values, "they are summed up": lambda z: z.cumsum(1),
    "they are shifted": lambda z: z.roll(1, 1), "noise": lambda z: F.dropout(z, 0.5, True),
}  # fmt: skip
PASSES = {  # and what stays: what zeros are put around needs one more channel, of ones
    "pooled, whatever the size": (lambda z: F.avg_pool2d(z, z.size()[2:]).view(z.size(0), -1), 3),
    "flattened by a product": (lambda z: z.reshape(z.size(0), z.size(1) * z.size(2) * 7), 147),
    "rows by numbers": (lambda z: z.view(z.size(0), 6, 49).mean(-1), 3),
    "a clamp, which may saturate": (lambda z: z.clamp(0.2, 0.5), 3),
    "pooled, in front of zeros": (lambda z: F.max_pool2d(z, 2), 4),
    "a sum, which counts the pixels": (lambda z: z.sum((2, 3)), 4),
    "pooled with zeros": (lambda z: F.avg_pool2d(z, 3, 1, 1), 4),
    "flattened by numbers": (lambda z: z.view(-1, 294), 147),
    "resized": (lambda z: F.adaptive_avg_pool2d(z, 5), 4),
    "flattened": (lambda z: z.view(z.shape[0], -1), 147), "one pixel": (lambda z: z[:, :, 0, 0], 3),
    "a global mean": (lambda z: z.mean((2, 3)), 3), "twice the square": (lambda z: 2 * z**2, 3),
}  # fmt: skip
AXES = {  # what is done to four channels, and along which axis they are then
    "a shuffle": (lambda y: y.view(y.size(0), 2, 2, 7, 7).transpose(1, 2).flatten(1, 2), 1),
    "by name": (lambda y: y.transpose(dim0=1, dim1=3).permute(dims=(0, 2, 1, 3)), -1),
    "there and back": (lambda y: y.permute(0, 2, 3, 1).permute(0, 3, 1, 2), 1),
    "and by another way": (lambda y: y.permute(0, 2, 3, 1).transpose(1, 3).transpose(2, 3), 1),
    "features of a decoder": (lambda y: y.view(-1, 4, 3, 3), 1),
    "einsum": (lambda y: torch.einsum("nchw->nhwc", y), -1),
    "movedim": (lambda y: y.movedim(1, -1), -1), "swapdims": (lambda y: y.swapdims(1, 2), 2),
    "unsqueeze": (lambda y: y.unsqueeze(1), 2), "tokens": (lambda y: y.flatten(2).mT, -1),
}  # fmt: skip


@pytest.mark.parametrize("name, front", [(n, f) for n in MIXES for f in (0, "places" not in n)])
def test_what_mixes_channels_loses_none(name, front):
    """Whatever is between: a channel is cut only where nothing else can tell that it is gone."""
    model = attack(MIXES[name], front)
    linear = tlc.linearize(model, "relu1", {"relu1": MIXED})
    assert linear.a.out_channels == 6 == linear.b.in_channels and hasattr(linear, "relu1_affine")
    torch.manual_seed(1)
    want = by_hand(model, "relu1", MIXED, "on_off_affine")(100 * X)
    torch.manual_seed(1)
    assert relative_error(linear(100 * X), want) < 1e-12


def test_a_turn_that_leaves_the_kept_in_their_places_moves_the_channel_of_ones():
    model = attack(MIXES["they are turned round"])
    even = tlc.Gaussian(torch.tensor([1.0, 1, -1, -1, 1, 1]).double(), torch.ones(6).double())
    want = by_hand(model, "relu1", even, "on_off_affine")(X)
    assert relative_error(tlc.linearize(model, "relu1", {"relu1": even})(X), want) < 1e-12


def test_an_activation_of_one_number_an_image_is_in_nobodys_way():
    scale = lambda x: F.softplus(x.mean((1, 2, 3)))[:, None]
    run = lambda net, x: net.b(net.r(net.a(x)).mean((2, 3))) * scale(x)
    model = Net(run, a=nn.Conv2d(3, 6, 3), r=nn.ReLU(), b=nn.Linear(6, 2)).double()
    linear = tlc.linearize(model, "r", X)
    assert [*tlc.statistics(model, X, ["r"])] == ["r"] and not hasattr(linear, "r")


def test_an_instance_norm_counts_the_channels_that_are_left(recwarn):
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
    linear = tlc.linearize(model.double(), "2", {"2": MIXED})
    want = by_hand(model, "2", MIXED, "on_off_affine")(X)
    assert relative_error(linear(X), want) < 1e-12 and getattr(linear, "1").num_features == 3
    assert not recwarn.list
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 7, 7]), nn.ReLU()).double()
    assert tlc.find_layers(model, X)[0].channels == 4, "a norm of whole pictures moves none"


@pytest.mark.parametrize("side", [4, 5])
def test_statistics_know_along_which_axis_they_were_taken(side):
    """Behind a view of the layer that makes the channels, which no shape explains."""
    first = nn.Linear(5, 4 * side**2), nn.Unflatten(1, (4, side, side)), nn.ReLU()
    model, x = nn.Sequential(*first, nn.ConvTranspose2d(4, 3, 4)).double(), X[:, 0, 0, :5]
    stats, want = tlc.statistics(model, x), tlc.linearize(model, "2", x, "affine")(x)
    for g in (stats, as_gaussians(as_tensors([stats]))[0]):
        assert relative_error(tlc.linearize(model, "2", g, "affine")(x), want) < 1e-12
    with pytest.raises(ValueError, match="only inputs tell where the channels of 2 are: give"):
        tlc.linearize(model, "2", {"2": Gaussian(stats["2"].mean, stats["2"].std)})


@pytest.mark.parametrize("path, stay", PASSES.values(), ids=PASSES)
def test_constants_are_followed_through_what_leaves_channels_alone(path, stay, capfd):
    shape = path(torch.ones(2, 6, 7, 7)).shape
    end = nn.Linear(shape[1], 5) if len(shape) == 2 else nn.Conv2d(6, 5, 3, padding=stay - 3)
    model = attack(path, end=end)
    want = by_hand(model, "relu1", MIXED, "on_off_affine")
    linear = tlc.linearize(trace(model, example=X), "relu1", {"relu1": MIXED})
    assert linear.a.out_channels == 3 and linear.b.weight.shape[1] == stay
    for got in (linear, tlc.linearize(model, "relu1", {"relu1": MIXED})):  # without example, too
        assert max(relative_error(got(x), want(x)) for x in (X, X[:1])) < 1e-12
    assert not capfd.readouterr().err


@pytest.mark.parametrize("path, front, go", [
    (lambda z: F.avg_pool2d(F.max_pool2d(z, 2), 3, 1, 1), True, True),
    (lambda z: z + (z.size(3) == 7), False, False),
])  # fmt: skip
def test_an_example_says_what_goes_in_front_and_behind(path, front, go):
    model = attack(path, front)
    g, linear = tlc.statistics(model, X)["relu1"], tlc.linearize(model, "relu1", X)
    assert 0 < g.on.sum() < 6 and linear.a.out_channels == (g.on.sum() if go else 6)
    assert relative_error(linear(X), by_hand(model, "relu1", g, "on_off_affine")(X)) < 1e-8


@pytest.mark.parametrize("name, path, dim", [(name, *AXES[name]) for name in AXES], ids=AXES)
def test_channels_are_where_a_view_puts_them(name, path, dim):
    ends = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Flatten(), nn.Linear(243, 36))
    model = Net(lambda net, x: F.relu(path(net.a(x))), a=ends["decoder" in name]).double().eval()
    g = tlc.statistics(model, X)["relu1"]
    assert tlc.find_layers(model, X)[0].channels == len(g.mean) == 4
    want = by_hand(trace(model, example=X), "relu1", g, "affine", dim)(X)
    assert relative_error(tlc.linearize(model, "relu1", X, "affine")(X), want) < 1e-12


# ---- thrifty: cuts only where cutting saves ----
AS = {"layer2.0.relu1": "on_off_affine", "layer2.0.relu2": "affine", "relu": "affine"}


@pytest.mark.parametrize("name, rule", AS.items())
def test_thrifty_cuts_inside_a_block_and_nowhere_else_and_ranking_knows_it(name, rule):
    model = drawn(tlc.resnet18, width=4)
    thrifty, want = (tlc.linearize(model, name, X, r) for r in ("thrifty", rule))
    assert torch.equal(thrifty(X), want(X)) and tlc.count(thrifty, X) == tlc.count(want, X)
    data = digits(60, size=16)
    scores = [tlc.rank(model.float(), data, "gaussian", r)[name] for r in ("thrifty", rule)]
    assert scores[0] == scores[1]


def test_thrifty_is_as_small_as_on_off_affine_and_errs_less():
    """On all post-sum activations at once: the mask of the OFF channels saves nothing."""
    model = drawn(tlc.resnet18, width=4)
    several = [layer.name for layer in tlc.find_layers(model, X) if layer.after_sum]
    macs, errors = [], []
    for rule in ("thrifty", "on_off_affine"):
        macs.append(tlc.count(tlc.linearize(model, several, X, rule), X)["macs"])
        one = tlc.linearize(model, several[0], X, rule)
        errors.append((one(X) - model(X)).square().mean())
    assert macs[0] == macs[1] and errors[0] < errors[1]


# ---- what is the same for every input, and sums that spread ----
FEATURES, TOKENS = nn.Parameter(torch.randn(3, 6)), torch.randn(4, 3, 5, dtype=torch.float64)
add = lambda size: lambda net, x: net.b(F.relu(net.a(x) + torch.ones(size).double()))
ODD = {"positions": (lambda net, x: net.b(F.relu(FEATURES.double() + net.a(x))), -1)}
ODD |= {"stack": (lambda net, x: net.b(F.relu(torch.stack([net.a(x), net.a(-x)]).sum(0))), 1)}
ODD |= {f"constant {size}": (add(size), 1) for size in ((6, 6, 6), (6, 1, 1), (1,), ())}


@pytest.mark.parametrize("kind", ODD)
def test_the_channels_of_odd_sums_are_found_and_fold(kind):
    (run, dim), make = ODD[kind], lambda *of: nn.Linear(*of) if dim < 0 else nn.Conv2d(*of, 3)
    x = TOKENS if dim < 0 else torch.randn(4, 5, 8, 8, dtype=torch.float64)
    model = Net(run, a=make(5, 6), b=make(6, 2)).double().eval()
    g, linear = tlc.statistics(model, x)["relu1"], tlc.linearize(model, "relu1", x, "affine")
    assert len(g.mean) == tlc.find_layers(model, x)[0].channels == 6
    want = by_hand(trace(model, example=x), "relu1", g, "affine", dim)(x[:1])
    for equal in (linear, tlc.fold(linear), tlc.fold(linear, x), tlc.merge(linear, x, "all")):
        assert relative_error(equal(x[:1]), want) < 1e-12


@pytest.mark.parametrize("shortcut", [nn.Conv2d(3, 4, 8), nn.Conv2d(3, 1, 1)])
def test_a_shortcut_that_a_sum_spreads_keeps_its_branch(shortcut):
    run = lambda net, x: F.relu(net.s(x) + net.b(F.relu(net.a(x))))
    model = Net(run, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1), s=shortcut).double().eval()
    model.a.bias.data -= 100
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert tlc.linearize(model, "relu1", x)(x).shape == model(x).shape


@pytest.mark.parametrize("rule", ["affine", "on_off_affine"])
def test_what_is_put_in_takes_nobodys_name_and_thins_nothing_but_channels(rule):
    run = lambda net, x: net.relu1_affine(torch.sigmoid(net.relu1_ones(F.relu(net.a(x)))))
    odd = {"relu1_affine": nn.Conv2d(5, 4, 1), "relu1_ones": nn.Conv2d(4, 5, 3, padding=1)}
    model = Net(run, a=nn.Conv2d(3, 4, 3), **odd).double().eval()
    model.a.register_buffer("seen", torch.zeros(7))
    g = gaussian(-1.0, 1.0, -1.0, 1.0)
    linear = tlc.linearize(model, "relu1", {"relu1": g}, rule)
    want = by_hand(trace(model), "relu1", g, rule)(X)
    assert relative_error(linear(X), want) < 1e-12 and len(linear.a.seen) == 7
    run = lambda net, x: net.relu1_layer(torch.sigmoid(net.relu1_norm(net.b(F.relu(net.a(x))))))
    odd = {"relu1_layer": odd["relu1_affine"], "relu1_norm": nn.Conv2d(4, 5, 1).double()}
    model = Net(run, a=model.a, b=nn.Conv2d(4, 4, 1).double(), **odd).eval()
    assert tlc.project(model, "relu1", X).model(X[:2]).shape == model(X[:2]).shape


def test_an_all_off_branch_whose_norm_knows_nothing_stays():
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    run = lambda net, x: x + net.n(net.b(F.relu(net.a(x))))
    model = Net(run, a=nn.Conv2d(3, 4, 3, padding=1), b=nn.Conv2d(4, 3, 1), n=norm).double()
    linear = tlc.linearize(model.eval(), "relu1", {"relu1": gaussian(*[-1.0] * 4)}, "affine")
    off = tlc.linearize(model, "relu1", {"relu1": gaussian(*[-1.0] * 4)})
    assert off(X).shape == linear(X).shape and off.n.training is False
