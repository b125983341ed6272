"""Networks without batch norm: every tool takes them, an MLP without its GELU is one matrix."""

import json

import pytest
import torch
from helpers import randomize, received, relative_error
from torch import nn
from torchvision.models import mobilenet_v2

import tlc_minimal as tlc
from tlc_minimal.experiments.beyond import plan
from tlc_minimal.experiments.elsewhere import beyond
from tlc_minimal.experiments.pieces import run_pieces
from tlc_minimal.gaussian import best_affine
from tlc_minimal.lessons.transformers import PACKAGES, TextEncoder, load_text, swin, vit

TEXT = load_text(length=16, vocabulary=32)
INPUTS = {"image": torch.randn(3, 3, 32, 32), "text": TEXT.normalize(TEXT.train.images[:3])}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A small network in float64 with every parameter random (torchvision's heads begin at 0)."""
    torch.manual_seed(0)
    model = {
        "vit": lambda: vit(width=16, depth=2),
        "swin": lambda: swin(width=8),
        "text": lambda: TextEncoder(32, 16, 6, width=16),
    }[name]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.double().eval(), INPUTS["text" if name == "text" else "image"].double()


each_network = pytest.mark.parametrize("name", ["vit", "swin", "text"])


@each_network
def test_gelus_are_found_and_statistics_are_those_of_all_tokens(name):
    model, x = build(name)
    gelus = [key for key, module in model.named_modules() if isinstance(module, nn.GELU)]
    seen = received(model, x, gelus)
    layers, found = tlc.find_layers(model, x), tlc.statistics(model, x)
    assert len(layers) == {"vit": 2, "swin": 6, "text": 2}[name]
    assert all(a.kind == "GELU" and a.norm is None and not a.after_sum for a in layers)
    assert list(found) == list(seen)
    for key, g in found.items():
        tokens = seen[key].flatten(0, -2)  # (everything else, features)
        torch.testing.assert_close(g.mean.double(), tokens.mean(0), rtol=1e-5, atol=1e-6)
        std = tokens.std(0, correction=0)
        torch.testing.assert_close(g.std.double(), std, rtol=1e-5, atol=1e-6)


@each_network
@pytest.mark.parametrize("rule", ["on_off", "affine"])
def test_every_mlp_becomes_one_matrix(name, rule):
    """Per token: 4 d² + 4 d² multiplications before, d² after; a ViT's other products stay."""
    model, x = build(name)
    gaussians = tlc.statistics(model, x)
    linear = tlc.linearize(model, list(gaussians), gaussians, rule).eval()
    merged = tlc.merge(linear, x, keep="all")
    assert relative_error(merged(x), linear(x)) < 1e-10
    assert relative_error(linear(x), model(x)) > 1e-5  # something was taken out, and it matters
    assert tlc.count(merged, x)["activations"] == 0
    shapes = [tuple(m.weight.shape) for m in merged.modules() if isinstance(m, nn.Linear)]
    width = {"vit": 16, "swin": 8, "text": 16}[name]
    assert all(rows != 4 * columns and columns != 4 * rows for rows, columns in shapes), shapes
    assert (width, width) in shapes
    if name == "vit":
        tokens, depth, d = 8 * 8 + 1, 2, 16
        before, after = (tlc.count(network, x)["macs"] for network in (model, merged))
        block = tokens * (4 * d * d + 2 * tokens * d + d * d)
        assert after == depth * block + (tokens - 1) * 48 * d + 10 * d
        assert before - after == depth * tokens * 7 * d * d


def test_an_mlp_by_hand():
    model, x = build("text")
    name, g = next(iter(tlc.statistics(model, x).items()))
    first, second = (model.get_submodule(name.replace("mlp.1", f"mlp.{i}")) for i in (0, 2))
    a, b = best_affine(g.mean.double(), g.std.double(), nn.GELU())
    weight = second.weight @ (a[:, None] * first.weight)
    bias = second.weight @ (a * first.bias + b) + second.bias
    merged = tlc.merge(tlc.linearize(model, name, {name: g}, "affine").eval(), x, keep="all")
    one = merged.get_submodule(name.replace("mlp.1", "mlp.2"))
    # Behind the sum is the norm, and the shortcut is the MLP's own input: it goes in, too (BERT).
    shortcut = torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(one.weight.data, (weight + shortcut).data, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.bias.data, bias.data, rtol=1e-6, atol=1e-6)


@each_network
def test_collapsed(name, digits):
    model = build(name)[0].float()
    data = TEXT.subset(64) if name == "text" else digits.subset(64)
    table = tlc.explain(model, data, [a.name for a in tlc.find_layers(model, data)], "affine")
    assert table["what"].str.startswith("merged into").any()
    how = {"method": "one_by_one", "rule": "affine", "keep": "all", "progress": False}
    run = tlc.collapse(model, data, 2, epochs=1.0, **how)
    there = len(tlc.find_layers(model, data))
    assert list(run.table["activations"]) == [there, there - 1, there - 2]
    assert tlc.count(run.model, data)["layers"] == tlc.count(model, data)["layers"] - 2


def test_text_is_one_hot_and_real():
    x = TEXT.normalize(TEXT.train.images[:5])
    assert x.shape == (5, 16, 32) and (x.sum(-1) == 1).all()
    assert x.argmax(-1).equal(TEXT.train.images[:5].long())
    assert TEXT.augment(TEXT.train.images[:5], None).equal(x)
    assert TEXT.example.shape == (8, 16, 32) and "windows" in repr(TEXT)
    assert {"self", "(", "."} < set(TEXT.words) and len(TEXT.words) == 32
    for split in (TEXT.train, TEXT.val, TEXT.test):
        assert set(split.labels.tolist()) == set(range(len(PACKAGES)))
    again, longer = load_text(length=16, vocabulary=32), load_text(length=32, vocabulary=32)
    assert again.sha256 == TEXT.sha256 != longer.sha256
    assert again.train.images.equal(TEXT.train.images)


def library(folder):
    """A library in which every file of every package has words of its own."""
    for package in PACKAGES:
        (folder / package / "test").mkdir(parents=True)
        (folder / package / "test" / "test_it.py").write_text("never " * 500)
        for i in range(5):
            text = f"{package}_{i} " * (40 - i)
            (folder / package / f"file{i}.py").write_text(text, encoding="utf-8")
    return folder


def test_no_file_is_in_two_splits(tmp_path):
    data = load_text(length=8, library=library(tmp_path))
    # The test's and the validation's words are in no training file, so not in the vocabulary.
    assert "never" not in data.words
    assert set(data.words[1:]) == {f"{p}_{i}" for p in PACKAGES for i in (0, 2, 4)}
    assert not data.test.images.any() and not data.val.images.any()
    assert data.train.images.all()
    assert data.test.size == len(PACKAGES) * len(range(0, 39 - 8 + 1, 4))
    with pytest.raises(ValueError, match="lower length"):
        load_text(length=1000, library=tmp_path)


def test_mobilenet_pairs_every_norm_with_the_relu6_that_it_feeds():
    """The published code gives each of the 52 norms the next ReLU6 in the order of the modules
    (TLC_MobileNetV2.py of its repository); 17 feed no activation at all, and get a stranger's."""
    model = randomize(mobilenet_v2(width_mult=0.25), dtype=torch.float32)
    layers = tlc.find_layers(model, torch.randn(1, 3, 64, 64))
    ours = {layer.norm: layer.name for layer in layers}
    assert len(layers) == len(ours) == 35 and None not in ours
    modules = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d | nn.ReLU6)}
    order, norms = list(modules), [n for n, m in modules.items() if isinstance(m, nn.BatchNorm2d)]
    theirs = {n: next(k for k in order[order.index(n) :] if k not in norms) for n in norms}
    assert len(norms) == 52 and sum(theirs[n] != ours.get(n) for n in norms) == 17
    seen = {}
    for n in norms:  # copies: the next layer works in place
        modules[n].register_forward_hook(lambda m, x, out, n=n: seen.update({n: out.clone()}))
    given = received(model, torch.randn(1, 3, 64, 64), ours.values())
    assert all(torch.equal(seen[norm], given[relu6]) for norm, relu6 in ours.items())


