"""The loop: its table, what it keeps, and that what a folder holds is taken up. A folder belongs to
one process; what is damaged says so, and nothing is overwritten."""

import copy
import importlib
import json
import math
import os
import re
import shutil
import time
from functools import partial

import numpy as np
import pytest
from filelock import FileLock, Timeout
from helpers import CLOCK, apart, chain, files, refused, same
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.files import load_weights, save_weights
from tlc_minimal.run_folder import owned, run_of

module = importlib.import_module("tlc_minimal.collapse")
HOW = dict(method="one_by_one", epochs=2, rank="gaussian", batch=16, keep="all", progress=False)
model = pytest.fixture(scope="module")(lambda: chain(3))


@pytest.fixture(scope="module")
def finished(model, data, tmp_path_factory):
    """A run of two removals, never to be written to."""
    return tlc.collapse(model, data, 2, out=tmp_path_factory.mktemp("runs") / "full", **HOW)


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished.folder, tmp_path / "run")


def resumed(model, data, out):
    return tlc.collapse(model, data, 2, out=out, resume=True, **HOW)


@pytest.fixture
def asked(monkeypatch):
    """What every tuning is asked for, in the place of tuning."""
    asked = []
    monkeypatch.setattr(module, "fit", lambda *args, **how: asked.append((args, how)))
    return asked


def test_one_row_a_removal(finished):
    table = finished.table
    assert list(table["removed"]) == [0, 1, 2] and table["off"].between(0, 1).all()
    assert table["macs"].is_monotonic_decreasing and table["macs"].nunique() > 1
    assert (table["macs_cut"] == table["macs"]).all(), "what is constant was cut at once"
    assert list(table["epochs"]) == [0, 1, 1] and (table["seconds"].iloc[1:] > 0).all()
    assert math.isnan(table["images_per_s"][0]) and (table["images_per_s"][1:] > 0).all()


def test_the_default_is_one_long_tuning_after_all_at_once(model, data, tmp_path, asked):
    run = tlc.collapse(model, data, 2, out=tmp_path, progress=False)
    ((_, _, epochs), how), *more = asked
    assert not more and epochs == 12 and how.pop("lr") == 0.1
    assert how.pop("state") == tmp_path / "stage_01.state" and how.pop("seed") == 1
    assert same(how.pop("teacher"), model) and how == {"progress": False}
    assert list(run.table["removed"]) == [0, 2] and run.table["layer"][1].count(", ") == 1


@pytest.mark.parametrize("distil", [True, False])
def test_recipe_and_teacher_reach_every_tuning(distil, model, data, tmp_path, asked):
    recipe = {"lr": 0.01, "batch": 32, "weight_decay": 0.0, "smoothing": 0.1, "schedule": "steps"}
    how = dict(method="one_by_one", rank="random", seed=7, progress=False, distil=distil)
    tlc.collapse(model, data, 2, 1, out=tmp_path, **how, **recipe)
    assert [{k: how[k] for k in recipe} for _, how in asked] == [recipe] * 2
    assert [how["seed"] for _, how in asked] == [7001, 7002]
    teachers = [how["teacher"] for _, how in asked]
    assert all(same(t, model) for t in teachers) if distil else teachers == [None, None]


def test_the_test_split_is_touched_only_after_the_last_removal(model, data, tmp_path, monkeypatch):
    splits = []
    watch = lambda m, data, split="val": splits.append(split) or tlc.evaluate(m, data, split)
    monkeypatch.setattr(module, "evaluate", watch)
    tlc.collapse(model, data, 2, out=tmp_path, **HOW | {"rank": "random"})
    assert splits == ["val"] * 5 + ["test"] * 3


def test_numbers_of_any_library_are_numbers(model, data, tmp_path):
    ask = dict(remove=np.int64(2), epochs=np.float32(1.5), seed=np.int32(0), lr=np.float64(0.02))
    ask |= dict(method="one_by_one", rank="random", batch=np.int64(50), keep="all", progress=False)
    run = tlc.collapse(model, data, **ask, out=tmp_path)
    ask |= dict(remove=2, epochs=1.5, seed=0, lr=0.02, batch=50)
    again = tlc.collapse(model, data, **ask, out=tmp_path, resume=True)
    assert again.table.equals(run.table)


