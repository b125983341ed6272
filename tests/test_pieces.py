"""The runner of experiments: what is missing is made, once, within its budget, and nothing lost."""

import json

import pytest
from helpers import files

import tlc_minimal as tlc
import tlc_minimal.experiments.pieces as module
from tlc_minimal.experiments.pieces import Piece, run_pieces


def digits():
    return tlc.load_data("digits", size=16)


@pytest.fixture
def folders(tmp_path):
    return {"out": tmp_path / "runs", "folder": tmp_path / "records"}


def piece(what, minutes=1.0, run=None, images=20, data=digits):
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
    monkeypatch.setattr(module, "load_data", lambda name: asked.append(name) or digits())
    pieces = [piece(w, data="cifar10") for w in "ab"] + [piece("c", data="mnist")]
    run_pieces(pieces, {"cifar10": "some/folder"}, **folders)
    assert asked == ["some/folder", "mnist"]