def test_a_record_is_made_and_taken_up(tmp_path):
    args = (plan("smoke"), {}, tmp_path / "runs", tmp_path / "results")
    (path,) = run_pieces(*args, only="text_tlc_affine")
    table = tlc.results(tmp_path / "results")
    assert list(table["removed"]) == [0, 1, 2] and list(table["activations"]) == [2, 1, 0]
    last = table.iloc[-1]
    assert last["layers_merged"] == last["layers"] - 2 and last["macs_merged"] < last["macs"]
    assert last["ms_1"] > 0 and last["speedup_128"] > 0 and last["network"] == "text"
    assert len(list((tmp_path / "runs").glob("*.safetensors"))) == 1
    path.unlink()
    (again,) = run_pieces(*args, only="text_tlc_affine")  # nothing is trained a second time
    same = ["test", "val", "layer", "seconds", "macs_merged"]
    assert tlc.results(tmp_path / "results")[same].equals(table[same])
    (row,) = json.loads(run_pieces(*args, only="text_tuned_on")[0].read_text())["rows"]
    assert row["activations"] == 2 and row["epochs"] == table["epochs"].sum()
    (alone,) = json.loads(run_pieces(*args, only="text_scratch")[0].read_text())["rows"]
    assert alone["activations"] == 0 and alone["layers"] == last["layers_merged"]
    shown = beyond(tlc.results(tmp_path / "results")).set_index("method (ranking, rule)")
    want = f"{last['test'] - row['test']:+.2f}", f"{100 * last['macs_merged'] / row['macs']:.0f}"
    assert tuple(shown.loc["tlc, affine", ["against tuned on", "MACs left, %"]]) == want
