"""The course's networks and their checkpoints."""

import json

import pytest
import torch
from helpers import randomize, relative_error
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.experiments.controls import narrower
from tlc_minimal.files import save_weights
from tlc_minimal.results import find_folder


@pytest.mark.parametrize("size", [16, 32, 27])
@pytest.mark.parametrize("network", [tlc.simple_cnn, tlc.resnet18])
def test_any_size_of_image_gives_one_score_a_class(network, size):
    assert network(7, 4)(torch.randn(2, 3, size, size)).shape == (2, 7)
    wide = tlc.resnet18(width=5)
    assert wide.conv1.out_channels == 5 and wide.fc.in_features == 40
    assert tlc.simple_cnn(width=5).conv6.out_channels == 20


def test_the_six_layers_that_are_kept_are_those_of_the_record():
    folder = find_folder("data/results")
    record = json.loads((folder / "headline_w64_project_22_seed0.json").read_text())["rows"][-1]
    kept = tlc.load_checkpoint("six_layers_w64_cifar10")
    counts = tlc.count(kept, torch.zeros(1, 3, 32, 32))
    assert counts == {k: record[k] for k in counts} and counts["layers"] == 6


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project to keep checkpoints in."""
    (tmp_path / "data/checkpoints").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkpoint_comes_back_as_it_was_kept(project):
    model = randomize(tlc.resnet18(5, 4, "strong"), dtype=torch.float32)
    tlc.save_checkpoint(model, "mine", "resnet18", classes=5, width=4, stem="strong")
    back = tlc.load_checkpoint("mine")
    x = torch.randn(2, 3, 16, 16)
    assert not any(m.training for m in back.modules()) and isinstance(back.maxpool, nn.Identity)
    assert back.conv1.weight.dtype == torch.float32
    assert relative_error(back(x), model(x)) < 2e-2  # kept in half precision
    (path,) = (project / "data/checkpoints").iterdir()
    assert path.stat().st_size < 2.5 * sum(p.numel() for p in model.parameters()) + 20_000


@pytest.mark.parametrize("damage", ["cut", "flipped", "width", "network", "options", "text"])
def test_a_checkpoint_that_cannot_be_used_is_named(damage, project):
    path = project / "data/checkpoints/small.safetensors"
    tlc.save_checkpoint(tlc.simple_cnn(width=2), "small", "simple_cnn", width=2)
    whole = bytearray(path.read_bytes())
    if damage in ("cut", "text"):
        path.write_bytes(whole[:-100] if damage == "cut" else b"small")
    elif damage == "flipped":
        whole[-100] ^= 1
        path.write_bytes(whole)
    elif damage == "width":
        save_weights(tlc.simple_cnn(width=3), path, network="simple_cnn", options='{"width": 2}')
    elif damage == "network":
        save_weights(tlc.simple_cnn(width=2), path)
    else:
        save_weights(tlc.simple_cnn(2), path, network="simple_cnn", options='{"wide": 2}')
    said = r"is damaged .*: delete it|holds the weights of another network|is no checkpoint .*: see"
    with pytest.raises(ValueError, match=rf"small\.safetensors ({said})"):
        tlc.load_checkpoint("small")


def test_a_missing_checkpoint_names_those_there_are_and_a_missing_folder_itself(project):
    with pytest.raises(FileNotFoundError, match="no checkpoint 'x'; there are: none"):
        tlc.load_checkpoint("x")
    tlc.save_checkpoint(tlc.simple_cnn(width=2), "small", "simple_cnn", width=2)
    with pytest.raises(FileNotFoundError, match="there are: small"):
        tlc.load_checkpoint("x")
    (project / "data").rename(project / "outside")
    with pytest.raises(FileNotFoundError, match="no data/checkpoints here or above"):
        tlc.load_checkpoint("x")


def test_every_committed_checkpoint_loads():
    for path in find_folder("data/checkpoints").glob("*.safetensors"):
        out = tlc.load_checkpoint(path.stem)(torch.randn(2, 3, 32, 32))
        assert out.isfinite().all() and out.std() > 0, path.name


def test_a_narrower_network_has_no_more_macs_than_asked_and_is_the_widest():
    data = tlc.load_data("digits").subset(10)
    macs = lambda network: tlc.count(network, data)["macs"]
    most = nn.Sequential(tlc.resnet18(width=3), nn.Linear(10, 10))  # a little more
    assert macs(narrower(most, 5, data)) == macs(tlc.resnet18(width=3))
    with pytest.raises(ValueError, match="no ResNet-18 has as few as 3072 MACs: project less"):
        narrower(nn.Sequential(nn.Flatten(), nn.Linear(3072, 1)), 5, data)