@pytest.mark.parametrize("word, other", [
    ("seed", dict(seed=1)), ("options", dict(rule="affine")), ("options", dict(rank="tlc")),
    ("epochs", dict(epochs=3)), ("tuning", dict(lr=0.1)), ("tuning", dict(distil=False)),
    ("method", dict(method="at_once")), ("remove", dict(remove=1)), ("remove", dict(remove=3)),
    ("model", {}), ("train", {}), ("data", {}),
])  # fmt: skip
def test_a_run_with_other_settings_is_not_resumed(word, other, finished, model, data):
    ask = dict(remove=2, model=model, data=data) | HOW | other
    ask |= {
        "model": dict(model=chain(3, seed=5)),
        "train": dict(data=data.subset(63)),
        "data": dict(data=tlc.Data(**vars(data) | {"flip": True})),
    }.get(word, {})
    with refused(ValueError, f"different .*{word}.*: nothing was changed", finished.folder):
        tlc.collapse(**ask, out=finished.folder, resume=True)


def test_a_tuning_that_explodes_leaves_a_run_that_can_be_read(model, data, tmp_path):
    how = HOW | dict(lr=1e30, method="at_once")
    with pytest.raises(FloatingPointError, match="lower lr"):
        tlc.collapse(model, data, 1, out=tmp_path, **how)
    assert len(json.loads((tmp_path / "run.json").read_text())["rows"]) == 1
    with pytest.raises(ValueError, match="different tuning"):
        tlc.collapse(model, data, 1, out=tmp_path, resume=True, **how | {"lr": 0.01})


# ---- the folder of a run: of one process, and whole ----


def test_a_tuning_that_does_harm_says_so(model, data):
    tlc.fit(trained := copy.deepcopy(model), data, 8, progress=None)
    with pytest.warns(UserWarning, match=r"fell from \d.* % in tuning: give more epochs, or a sm"):
        tlc.collapse(trained, data, 1, 0.5, rule="affine", lr=20.0, progress=False)


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


def test_leftovers_of_a_write_go_and_what_is_not_ours_stays(model, data, tmp_path):
    ours = tmp_path / "run.json.0a1b2c3d.part"
    theirs = [tmp_path / name for name in ("film.part", "stage_play.txt", "notes.part.txt")]
    for path in (ours, *theirs, tmp_path / "stage_01.choice"):  # of a run without its table
        path.write_text("mine")
    (tmp_path / "stage_01").mkdir()
    with owned(tmp_path):
        assert not ours.exists()
        ours.write_text("x")
        with owned(tmp_path):
            assert ours.exists(), "only when the folder is entered first"
    tlc.collapse(model, data, 1, 0.5, rank="random", out=tmp_path, progress=False)
    assert [path.read_text() for path in theirs] == ["mine"] * 3
    assert (tmp_path / "stage_01").is_dir()
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
    with pytest.raises(ValueError, match="different epochs: nothing was changed"):
        tlc.collapse(model, data, 1, 3, resume=True, **ask)
    with owned(tmp_path):
        assert (tmp_path / ".owner").read_text() == str(os.getpid())


FIELDS = {  # what else may happen to one: tests/test_files.py
    "another test": lambda c: c["rows"][1].update(test=99.5),
    "epochs of nothing": lambda c: c["config"].update(epochs=None),
    "no checksum": lambda c: c.pop("sha256"),
}


@pytest.mark.parametrize("damage", FIELDS.values(), ids=FIELDS)
def test_a_damaged_table_is_named_and_left_as_it_is(damage, copied, model, data):
    damage(content := json.loads((copied / "run.json").read_text()))
    (copied / "run.json").write_text(json.dumps(content))
    words = r"run\.json (is damaged|lacks a valid).*: restore it, or move it away"
    for read in (run_of, lambda f: tlc.load_run(model, f, 1)):
        with refused(ValueError, words, copied):
            read(copied)
    with refused(ValueError, words + "|holds a run with different", copied):
        resumed(model, data, copied)
    with refused(FileExistsError, "already holds a run", copied):
        tlc.collapse(model, data, 2, out=copied, **HOW)


@pytest.mark.parametrize("name", ["stage_01.safetensors", "stage_02.choice"])
def test_a_damaged_stage_is_named_and_mended(name, copied, finished, model, data):
    flipped = bytearray((path := copied / name).read_bytes())
    flipped[-9] ^= 1
    path.write_bytes(flipped)
    words = rf"{re.escape(name)} is damaged .*: delete it, to make it again"
    for read in (lambda: resumed(model, data, copied), lambda: tlc.load_run(model, copied, 2)):
        with refused(ValueError, words, copied):
            read()
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
