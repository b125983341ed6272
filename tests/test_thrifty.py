"""The rule that cuts only where cutting saves: what it means at each activation."""

import pytest
import torch
from helpers import randomize

import tlc_minimal as tlc

X = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomize(tlc.resnet18(width=4)).eval()


@pytest.mark.parametrize(
    ("name", "same"),
    [("layer2.0.relu1", "on_off_affine"), ("layer2.0.relu2", "affine"), ("relu", "affine")],
)
def test_it_cuts_inside_a_block_and_nowhere_else(model, name, same):
    thrifty, want = (tlc.linearize(model, name, X, rule) for rule in ("thrifty", same))
    assert torch.equal(thrifty(X), want(X))
    assert tlc.count(thrifty, X) == tlc.count(want, X)


def test_it_is_as_small_as_on_off_affine_and_errs_less(model):
    """On all post-sum activations at once: the mask of the OFF channels saves nothing."""
    names = [layer.name for layer in tlc.find_layers(model, X) if layer.after_sum]
    results = {r: tlc.linearize(model, names, X, r) for r in ("thrifty", "on_off_affine")}
    counts = [tlc.count(m, X)["macs"] for m in results.values()]
    assert counts[0] == counts[1]
    one = names[0]
    errors = [
        (tlc.linearize(model, one, X, r)(X) - model(X)).square().mean() for r in results
    ]  # fmt: skip
    assert errors[0] < errors[1]


def test_ranking_knows_it(model):
    data = tlc.load_data("digits", size=32).subset(60)
    model = model.float()
    scores = {
        rule: tlc.rank(model, data, "gaussian", rule)
        for rule in ("thrifty", "affine", "on_off_affine")
    }
    assert scores["thrifty"]["layer2.0.relu2"] == scores["affine"]["layer2.0.relu2"]
    assert scores["thrifty"]["layer2.0.relu1"] == scores["on_off_affine"]["layer2.0.relu1"]
