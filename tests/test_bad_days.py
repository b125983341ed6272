"""Ctrl-C and a full disk: nothing is lost, and it is said."""

import atexit
import errno

import pytest
import torch
from helpers import digits, gives_up, interrupted
from torch import nn

import tlc_minimal as tlc
from tlc_minimal import files

DATA = digits(120)


def network() -> nn.Module:
    torch.manual_seed(0)
    return tlc.resnet18(10, 4).eval()


def full_disk(monkeypatch, name: str):
    """From now on a file of this name finds no room."""
    write = files.Path.write_bytes

    def refuse(path, content):
        if path.name.startswith(name):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(files.Path, "write_bytes", refuse)


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path, monkeypatch):
    how = (DATA, 2, 1, "one_by_one")
    whole = tlc.collapse(network(), *how, progress=False).table
    with monkeypatch.context() as m:
        full_disk(m, "stage_02.safetensors")
        with pytest.raises(OSError, match="stage_02.*No space left on device.*make room") as error:
            tlc.collapse(network(), *how, out=tmp_path, progress=False)
    assert f"{tmp_path}: resume=True" in error.value.__notes__[0]
    again = tlc.collapse(network(), *how, out=tmp_path, resume=True, progress=False).table
    assert again[["test", "val_loss"]].equals(whole[["test", "val_loss"]])


@pytest.mark.parametrize("name", ["dense.safetensors", "stage_01.safetensors"])
def test_the_command_line_says_it_in_two_sentences(tmp_path, monkeypatch, name):
    full_disk(monkeypatch, name)
    monkeypatch.setattr("tlc_minimal.__main__.tlc.load_data", lambda name: DATA)
    sizes = ["--width", "4", "--dense-epochs", "0.3", "--epochs", "0.3", "--remove", "1"]
    start = ["collapse", "--data", "digits", "--out", tmp_path / "run"]
    trouble, kept = gives_up(monkeypatch, *start, *sizes).splitlines()
    assert "No space left on device" in trouble and f"kept in {tmp_path / 'run'}" in kept
    assert list((tmp_path / "run").glob("*.state"))  # of the training that was just finished


def test_ctrl_c_says_where_a_temporary_run_is_and_leaves_it_there(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with interrupted(1), pytest.raises(KeyboardInterrupt) as stop:
        tlc.collapse(network(), DATA, 1, 1, progress=False)
    (folder,) = tmp_path.glob("tlc-*")
    assert f"kept in {folder}: resume=True" in stop.value.__notes__[0]
    assert (folder / "run.json").exists()


def test_a_temporary_run_goes_when_python_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    at_exit = []
    monkeypatch.setattr(atexit, "register", lambda f, *a, **k: at_exit.append(lambda: f(*a, **k)))
    run = tlc.collapse(network(), DATA, 1, 1, progress=False)
    assert run.folder.parent == tmp_path and (run.folder / "run.json").exists()
    at_exit.pop()()
    assert not run.folder.exists()
