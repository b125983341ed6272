"""Files: whole or not at all, whoever else writes; and no damage goes unnoticed."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tlc_minimal.files import load_weights, read_json, save_weights, write_json


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
    path, write_bytes = tmp_path / f"x.{kind}", Path.write_bytes

    def write(n):
        write_json(path, {"n": n}) if kind == "json" else save_weights({"n": torch.ones(n)}, path)

    def full(self, content):
        write_bytes(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    write(3)
    before = path.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
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
