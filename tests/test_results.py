"""Records: what goes in comes out, a file that is none is refused, what is missing is made."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import files

import tlc_minimal as tlc
from tlc_minimal.experiments import pieces as module
from tlc_minimal.experiments.pieces import Piece, run_pieces, this_command
from tlc_minimal.results import COLUMNS, FIELDS, _said, find_folder

ROWS = [{"removed": 0, "test": 90.0}, {"removed": 1, "test": 89.5, "layer": "relu1"}]


def make(data, folder, what="first", seconds=12.5, seed=3, **config):
    config = {"width": 4, "rule": "affine", "options": [1]} | config
    return tlc.record(what, data, config, seed, ROWS, seconds, 2, "python -m tlc", folder=folder)


def test_a_record_comes_back_as_a_table(data, tmp_path):
    make(data, tmp_path)
    make(data, tmp_path, "second", width=8, seed=4)
    table = tlc.results(tmp_path)
    assert list(table["what"]) == ["first", "first", "second", "second"]
    assert list(table["width"]) == [4, 4, 8, 8] and list(table["seed"]) == [3, 3, 4, 4]
    assert list(table["removed"]) == [0, 1, 0, 1] and table["layer"][1] == "relu1"
    assert set(table["run_seconds"]) == {12.5} and set(table["run_epochs"]) == {2.0}
    assert set(table["data"]) == {"digits"} and "options" not in table


def test_a_record_says_how_it_was_made(data, tmp_path, monkeypatch):
    path = make(data, tmp_path / "new" / "folder")
    content = json.loads(path.read_text())
    assert path.name == "first.json" and set(content) == set(FIELDS)
    assert content["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert content["data_sha256"] == data.sha256 and content["commit"] and content["device"]
    assert content["rows"] == ROWS and content["command"] == "python -m tlc"
    assert [p.name for p in path.parent.iterdir()] == ["first.json"], "no half-written file stays"
    assert _said("echo", "580.1\n580.1") == "580.1"  # what a driver says of two GPUs
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine without git
    assert json.loads(make(data, tmp_path).read_text())["commit"] == "unknown"


def test_a_record_that_lacks_a_field_is_refused_and_none_overwritten(data, tmp_path):
    path = make(data, tmp_path, seconds=12)  # whole seconds are a number, too
    before, content = path.read_bytes(), json.loads(path.read_text())
    with pytest.raises(FileExistsError, match=r"first\.json is recorded already: move it away, or"):
        make(data, tmp_path, seconds=1.0)
    assert path.read_bytes() == before and list(tlc.results(tmp_path)["run_seconds"]) == [12, 12]
    for field in FIELDS:
        path.write_text(json.dumps({k: v for k, v in content.items() if k != field}))
        with pytest.raises(ValueError, match=rf"first\.json lacks a valid {field}: restore it"):
            tlc.results(tmp_path)
    for other in ({"schema": 2}, {"rows": [1, 2]}):
        path.write_text(json.dumps(content | other))
        with pytest.raises(ValueError, match=r"first\.json is no record of schema 1: move it away"):
            tlc.results(tmp_path)


def test_no_records_are_an_empty_table(tmp_path, monkeypatch):
    assert tlc.results(tmp_path).empty
    monkeypatch.chdir(tmp_path)  # and so is no folder, here or above
    table = tlc.results()
    assert table.empty and list(table) == COLUMNS


def test_the_folder_is_found_from_below(data, tmp_path, monkeypatch):
    make(data, tmp_path / "data/results")
    (tmp_path / "notebooks/deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks/deep")
    assert len(tlc.results()) == 2
    with pytest.raises(FileNotFoundError, match="no data/nothing here or above"):
        find_folder("data/nothing")


def test_the_command_is_as_a_person_would_type_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["/x/__main__.py", "bench", "--only", "a b", "--out", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", argv)
    assert this_command() == "python -m tlc_minimal bench --only 'a b' --out runs"


def test_every_committed_record_is_valid():
    table = tlc.results(folder := Path(__file__).parents[1] / "data/results")
    assert set(table["what"]) == {path.stem for path in folder.glob("*.json")}
    assert (table["run_seconds"] > 0).all() and table["commit"].all()
    assert not table[table["what"].str.startswith("fair_")].duplicated(["what", "removed"]).any()
    by = table[table["width"] == 16].groupby("method")["test"].agg(["mean", "min", "max"]).T
    assert by["dense"]["min"] < by["dense, in float32"]["mean"] < by["dense"]["max"], "bf16 is as"


@pytest.mark.filterwarnings("ignore:.*unknowns take at least")  # counts need no good fit
@pytest.mark.parametrize("what", ["headline_w16_lines_28_seed0", "headline_w16_project_22_seed0"])
def test_the_surgery_of_a_recorded_run_gives_the_same_counts_today(what):
    """The checkpoint is the network that both began with; behind sums nothing is cut, so that noise
    will do for data."""
    record = json.loads((Path(__file__).parents[1] / f"data/results/{what}.json").read_text())
    dense, *_, last = record["rows"]
    model, names = tlc.load_checkpoint("resnet18_w16_cifar10"), last["layer"].split(", ")
    x = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    linear = record["config"]["how"] == "blocks"
    small = tlc.linearize(model, names, x) if linear else tlc.project(model, names, x).model
    for network, row in ((model, dense), (small, last)):
        assert {k: v for k, v in tlc.count(network, x).items() if k in row}.items() <= row.items()


# ---- the runner: what is missing is made, once, within its budget, and nothing lost ----


small = lambda: tlc.load_data("digits", size=16)


@pytest.fixture
def folders(tmp_path):
    return {"out": tmp_path / "runs", "folder": tmp_path / "records"}


def piece(what, minutes=1.0, run=None, images=20, data=small):
    def rows(piece, data, out):
        return [{"removed": 0, "test": float(data.train.size)}], 2

    return Piece(what, data, 0, {"width": 4, "method": what}, run or rows, minutes, images)


def test_every_piece_becomes_a_valid_record(folders, capsys):
    written = run_pieces([piece("a"), piece("b", images=None)], {}, **folders)
    assert [p.name for p in written] == ["a.json", "b.json"]
    table = tlc.results(folders["folder"]).set_index("what")
    assert table.loc["a", "test"] == 20 and table.loc["b", "test"] > 1000
    assert list(table["run_epochs"]) == [2, 2] and set(table["data"]) == {"digits"}
    out = capsys.readouterr().out
    assert "2 pieces, 2 to do, about 2 minutes" in out and "a: 1.0 minutes" in out
    before = files(folders["folder"])  # and a rerun does nothing
    assert run_pieces([piece("a")], {}, **folders) == [] and files(folders["folder"]) == before
    assert "1 pieces, 0 to do" in capsys.readouterr().out


def test_only_takes_the_pieces_that_contain_it(folders):
    written = run_pieces([piece("long_a"), piece("long_b")], {}, **folders, only="_b")
    assert [p.name for p in written] == ["long_b.json"]
    with pytest.raises(ValueError, match="no piece 'c'; there are: long_a, long_b"):
        run_pieces([piece("long_a"), piece("long_b")], {}, **folders, only="c")


def test_a_piece_that_does_not_fit_into_the_budget_waits(folders, capsys):
    pieces = [piece("short", 0.1), piece("long", 50), piece("later", 0.1)]
    assert run_pieces(pieces, {}, **folders, budget=0) == [] and not folders["folder"].exists()
    assert "run the same command again to go on with it" in capsys.readouterr().out
    written = run_pieces(pieces, {}, **folders, budget=5)
    assert [p.name for p in written] == ["short.json"]
    said = capsys.readouterr().out
    assert "minutes are left of the budget of 5, and long takes about 50.0" in said
    written = run_pieces(pieces, {}, **folders, budget=5)
    assert [p.name for p in written] == ["long.json", "later.json"], "the first of a call is begun"


def test_an_interrupted_call_keeps_what_was_done(folders):
    def killed(piece, data, out):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pieces([piece("a"), piece("b", run=killed)], {}, **folders)
    assert [p.name for p in folders["folder"].iterdir()] == ["a.json"]
    assert [p.name for p in run_pieces([piece("a"), piece("b")], {}, **folders)] == ["b.json"]


def test_a_record_of_another_schema_is_refused_and_kept(folders):
    run_pieces([piece("a")], {}, **folders)
    path = folders["folder"] / "a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(ValueError, match="a.json is not of schema 1: move it away"):
        run_pieces([piece("a")], {}, **folders)
    assert json.loads(path.read_text())["schema"] == 99


def test_data_are_found_by_name_and_loaded_once(folders, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "load_data", lambda name: asked.append(name) or small())
    pieces = [piece(w, data="cifar10") for w in "ab"] + [piece("c", data="mnist")]
    run_pieces(pieces, {"cifar10": "some/folder"}, **folders)
    assert asked == ["some/folder", "mnist"]
