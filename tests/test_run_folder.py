"""A run's folder belongs to one process; what is damaged says so, and nothing is overwritten."""

import json
import os
import re
import shutil
import time
from functools import partial

import pytest
from filelock import FileLock, Timeout
from helpers import CLOCK, apart, chain, files, refused, same
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.files import load_weights, save_weights
from tlc_minimal.run_folder import owned, run_of

HOW = dict(method="one_by_one", epochs=2, rank="gaussian", batch=16, keep="all", progress=False)


@pytest.fixture(scope="module")
def model():
    return chain(3)


@pytest.fixture(scope="module")
def finished(model, data, tmp_path_factory):
    """A run of two removals, never to be written to."""
    return tlc.collapse(model, data, 2, out=tmp_path_factory.mktemp("runs") / "full", **HOW)


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished.folder, tmp_path / "run")


def resumed(model, data, out):
    return tlc.collapse(model, data, 2, out=out, resume=True, **HOW)


def test_a_process_may_enter_its_own_folder_again_and_an_error_frees_it(tmp_path):
    others = FileLock(tmp_path / "a/b/.lock", timeout=0)  # as another process would open it
    with pytest.raises(KeyboardInterrupt), owned(tmp_path / "a/b") as folder:
        with owned(str(folder)) as again:
            assert folder == again == tmp_path / "a/b"
        assert (folder / ".owner").read_text() == str(os.getpid())
        with pytest.raises(Timeout):
            others.acquire()
        raise KeyboardInterrupt
    others.acquire()
    others.release()


def test_leftovers_of_a_write_go_and_what_is_not_ours_stays(tmp_path):
    ours = tmp_path / "run.json.0a1b2c3d.part"
    theirs = [tmp_path / name for name in ("film.part", "stage_play.txt", "notes.part.txt")]
    for path in (ours, *theirs):
        path.write_text("x")
    with owned(tmp_path):
        assert not ours.exists() and all(path.exists() for path in theirs)
        ours.write_text("x")
        with owned(tmp_path):
            assert ours.exists(), "only when the folder is entered first"


def test_a_run_in_a_folder_of_ones_own_leaves_what_is_there(model, data, tmp_path):
    (tmp_path / "stage_play.txt").write_text("mine")
    (tmp_path / "stage_01").mkdir()
    (tmp_path / "stage_01.safetensors").write_text("of a run whose table is gone")
    tlc.collapse(model, data, 1, 0.5, rank="random", out=tmp_path, progress=False)
    assert (tmp_path / "stage_play.txt").read_text() == "mine" and (tmp_path / "stage_01").is_dir()
    load_weights(tmp_path / "stage_01.safetensors")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_second_process_is_turned_away_and_a_dead_ones_folder_taken_over(model, data, tmp_path):
    """The first one tunes for minutes; killed with -9, it leaves lock, owner and state behind."""
    ask = dict(out=tmp_path, rank="random", batch=16, seed=3, progress=False)
    state = tmp_path / "stage_01.state"
    first = apart(partial(tlc.collapse, model, data, 1, 500, **ask))
    try:
        while not state.exists():
            assert first.is_alive(), "the first process ended"
            time.sleep(0.1)
        words = f"in use by process {first.pid}: wait for it, or choose another folder"
        for how in (dict(resume=False), dict(resume=True), dict(resume=True, epochs=3)):
            with pytest.raises(BlockingIOError, match=words):
                tlc.collapse(model, data, 1, **{"epochs": 500} | ask | how)
        written = state.stat().st_mtime_ns
        while state.stat().st_mtime_ns == written:
            assert first.is_alive(), "it was disturbed"
            time.sleep(0.05)
    finally:
        first.kill()
        first.join()
    assert (tmp_path / ".owner").read_text() == str(first.pid)
    with pytest.raises(ValueError, match="another epochs: nothing was changed"):
        tlc.collapse(model, data, 1, 3, resume=True, **ask)
    with owned(tmp_path):
        assert (tmp_path / ".owner").read_text() == str(os.getpid())


FIELDS = {
    "rows are a number": lambda c: c.update(rows=1),
    "another test": lambda c: c["rows"][1].update(test=99.5),
    "epochs of nothing": lambda c: c["config"].update(epochs=None),
    "no checksum": lambda c: c.pop("sha256"),
}


