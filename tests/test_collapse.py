"""The loop: its table, what it keeps, and that what a folder holds is taken up.

What it refuses before anything is trained or written: tests/test_bad_inputs.py.
"""

import importlib
import json
import math

import numpy as np
import pytest
import torch
from helpers import files, kept, randomize, refused, same

import tlc_minimal as tlc

module = importlib.import_module("tlc_minimal.collapse")
COLUMNS = [
    "removed", "layer", "off", "error", "val_loss", "val_before", "val", "test", "activations",
    "relu_units", "layers", "macs", "params", "macs_cut", "epochs", "seconds", "images_per_s",
]  # fmt: skip
HOW = dict(epochs=1.5, batch=50, keep="all", progress=False)
ONE_BY_ONE = HOW | dict(method="one_by_one", rank="gaussian")


@pytest.fixture(scope="module")
def finished(model, data, tmp_path_factory):
    """An uninterrupted run of three removals, one by one, never to be written to."""
    return tlc.collapse(model, data, 3, out=tmp_path_factory.mktemp("runs") / "full", **ONE_BY_ONE)


@pytest.fixture
def asked(monkeypatch):
    """What every tuning is asked for, in the place of tuning."""
    asked = []
    monkeypatch.setattr(module, "fit", lambda *args, **how: asked.append((args, how)))
    return asked


def test_one_row_a_removal_with_every_column(finished, model, data):
    table = finished.table
    first = next(iter(tlc.rank(model, data, "gaussian", seed=1)))
    assert table["layer"].iloc[1] == first not in dict(finished.linear.named_modules())
    assert list(table["removed"]) == [0, 1, 2, 3] and sorted(table) == sorted(COLUMNS)
    assert list(table["activations"]) == [6, 5, 4, 3]
    assert table["layer"].iloc[1:].nunique() == 3 and table["off"].between(0, 1).all()
    assert table["macs"].is_monotonic_decreasing and table["macs"].nunique() > 1
    assert (table["macs_cut"] == table["macs"]).all(), "what is constant was cut at once"
    assert list(table["epochs"]) == [0, 0.5, 0.5, 0.5] and (table["seconds"].iloc[1:] > 0).all()
    assert math.isnan(table["images_per_s"][0]) and (table["images_per_s"][1:] > 0).all()


def test_the_default_is_one_long_tuning_after_all_at_once(model, data, tmp_path, asked):
    run = tlc.collapse(model, data, 2, out=tmp_path, progress=False)
    ((_, _, epochs), how), *more = asked
    assert not more and epochs == 12 and how.pop("lr") == 0.1
    assert how.pop("state") == tmp_path / "stage_01.state" and how.pop("seed") == 1
    assert same(how.pop("teacher"), model) and how == {"progress": None}
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


def test_every_row_has_its_test_accuracy_and_the_last_is_the_model(finished, model, data):
    for step, accuracy in enumerate(finished.table["test"]):
        step_model = tlc.load_run(model, finished.folder, step)
        assert accuracy == pytest.approx(tlc.evaluate(step_model, data, "test").accuracy)
    last, score = finished.table.iloc[-1], tlc.evaluate(finished.linear, data)
    assert last["val"] == pytest.approx(score.accuracy)
    assert last["val_loss"] == pytest.approx(score.loss, rel=1e-5)
    assert tlc.count(finished.linear, data).items() <= last.to_dict().items()


def test_the_test_split_is_touched_only_after_the_last_removal(model, data, tmp_path, monkeypatch):
    splits = []
    watch = lambda m, data, split="val": splits.append(split) or tlc.evaluate(m, data, split)
    monkeypatch.setattr(module, "evaluate", watch)
    tlc.collapse(model, data, 2, out=tmp_path, **ONE_BY_ONE | {"rank": "random"})
    assert splits == ["val"] * 5 + ["test"] * 3


def test_the_given_model_is_unmodified(data, tmp_path):
    torch.manual_seed(1)
    model = randomize(tlc.simple_cnn(width=2), 1, torch.float32).train()
    before = kept(model)
    run = tlc.collapse(model, data.subset(60), 1, 0.5, rank="random", out=tmp_path, progress=False)
    assert same(tlc.load_run(model, tmp_path, 1), run.linear)
    assert same(model, before)
    assert all(m.training for m in model.modules()) and not run.model.training


def test_numbers_of_any_library_are_numbers(model, data, tmp_path):
    ask = dict(remove=np.int64(2), epochs=np.float32(1.5), seed=np.int32(0), lr=np.float64(0.02))
    ask |= dict(method="one_by_one", rank="random", batch=np.int64(50), keep="all", progress=False)
    run = tlc.collapse(model, data, **ask, out=tmp_path)
    ask |= dict(remove=2, epochs=1.5, seed=0, lr=0.02, batch=50)
    again = tlc.collapse(model, data, **ask, out=tmp_path, resume=True)
    assert again.table.equals(run.table)


def test_a_finished_run_is_read_and_not_overwritten(finished, model, data, monkeypatch):
    before = files(finished.folder)
    for name in ("fit", "save_weights"):
        monkeypatch.setattr(module, name, None)  # nothing may be tuned any more
    again = tlc.collapse(model, data, 3, out=finished.folder, resume=True, **ONE_BY_ONE)
    assert again.table.equals(finished.table) and same(again.linear, finished.linear)
    assert files(finished.folder) == before
    with refused(FileExistsError, "already holds a run: pass resume=True", finished.folder):
        tlc.collapse(model, data, 3, out=finished.folder, **ONE_BY_ONE)


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("seed", dict(seed=1)), ("options", dict(rule="affine")), ("options", dict(rank="tlc")),
        ("epochs", dict(epochs=2)), ("tuning", dict(lr=0.1)), ("tuning", dict(distil=False)),
        ("method", dict(method="at_once")), ("remove", dict(remove=2)), ("remove", dict(remove=4)),
        ("model", {}), ("train", {}), ("data", {}),
    ],
)  # fmt: skip
def test_a_run_with_other_settings_is_not_resumed(word, other, finished, model, data):
    ask = dict(remove=3, model=model, data=data) | ONE_BY_ONE | other
    ask |= {
        "model": dict(model=randomize(tlc.simple_cnn(width=4), 5, torch.float32)),
        "train": dict(data=data.subset(63)),
        "data": dict(data=tlc.Data(**vars(data) | {"sha256": "0"})),
    }.get(word, {})
    with refused(ValueError, f"another .*{word}.*: nothing was changed", finished.folder):
        tlc.collapse(**ask, out=finished.folder, resume=True)


def test_a_tuning_that_explodes_leaves_a_run_that_can_be_read(model, data, tmp_path):
    how = HOW | dict(lr=1e30, rank="random")
    with pytest.raises(FloatingPointError, match="lower lr"):
        tlc.collapse(model, data, 1, out=tmp_path, **how)
    assert len(json.loads((tmp_path / "run.json").read_text())["rows"]) == 1
    with pytest.raises(ValueError, match="another tuning"):
        tlc.collapse(model, data, 1, out=tmp_path, resume=True, **how | {"lr": 0.01})


@pytest.mark.parametrize("out", ["file", "file/run", "file/a/b"])
def test_a_folder_that_cannot_be_is_refused(out, model, data, tmp_path, asked):
    (tmp_path / "file").write_text("mine")
    words = rf"{out} cannot be written \(.*\): make room, or choose a folder that can be written"
    with pytest.raises(OSError, match=words) as caught:
        tlc.collapse(model, data, 1, rank="random", out=tmp_path / out)
    assert len(str(caught.value)) < 300 and files(tmp_path) == {"file": b"mine"} and not asked
