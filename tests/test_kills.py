"""A run that is killed at any moment, also inside a tuning, goes on to the same bits."""

import atexit
import importlib
import os
import random
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import CLOCK, apart, chain, digits, files, full_disk, gives_up, interrupted, same

import tlc_minimal as tlc

collapse, tlc_method, train = (
    importlib.import_module(f"tlc_minimal.{name}") for name in ("collapse", "methods.tlc", "train")
)
ASK = {"at_once": dict(epochs=2.5, rank="gaussian", again=True)}
ASK |= {"one_by_one": dict(epochs=3, rank="gaussian", rule="affine")}
OURS = (".part", ".state", ".json", ".safetensors", ".choice")


def run(method, data, out):
    """Two removals, from the beginning or from where the last one stopped."""
    how = dict(batch=16, lr=0.05, keep="all", progress=False) | ASK[method]
    return tlc.collapse(chain(2, dropout=0.2), data, 2, method=method, out=out, resume=True, **how)


class Moment:
    """Counts the moments at which a process may die; at number ``at`` it does."""

    def __init__(self, at: int, die):
        self.at, self.die, self.seen = at, die, 0

    def __call__(self):
        self.seen += 1
        if self.seen == self.at:
            self.die()


def stop():
    raise KeyboardInterrupt


@contextmanager
def dying(moment):
    """``moment()`` before every training step, ranking and evaluation, and before, within and after
    every write, rename and removal of a run's files."""

    def before(function):
        def told(*args, **kwargs):
            moment()
            return function(*args, **kwargs)

        return told

    def around(function):
        def told(path, *args, **kwargs):
            if path.suffix not in OURS:
                return function(path, *args, **kwargs)
            moment()
            done = function(path, *args, **kwargs)
            moment()
            return done

        return told

    def halved(path, content):
        write(path, content[: len(content) // 2])
        moment()
        return write(path, content)

    write = Path.write_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", around(halved))
        patch.setattr(Path, "replace", around(Path.replace))
        patch.setattr(Path, "unlink", around(Path.unlink))
        patch.setattr(train, "_loss", before(train._loss))
        patch.setattr(tlc_method, "rank_layers", before(tlc_method.rank_layers))
        patch.setattr(collapse, "evaluate", before(collapse.evaluate))
        yield


@pytest.fixture(scope="module")
def full(data, tmp_path_factory):
    """{method: (an uninterrupted run, the number of moments in it)}"""
    done = {}
    for method in ASK:
        moment = Moment(0, stop)
        with dying(moment):
            done[method] = run(method, data, tmp_path_factory.mktemp(method)), moment.seen
    return done


def check_same(again, full):
    """Bit for bit, in memory and on disk, but for the clock."""
    tables = [r.table.drop(columns=CLOCK) for r in (again, full)]
    assert tables[0].equals(tables[1])
    for a, b in ((again.linear, full.linear), (again.model, full.model)):
        a, b = a.state_dict(), b.state_dict()
        assert same(a, b) and all(a[k].stride() == b[k].stride() for k in a)
    got, want = files(again.folder), files(full.folder)
    assert set(got) == set(want)
    assert not [name for name in got if name.endswith((".part", ".state"))]
    assert all(content == want[name] for name, content in got.items() if name.startswith("stage_"))


def test_there_is_a_moment_wherever_something_is_lost(full):
    (once, many), (each, more) = full["at_once"], full["one_by_one"]
    assert list(once.table["removed"]) == [0, 2] and list(each.table["removed"]) == [0, 1, 2]
    assert once.table["epochs"].sum() == 2.5 and each.table["epochs"].sum() == 3
    assert many > 10 + 5 * 5 and more > 12 + 5 * 8  # steps, and five moments a file written
    assert {p.suffix for p in once.folder.iterdir()} == {"", ".json", ".choice", ".safetensors"}


@pytest.mark.parametrize("method", ASK)
def test_random_kills_cost_nothing_but_time(method, full, data, tmp_path):
    """25 each, with a new seed every time: what fails says which one."""
    seed, kills = random.SystemRandom().randrange(2**32), 0
    print(f"random kills of {method}: seed {seed}")
    dice, folders = random.Random(seed), 0
    while kills < 25:
        folders, told, again = folders + 1, [], None
        while again is None:
            moment = Moment(dice.randint(1, full[method][1]), stop)
            try:
                with dying(moment):
                    again = run(method, data, tmp_path / f"{folders}")
            except KeyboardInterrupt:
                kills, told = kills + 1, [*told, moment.at]
        try:
            check_same(again, full[method][0])
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, killed at {told}") from error


def killed(at, out):
    """The run, which the system ends at moment ``at``."""
    with dying(Moment(at, lambda: os.kill(os.getpid(), signal.SIGKILL))):
        run("at_once", digits(64), out)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_kill_9_leaves_behind_is_taken_up(full, data, tmp_path):
    """Two processes that the system ends, one of them within a write: nothing is cleaned up."""
    finished, there = full["at_once"]
    for i, at in enumerate((random.randint(1, there), 5)):  # half of the first file is written
        (child := apart(killed, at, tmp_path / f"{i}")).join()
        assert child.exitcode == -signal.SIGKILL
        assert i == 0 or list((tmp_path / "1").glob("*.part")), "the remains of a write"
        try:
            check_same(run("at_once", data, tmp_path / f"{i}"), finished)
        except AssertionError as error:
            raise AssertionError(f"killed at {at} of {there}") from error


def test_a_choice_is_made_once(data, tmp_path):
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        rank = tlc_method.rank_layers
        patch.setattr(tlc_method, "rank_layers", lambda *a: (calls.append(1), rank(*a))[1])
        with patch.context() as inner, pytest.raises(KeyboardInterrupt):
            inner.setattr(train, "_loss", lambda *a: stop())
            run("at_once", data, tmp_path)
        run("at_once", data, tmp_path)
    assert len(calls) == 2, "ranked again after each removal, and not after the kill"


# ---- Ctrl-C and a full disk: nothing is lost, and it is said ----


def test_a_full_disk_loses_nothing_that_was_finished(data, tmp_path, monkeypatch):
    how = (data, 2, 1, "one_by_one")
    whole = tlc.collapse(chain(2), *how, progress=False).table
    with monkeypatch.context() as m:
        full_disk(m, "stage_02.safetensors")
        with pytest.raises(OSError, match="stage_02.*No space left on device.*make room") as error:
            tlc.collapse(chain(2), *how, out=tmp_path, progress=False)
    assert f"{tmp_path}: resume=True" in error.value.__notes__[0]
    again = tlc.collapse(chain(2), *how, out=tmp_path, resume=True, progress=False).table
    assert again[["test", "val_loss"]].equals(whole[["test", "val_loss"]])


@pytest.mark.parametrize("name", ["dense.safetensors", "stage_01.safetensors"])
def test_the_command_line_says_it_in_two_sentences(data, tmp_path, monkeypatch, name):
    full_disk(monkeypatch, name)
    monkeypatch.setattr("tlc_minimal.__main__.tlc.load_data", lambda name: data)
    sizes = ["--width", "2", "--dense-epochs", "0.3", "--epochs", "0.3", "--remove", "1"]
    start = ["collapse", "--data", "digits", "--network", "simple_cnn", "--out", tmp_path / "run"]
    trouble, kept = gives_up(monkeypatch, *start, *sizes).splitlines()
    assert "No space left on device" in trouble and f"kept in {tmp_path / 'run'}" in kept
    assert list((tmp_path / "run").glob("*.state"))  # of the training that was just finished


def test_ctrl_c_says_where_a_temporary_run_is_and_leaves_it_there(data, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with interrupted(1), pytest.raises(KeyboardInterrupt) as stop:
        tlc.collapse(chain(2), data, 1, 1, progress=False)
    (folder,) = tmp_path.glob("tlc-*")
    assert f"kept in {folder}: resume=True" in stop.value.__notes__[0]
    assert (folder / "run.json").exists()


def test_a_temporary_run_goes_when_python_ends(data, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    at_exit = []
    monkeypatch.setattr(atexit, "register", lambda f, *a, **k: at_exit.append(lambda: f(*a, **k)))
    run = tlc.collapse(chain(2), data, 1, 1, progress=False)
    assert run.folder.parent == tmp_path and (run.folder / "run.json").exists()
    at_exit.pop()()
    assert not run.folder.exists()
