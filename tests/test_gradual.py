"""Fading an activation out: what it is at the start, in the middle and at the end."""

import pytest
import torch
from helpers import randomize
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.gradual import Fading, fade, faded

X = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return randomize(tlc.simple_cnn(width=4), dtype=torch.float32).eval()


def test_by_hand():
    """relu(z) = (0, 2) and 0.5 z + 1 = (0, 2.5) for two channels, four steps."""
    fading = Fading(nn.ReLU(), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1.5]), 1, steps=4)
    z = torch.tensor([[-2.0, 2.0]])
    assert torch.equal(fading.eval()(z), torch.tensor([[0.0, 2.0]])), "nothing yet"
    want = [[0, 2.125], [0, 2.25], [0, 2.375], [0, 2.5], [0, 2.5]]
    for row in want:
        torch.testing.assert_close(fading.train()(z), torch.tensor([row]))


@pytest.mark.parametrize("rule", ["on_off", "on_off_affine", "affine", "identity"])
def test_it_starts_as_the_model_and_ends_as_linearize(model, rule):
    g = tlc.statistics(model, X)
    faint = fade(model, "relu4", g["relu4"], rule, steps=1)
    torch.testing.assert_close(faint(X), model(X))
    linear = tlc.linearize(model, "relu4", g, rule)
    with torch.no_grad():
        faint.relu4.train()(torch.zeros(1, 8, 2, 2))  # one training step
        torch.testing.assert_close(faint.eval()(X), linear(X), rtol=1e-4, atol=1e-5)


def test_the_activation_comes_back(model):
    faint = fade(model, "relu4", tlc.statistics(model, X)["relu4"], "on_off", steps=1)
    back = faded(faint, "relu4")
    torch.testing.assert_close(back(X), model(X))
    assert [layer.name for layer in tlc.find_layers(back, X)] == [f"relu{i}" for i in range(1, 7)]


def test_an_unknown_name_is_refused(model):
    with pytest.raises(ValueError, match="relu9"):
        fade(model, "relu9", tlc.statistics(model, X)["relu4"], "on_off", 1)


@pytest.mark.parametrize("wrong", [{"padding": "first"}, {"rule": "published"}])
def test_it_needs_a_line_and_nothing_else(model, wrong, tmp_path):
    data = tlc.load_data("digits", size=16).subset(100)
    with pytest.raises(ValueError, match="gradual needs padding='as_trained'"):
        tlc.collapse(model, data, 1, gradual=True, out=tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def test_a_gradual_collapse_resumes_to_the_same_network(model, tmp_path):
    data = tlc.load_data("digits", size=16).subset(200)
    options = {"epochs": 1, "gradual": True, "progress": False}
    whole = tlc.collapse(model, data, 2, out=tmp_path / "whole", **options)
    tlc.collapse(model, data, 1, out=tmp_path / "parts", **options)
    parts = tlc.collapse(model, data, 2, out=tmp_path / "parts", resume=True, **options)
    x = data.example
    torch.testing.assert_close(parts.model(x), whole.model(x))
    assert list(whole.table["activations"]) == [6, 5, 4]
    torch.testing.assert_close(tlc.load_run(model, tmp_path / "whole", 2)(x), whole.linear(x))
