"""Where statistics come from: a batch norm directly in front, or else a measurement."""

import copy

import pytest
import torch
from helpers import drawn, received
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.graph import activation_nodes, trace
from tlc_minimal.methods.published import published_statistics
from tlc_minimal.statistics import Welford, from_batch_norm

make = lambda: drawn(tlc.resnet18, width=4, stem="strong", dtype=torch.float32)
model = pytest.fixture(scope="module")(make)
X = torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def stats(model):
    return tlc.statistics(copy.deepcopy(model).train(), X)  # they are those of eval mode


def pre_activations(model, x):
    """{name: everything that the activation receives}, in one batch, in the model's mode."""
    traced = trace(model)
    return received(traced, x, activation_nodes(traced))


def test_behind_a_batch_norm_they_are_gamma_and_beta(model, stats):
    assert list(stats) == [layer.name for layer in tlc.find_layers(model, X[:1])]
    assert all(g.mean.shape == g.std.shape == (g.mean.numel(),) for g in stats.values())
    norm = model.layer3[0].bn1
    assert torch.equal(stats["layer3.0.relu1"].mean, norm.bias)
    shrink = (norm.running_var / (norm.running_var + norm.eps)).sqrt()
    torch.testing.assert_close(stats["layer3.0.relu1"].std, norm.weight.abs() * shrink)
    g = from_batch_norm(nn.BatchNorm2d(3, affine=False, eps=0))
    assert g.mean.tolist() == [0, 0, 0] and g.std.tolist() == [1, 1, 1]


def test_gamma_and_beta_are_exact_over_a_training_batch():
    norm = nn.BatchNorm2d(5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    z = 1e-2 * torch.randn(40, 5, 6, 6) + torch.randn(5, 1, 1)  # a variance where eps matters
    out = norm(z).detach().transpose(0, 1).flatten(1).double()
    norm.running_mean, norm.running_var = z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)
    claimed = from_batch_norm(norm)
    torch.testing.assert_close(claimed.mean.double(), out.mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(claimed.std.double(), out.std(1, unbiased=False), rtol=1e-4, atol=0)


def test_behind_a_sum_they_are_measured_and_measured_statistics_measure_everywhere(model, stats):
    seen, measured = pre_activations(model, X), tlc.measured_statistics(model, X)
    assert list(measured) == list(stats)
    assert not torch.allclose(measured["layer2.0.relu1"].mean, stats["layer2.0.relu1"].mean)
    sums = dict.fromkeys(("layer1.0.relu2", "layer3.1.relu2", "layer4.1.relu2"), stats)
    for name, found in (sums | {"layer2.0.relu1": measured}).items():
        z = seen[name].transpose(0, 1).flatten(1).double()
        want = z.mean(1), z.std(1, unbiased=False)
        got = found[name].mean.double(), found[name].std.double()
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_without_a_batch_norm_that_knows_they_are_measured():
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
    linear, tokens = nn.Linear(6, 5), torch.randn(50, 7, 6)
    z = conv(X).detach().transpose(0, 1).flatten(1)
    for layers, x, mean, std in (
        ([conv], X, z.mean(1), z.std(1, unbiased=False)),
        ([conv, norm], X, torch.zeros(4), torch.ones(4)),
        ([linear], tokens, (y := linear(tokens).detach()).mean((0, 1)), y.std((0, 1))),
    ):
        (g,) = tlc.statistics(nn.Sequential(*layers, nn.ReLU()), x).values()
        torch.testing.assert_close(g.mean, mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(g.std, std, rtol=2e-3, atol=1e-3)


def test_the_published_statistics_forget_the_mean_of_the_shortcut(model):
    """In train mode every branch has mean beta exactly, so what is missing is the shortcut's."""
    beta, shortcut = model.layer3[0].bn2.bias, model.layer3[0].shortcut[1].bias
    model = trace(model).train()
    seen = pre_activations(model, X)
    z = seen["layer3.0.relu2"].transpose(0, 1).flatten(1)
    published = published_statistics(model)["layer3.0.relu2"]
    assert torch.equal(published.mean, beta)
    torch.testing.assert_close(z.mean(1) - published.mean, shortcut, rtol=0, atol=1e-4)
    z, identity = seen["layer3.1.relu2"], seen["layer3.0.relu2"].relu()
    missing = z.mean((0, 2, 3)) - published_statistics(model)["layer3.1.relu2"].mean
    torch.testing.assert_close(missing, identity.mean((0, 2, 3)), rtol=0, atol=1e-4)


def test_welford_equals_one_pass_over_everything_in_uneven_batches():
    x = 1e4 + torch.randn(101, 5, 3, dtype=torch.float64)  # far from 0: E[z²] - E[z]² would fail
    tally = Welford(dim=1)
    for part in x.split([1, 50, 3, 47]):
        tally.update(part)
    want = x.transpose(0, 1).flatten(1)
    torch.testing.assert_close(tally.mean, want.mean(1), rtol=1e-12, atol=0)
    got = tally.squares / tally.count
    torch.testing.assert_close(got, torch.var(want, 1, unbiased=False), rtol=1e-9, atol=0)
    assert tally.result().std.dtype == torch.float32


def test_at_most_2048_images_are_used():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
    x = torch.cat([torch.zeros(2048, 3, 1, 1), torch.full((500, 3, 1, 1), 1e6)])
    assert tlc.statistics(model, x)["1"].std.max() < 1e-6
