"""The loop: its table, its files, and that a kill at any moment costs nothing but time."""

import importlib
import json
import os
import shutil

import pytest
import torch
from helpers import randomize

import tlc_minimal as tlc

module = importlib.import_module("tlc_minimal.collapse")
SETTINGS = dict(rank="gaussian", epochs=1, lr=0.02, keep="all")


@pytest.fixture(scope="module")
def data():
    return tlc.load_data("digits", size=16).subset(200)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomize(tlc.simple_cnn(width=4), dtype=torch.float32)


@pytest.fixture(scope="module")
def finished(model, data, tmp_path_factory):
    """An uninterrupted run of three removals, never to be written to."""
    return tlc.collapse(model, data, 3, out=tmp_path_factory.mktemp("runs") / "full", **SETTINGS)


def same(a, b):
    """Bit for bit."""
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(v, b[k]) for k, v in a.items())


def files(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def interrupt(monkeypatch, at: int, where=(module, "fit")):
    """Let call number ``at`` of something in the loop be the moment that someone presses Ctrl-C."""
    real, calls = getattr(*where), []

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(*where, stop)


def test_one_row_a_removal_with_every_column(finished):
    table = finished.table
    assert list(table["removed"]) == [0, 1, 2, 3]
    assert set(table.columns) >= {
        "removed", "layer", "off", "val_loss", "val_before", "val", "test", "activations", "layers",
        "macs", "params", "epochs", "seconds",
    }  # fmt: skip
    assert list(table["activations"]) == [6, 5, 4, 3]
    assert table["layer"].iloc[1:].nunique() == 3 and table["off"].between(0, 1).all()
    assert table["macs"].is_monotonic_decreasing and table["macs"].nunique() > 1
    assert list(table["epochs"]) == [0, 1, 1, 1] and (table["seconds"].iloc[1:] > 0).all()


def test_the_last_row_describes_the_model(finished, data):
    last = finished.table.iloc[-1]
    score = tlc.evaluate(finished.linear, data)
    assert last["val"] == pytest.approx(score.accuracy)
    assert last["val_loss"] == pytest.approx(score.loss, rel=1e-5)
    assert last["test"] == pytest.approx(tlc.evaluate(finished.linear, data, "test").accuracy)
    for name, value in tlc.count(finished.linear, data).items():
        assert last[name] == value


def test_every_row_has_its_test_accuracy(finished, model, data):
    for step, accuracy in enumerate(finished.table["test"]):
        step_model = tlc.load_run(model, finished.folder, step)
        assert accuracy == pytest.approx(tlc.evaluate(step_model, data, "test").accuracy)


def test_the_test_split_is_touched_only_after_the_last_removal(model, data, tmp_path, monkeypatch):
    splits = []

    def watch(candidate, data, split="val"):
        splits.append(split)
        return tlc.evaluate(candidate, data, split)

    monkeypatch.setattr(module, "evaluate", watch)
    tlc.collapse(model, data, 2, out=tmp_path / "run", **SETTINGS)
    assert splits == ["val"] * 5 + ["test"] * 3


def test_the_merged_model_computes_the_same(finished, data):
    x = data.normalize(data.val.images)
    with torch.no_grad():
        torch.testing.assert_close(finished.model(x), finished.linear(x), rtol=1e-4, atol=1e-4)
    merged = [row for row in finished.model.meta["merges"] if row["verdict"] == "merged into one"]
    assert merged and not any(isinstance(m, torch.nn.BatchNorm2d) for m in finished.model.modules())


def test_the_layer_removed_is_the_one_ranked_first(finished, model, data):
    first = next(iter(tlc.rank(model, data, "gaussian", seed=1)))
    assert finished.table["layer"].iloc[1] == first
    assert first not in {n for n, _ in finished.linear.named_modules()}


@pytest.mark.parametrize(
    ("where", "at", "rows"),
    [
        ((module, "fit"), 2, 2),  # while tuning after the second removal
        ((os, "replace"), 1, 0),  # the dense weights are written, but not in place
        ((os, "replace"), 5, 2),  # the same for the second removal
        ((os, "replace"), 6, 2),  # its weights are in place, the table does not know yet
        ((module, "evaluate"), 9, 4),  # in the middle of the test split
    ],
    ids=["tuning", "first weights", "weights", "table", "test"],
)
def test_a_killed_run_resumes_to_the_same_table_and_the_same_bits(
    where, at, rows, finished, model, data, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, at, where)
        with pytest.raises(KeyboardInterrupt):
            tlc.collapse(model, data, 3, out=out, **SETTINGS)
    table = out / "run.json"
    assert (len(json.loads(table.read_text())["rows"]) if table.exists() else 0) == rows
    again = tlc.collapse(model, data, 3, out=out, resume=True, **SETTINGS)
    without_clock = [run.table.drop(columns="seconds") for run in (again, finished)]
    assert without_clock[0].equals(without_clock[1])
    assert same(again.linear, finished.linear)
    assert not list(out.glob("*.part"))


def test_a_trained_model_resumes_to_the_same_bits_too(data, tmp_path, monkeypatch):
    """Training leaves the weights channels_last: what comes back from disk must add up the same."""
    torch.manual_seed(0)
    model = tlc.simple_cnn(width=4)
    tlc.fit(model, data, 1, progress=None)
    full = tlc.collapse(model, data, 2, out=tmp_path / "full", **SETTINGS)
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            tlc.collapse(model, data, 2, out=tmp_path / "run", **SETTINGS)
    again = tlc.collapse(model, data, 2, out=tmp_path / "run", resume=True, **SETTINGS)
    assert again.table.drop(columns="seconds").equals(full.table.drop(columns="seconds"))
    assert same(again.linear, full.linear)


def test_a_finished_run_is_read_not_repeated(finished, model, data, tmp_path, monkeypatch):
    shutil.copytree(finished.folder, out := tmp_path / "run")
    interrupt(monkeypatch, 1)  # nothing may be tuned any more
    again = tlc.collapse(model, data, 3, out=out, resume=True, **SETTINGS)
    assert again.table.equals(finished.table) and same(again.linear, finished.linear)


def test_a_finished_run_can_go_further(finished, model, data, tmp_path):
    shutil.copytree(finished.folder, out := tmp_path / "run")
    further = tlc.collapse(model, data, 4, out=out, resume=True, **SETTINGS)
    assert further.table.iloc[:4].equals(finished.table) and len(further.table) == 5
    assert further.table["test"].notna().all()


def test_asking_for_fewer_removals_keeps_what_is_on_disk(finished, model, data, tmp_path):
    shutil.copytree(finished.folder, out := tmp_path / "run")
    fewer = tlc.collapse(model, data, 1, out=out, resume=True, **SETTINGS)
    assert fewer.table.equals(finished.table.iloc[:2])
    assert same(fewer.linear, tlc.load_run(model, finished.folder, 1))
    assert len(json.loads((out / "run.json").read_text())["rows"]) == 4


def test_half_written_files_are_ignored(finished, model, data, tmp_path):
    shutil.copytree(finished.folder, out := tmp_path / "run")
    (out / "step_02.safetensors.part").write_bytes(b"\x10\x00")
    (out / "run.part").write_text('{"config": {')
    again = tlc.collapse(model, data, 3, out=out, resume=True, **SETTINGS)
    assert again.table.equals(finished.table) and same(again.linear, finished.linear)


def test_an_existing_run_is_not_overwritten(finished, model, data):
    before = files(finished.folder)
    with pytest.raises(FileExistsError, match="already holds a run: pass resume=True"):
        tlc.collapse(model, data, 3, out=finished.folder, **SETTINGS)
    assert files(finished.folder) == before


@pytest.mark.parametrize(
    "other", [dict(seed=1), dict(rule="affine"), dict(rank="tlc"), dict(epochs=2), dict(lr=0.1)]
)
def test_a_run_with_other_settings_is_not_resumed(other, finished, model, data):
    before = files(finished.folder)
    with pytest.raises(ValueError, match=f"another {next(iter(other))}: nothing was changed"):
        tlc.collapse(model, data, 3, out=finished.folder, resume=True, **SETTINGS | other)
    assert files(finished.folder) == before


def test_a_run_of_another_model_or_other_data_is_not_resumed(finished, model, data):
    other = randomize(tlc.simple_cnn(width=4), 5, torch.float32)
    with pytest.raises(ValueError, match="another model"):
        tlc.collapse(other, data, 3, out=finished.folder, resume=True, **SETTINGS)
    with pytest.raises(ValueError, match="another train"):
        tlc.collapse(model, data.subset(99), 3, out=finished.folder, resume=True, **SETTINGS)
    with pytest.raises(ValueError, match="another model"):
        tlc.load_run(other, finished.folder, 1)


@pytest.mark.parametrize("remove", [7, -1])
def test_more_removals_than_activations_are_refused(remove, model, data, tmp_path):
    with pytest.raises(ValueError, match=f"remove={remove}, but this model has 6 activations"):
        tlc.collapse(model, data, remove, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_rule_is_refused_before_anything_is_written(model, data, tmp_path):
    for wrong in (dict(rank="best"), dict(rule="best")):
        with pytest.raises(ValueError, match="'best'"):
            tlc.collapse(model, data, 1, out=tmp_path / "run", **SETTINGS | wrong)
        assert not (tmp_path / "run").exists()


def test_load_run_gives_every_step(finished, model):
    assert same(tlc.load_run(model, finished.folder, 3), finished.linear)
    dense = tlc.load_run(model, finished.folder, 0)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in dense.state_dict().items())


def test_a_folder_without_a_run_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        tlc.load_run(model, tmp_path, 1)


def test_the_given_model_is_unmodified(data, tmp_path):
    torch.manual_seed(1)
    model = randomize(tlc.resnet18(width=4), 1, torch.float32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = {n: m.training for n, m in model.named_modules()}
    for rule, rank in (("on_off_affine", "random"), ("published", "reference")):
        out = tmp_path / rule
        run = tlc.collapse(model, data.subset(60), 1, rank, rule, 0.5, out=out, keep="all")
        assert list(run.table["activations"]) == [17, 16]
        assert same(tlc.load_run(model, out, 1), run.linear)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert flags == {n: m.training for n, m in model.named_modules()}


def test_a_temporary_folder_is_made_where_none_is_given(model, data):
    run = tlc.collapse(model, data, 0, **SETTINGS)
    assert len(run.table) == 1 and (run.folder / "run.json").exists()
    shutil.rmtree(run.folder)