@pytest.mark.parametrize("damage", ["truncated", *FIELDS])
def test_a_damaged_table_is_named_and_left_as_it_is(damage, copied, model, data):
    content = json.loads((copied / "run.json").read_text())
    if damage != "truncated":
        FIELDS[damage](content)
    text = json.dumps(content)
    (copied / "run.json").write_text(text[:30] if damage == "truncated" else text)
    words = r"run\.json (is damaged|lacks a valid).*: restore it, or move it away"
    for read in (run_of, lambda f: tlc.load_run(model, f, 1)):
        with refused(ValueError, words, copied):
            read(copied)
    with refused(ValueError, words + "|holds a run with another", copied):
        resumed(model, data, copied)
    with refused(FileExistsError, "already holds a run", copied):
        tlc.collapse(model, data, 2, out=copied, **HOW)


DAMAGE = {"truncated": lambda c: c[:50], "empty": lambda c: b""}
DAMAGE |= {"flipped": lambda c: c[:-9] + bytes([c[-9] ^ 1]) + c[-8:]}


@pytest.mark.parametrize("name", ["stage_01.safetensors", "stage_02.choice"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_stage_is_named_and_mended(damage, name, copied, finished, model, data):
    path = copied / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    words = rf"{re.escape(name)} is damaged .*: delete it, to make it again"
    for read in (lambda: resumed(model, data, copied), lambda: tlc.load_run(model, copied, 2)):
        with refused(ValueError, words, copied):
            read()
    if damage == "flipped":
        path.unlink()
        again = resumed(model, data, copied)
        assert again.table.drop(columns=CLOCK).equals(finished.table.drop(columns=CLOCK))
        assert same(again.linear, finished.linear) and same(again.model, finished.model)
        assert files(copied)[name] == files(finished.folder)[name]


def test_weights_of_another_network_are_named(copied, model, data):
    save_weights(tlc.simple_cnn(width=2), copied / "stage_01.safetensors")
    words = r"stage_01\.safetensors holds the weights of another network: .*, or delete it"
    for read in (lambda: resumed(model, data, copied), lambda: tlc.load_run(model, copied, 1)):
        with refused(ValueError, words, copied):
            read()


def test_what_is_lost_is_made_again_and_no_more(copied, finished, model, data):
    """The first of two stages: the second one, which was tuned after it, is only read."""
    (copied / "stage_01.safetensors").unlink()
    seconds = finished.table["seconds"]
    again = resumed(model, data, copied)
    assert same(again.linear, finished.linear)
    assert again.table["seconds"][1] != seconds[1] and again.table["seconds"][2] == seconds[2]
    (copied / "run.json").unlink()  # without its table a run begins again
    with pytest.raises(FileNotFoundError, match="holds no run: choose the folder that collapse"):
        tlc.load_run(model, copied, 1)
    again = tlc.collapse(model, data, 2, out=copied, **HOW)
    assert again.table.drop(columns=CLOCK).equals(finished.table.drop(columns=CLOCK))


def test_load_run_gives_every_network_and_names_what_is_not_there(finished, model, tmp_path):
    assert same(tlc.load_run(model, finished.folder, 2), finished.linear)
    assert same(tlc.load_run(model, str(finished.folder), 0), model)
    for removed in (-1, 1.5, 3, None, "2", [1]):
        words = re.escape(f"holds networks with 0, 1, 2 activations removed, not {removed!r}.")
        with refused(ValueError, words, finished.folder):
            tlc.load_run(model, finished.folder, removed)
    for other in (chain(3, seed=1), tlc.simple_cnn(width=2)):
        with pytest.raises(ValueError, match="the run of another model: give the one it began"):
            tlc.load_run(other, finished.folder, 1)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"{folder} holds no run"):
            tlc.load_run(model, folder, 1)
    assert not list(tmp_path.iterdir())


def test_a_model_that_asks_for_shapes_is_loaded_with_an_example(data, tmp_path):
    class Asks(nn.Sequential):
        def forward(self, x):
            return super().forward(x[:, :1] if x.shape[1] == 1 else x)

    asks = Asks(*chain(2)).eval()
    run = tlc.collapse(asks, data, 1, out=tmp_path / "run", **HOW)
    with pytest.raises(ValueError, match="example"):
        tlc.load_run(asks, run.folder, 1)
    assert same(tlc.load_run(asks, run.folder, 1, data), run.linear)
