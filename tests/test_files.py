"""Files: whole or not at all, whoever else writes; and no damage goes unnoticed. Checkpoints."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import full_disk, randomize, relative_error, same
from safetensors.torch import save_file
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.experiments.controls import widest
from tlc_minimal.files import load_weights, read_json, save_weights, write_json
from tlc_minimal.results import find_folder


def test_any_tensors_come_back_with_their_metadata(tmp_path):
    shared = torch.randn(4, 3)
    tensors = {
        "int64": torch.arange(5), "uint8": torch.arange(7, dtype=torch.uint8),
        "bool": torch.tensor([True, False]), "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(1.5, dtype=torch.bfloat16),
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "once": shared, "twice": shared, "nan": torch.full((2,), torch.nan),
    }  # fmt: skip
    save_weights(tensors, tmp_path / "new" / "x.safetensors", note="mine")
    back, metadata = load_weights(tmp_path / "new" / "x.safetensors")
    assert set(back) == set(tensors) and metadata == {"note": "mine"}
    for name, x in tensors.items():
        assert back[name].dtype == x.dtype, name
        torch.testing.assert_close(back[name], x, rtol=0, atol=0, equal_nan=True)


def test_a_file_is_readable_as_the_umask_says_and_stands_alone(tmp_path):
    before = os.umask(0o022)
    try:
        save_weights(nn.Linear(2, 2), tmp_path / "x.safetensors")
        write_json(tmp_path / "x.json", {"a": 1})
    finally:
        os.umask(before)
    assert [p.stat().st_mode & 0o777 for p in tmp_path.iterdir()] == [0o644] * 2


def test_every_flipped_bit_and_every_cut_is_noticed_and_named(tmp_path):
    path = tmp_path / "x.safetensors"
    save_weights({"w": torch.arange(3.0), "n": torch.tensor(2)}, path, network="small")
    whole = path.read_bytes()
    for i in range(len(whole)):
        flipped = bytearray(whole)
        flipped[i] ^= 1 << i % 8
        for content in (bytes(flipped), whole[:i]):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=r"x\.safetensors is damaged .*: delete it, to ma"):
                load_weights(path)
    save_file({"w": torch.ones(3)}, path)  # of somebody else
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged \(wrong SHA-256\)"):
        load_weights(path)


def test_weights_go_into_their_network_and_into_no_other(tmp_path):
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    save_weights(model, tmp_path / "x.safetensors")
    load_weights(tmp_path / "x.safetensors", into=twin)
    assert torch.equal(model.weight, twin.weight)
    with pytest.raises(FileNotFoundError, match=r"y\.safetensors"):
        load_weights(tmp_path / "y.safetensors")
    for other in (nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 2))):
        with pytest.raises(ValueError, match=r"x\.safetensors holds .* of another network: give"):
            load_weights(tmp_path / "x.safetensors", into=other)


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_on_a_full_disk_the_old_file_stays_and_no_other(kind, tmp_path, monkeypatch):
    path = tmp_path / f"x.{kind}"

    def write(n):
        write_json(path, {"n": n}) if kind == "json" else save_weights({"n": torch.ones(n)}, path)

    write(3)
    before = path.read_bytes()
    full_disk(monkeypatch)
    with pytest.raises(OSError, match=rf"{kind} cannot be written \(No space .*\): make room, or"):
        write(4)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match=r"x\.json cannot be written \(.*\): make room, or cho"):
        write_json(path / "x.json", {})  # a file is in the way


def test_writers_at_the_same_time_do_not_meet(tmp_path):
    path = tmp_path / "run.json"

    def work(i):
        write_json(path, {"who": i, "fill": "x" * 50_000})
        return read_json(path, {"who": int})["who"]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(200))) <= set(range(200))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b'{"rows": [', b"\xff\xfe", b"[1]", b'{"rows": 1}'])
def test_json_that_is_damaged_or_lacks_a_field_is_named(content, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json (is damaged|lacks a valid rows).*: restore i"):
        read_json(tmp_path / "run.json", {"rows": list})
    (tmp_path / "run.json").write_text(json.dumps({"rows": []}))
    assert read_json(tmp_path / "run.json", {"rows": list}) == {"rows": []}


# ---- the course's networks and their checkpoints ----


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
    assert same(tlc.load_checkpoint(os.path.abspath("data/checkpoints/mine.safetensors")), back)
    x = torch.randn(2, 3, 16, 16)
    assert not any(m.training for m in back.modules()) and isinstance(back.maxpool, nn.Identity)
    assert back.conv1.weight.dtype == torch.float32
    assert relative_error(back(x), model(x)) < 2e-2  # kept in half precision
    (path,) = (project / "data/checkpoints").iterdir()
    assert path.stat().st_size < 2.5 * sum(p.numel() for p in model.parameters()) + 20_000


about = lambda **options: {"network": "simple_cnn", "options": json.dumps(options)}
OTHER = "holds the weights of another network"
DAMAGED, NONE = "is damaged .*: delete it", "is no checkpoint .*: see"
SPOILT = {  # how, and what is said
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-100]), DAMAGED),
    "width": (lambda path: save_weights(tlc.simple_cnn(width=3), path, **about(width=2)), OTHER),
    "network": (lambda path: save_weights(tlc.simple_cnn(width=2), path), NONE),
    "options": (lambda path: save_weights(tlc.simple_cnn(2), path, **about(wide=2)), NONE),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILT.values(), ids=SPOILT)
def test_a_checkpoint_that_cannot_be_used_is_named(spoil, said, project):
    path = project / "data/checkpoints/small.safetensors"
    tlc.save_checkpoint(tlc.simple_cnn(width=2), "small", "simple_cnn", width=2)
    spoil(path)
    with pytest.raises(ValueError, match=rf"small\.safetensors {said}"):
        tlc.load_checkpoint("small")


def test_a_checkpoint_that_could_not_be_loaded_is_not_written(project):
    small = tlc.simple_cnn(width=2).eval()
    for options in ({"width": 4}, {"wide": 2}, {"width": torch.tensor(2)}):
        with pytest.raises(ValueError, match=r"simple_cnn\(wid.*is not this model: give the call"):
            tlc.save_checkpoint(small, "mine", "simple_cnn", **options)
    with pytest.raises(ValueError, match="no network 'mobilenet'; there are: resnet18, simple"):
        tlc.save_checkpoint(small, "mine", "mobilenet")
    small.bn1.running_var.fill_(1e5)
    with pytest.raises(ValueError, match="bn1.running_var is not finite in half precision: keep"):
        tlc.save_checkpoint(small, "mine", "simple_cnn", width=2)
    assert not [*(project / "data/checkpoints").iterdir()]


def test_a_missing_checkpoint_names_those_there_are(project):
    with pytest.raises(FileNotFoundError, match="no checkpoint 'x'; there are: none"):
        tlc.load_checkpoint("x")
    tlc.save_checkpoint(tlc.simple_cnn(width=2), "small", "simple_cnn", width=2)
    with pytest.raises(FileNotFoundError, match="there are: small"):
        tlc.load_checkpoint("x")


def test_every_committed_checkpoint_loads():
    for path in find_folder("data/checkpoints").glob("*.safetensors"):
        out = tlc.load_checkpoint(path.stem)(torch.randn(2, 3, 32, 32))
        assert out.isfinite().all() and out.std() > 0, path.name


def test_the_widest_network_has_no_more_macs_than_asked():
    data = tlc.load_data("digits").subset(10)
    macs = lambda network: tlc.count(network, data)["macs"]
    most = nn.Sequential(tlc.resnet18(width=3), nn.Linear(10, 10))  # a little more
    assert macs(widest(most, data)) == macs(tlc.resnet18(width=3))
    counts = tlc.count(widest(most, data, 10), data)
    assert (counts["layers"], counts["activations"]) == (10, 9)
    assert macs(most) / 2 < counts["macs"] <= macs(most)
    with pytest.raises(ValueError, match="no ResNet-18 has as few as 3072 MACs: project less"):
        widest(nn.Sequential(nn.Flatten(), nn.Linear(3072, 1)), data)
