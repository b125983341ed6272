"""The recorded experiments, made tiny: every piece is made once, and made again by nobody."""

import importlib
import json

import pytest

import tlc_minimal as tlc

module = importlib.import_module("tlc_minimal.reproduce")
MNIST = [
    "mnist_w2_dense_seed0", "mnist_w2_tlc_on_off_affine_seed0", "mnist_w2_tlc_on_off_seed0",
    "mnist_w2_random_on_off_affine_seed0", "mnist_w2_clock",
]  # fmt: skip
DIGITS = {"mnist": "digits", "data": "digits"}


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """The smoke profile with width 2, a few images and one or two removals."""
    with pytest.MonkeyPatch.context() as patch:
        sizes = {"cifar10": (2, 0.5, 0.5), "mnist": (2, 0.5, 0.5), "images": 40}
        patch.setitem(module.PROFILES, "smoke", sizes)
        patch.setattr(module, "REMOVE", {"cifar10": 1, "mnist": 2})
        patch.setattr(module, "SEEDS", {"cifar10": (0,), "mnist": (0,)})
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All pieces of MNIST and the first of CIFAR-10, on digits; (runs, records)."""
    out, folder = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("records")
    for only in ("mnist", "cifar10_w2_dense"):
        module.reproduce("smoke", **DIGITS, only=only, out=out, folder=folder)
    return out, folder


def test_every_piece_becomes_a_valid_record(done):
    assert {p.name for p in done[1].iterdir()} == {
        f"{what}.json" for what in [*MNIST, "cifar10_w2_dense_seed0"]
    }
    table = tlc.results(done[1])
    assert set(table["what"]) == {*MNIST, "cifar10_w2_dense_seed0"}
    assert set(table["data"]) == {"digits"} and (table["run_seconds"] > 0).all()


def test_a_collapse_has_one_row_a_removal(done):
    record = json.loads((done[1] / "mnist_w2_tlc_on_off_affine_seed0.json").read_text())
    assert [row["removed"] for row in record["rows"]] == [0, 1, 2]
    assert [row["activations"] for row in record["rows"]] == [6, 5, 4]
    assert record["config"]["rule"] == "on_off_affine" and record["epochs"] == 1.0
    dense = json.loads((done[1] / "mnist_w2_dense_seed0.json").read_text())["rows"]
    assert record["rows"][0]["val"] == pytest.approx(dense[0]["val"])


def test_the_clock_compares_dense_in_two_and_merged(done):
    rows = json.loads((done[1] / "mnist_w2_clock.json").read_text())["rows"]
    assert [row["network"] for row in rows] == ["dense"] + [
        f"{what}, {how}"
        for what in MNIST[1:4]
        for how in ("in two", "merged for 1", "merged for 128")
    ]
    assert all(row["ms_1"] > 0 and row["ms_128"] > 0 for row in rows)


def test_a_rerun_does_nothing(done, capsys):
    before = {p: p.read_bytes() for p in done[1].iterdir()}
    assert module.reproduce("smoke", **DIGITS, only="mnist", out=done[0], folder=done[1]) == []
    assert "5 pieces, 0 to do" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in done[1].iterdir()} == before


def test_what_is_missing_is_made_from_what_is_there(done, tmp_path):
    """A lost record is written again from the finished run, which is not repeated."""
    import shutil

    shutil.copytree(done[0], out := tmp_path / "runs")
    what = MNIST[3]
    written = module.reproduce("smoke", **DIGITS, only=what, out=out, folder=tmp_path)
    assert [p.name for p in written] == [f"{what}.json"]
    rows, again = (
        json.loads((f / f"{what}.json").read_text())["rows"] for f in (done[1], tmp_path)
    )
    assert rows == again


def test_only_takes_the_pieces_that_contain_it(done, capsys):
    module.reproduce("smoke", **DIGITS, budget=0, only="random", out=done[0], folder=done[1])
    out = capsys.readouterr().out
    assert "2 pieces, 1 to do: cifar10_w2_random_on_off_affine_seed0" in out


def test_no_budget_begins_no_piece(tmp_path, capsys):
    written = module.reproduce("smoke", **DIGITS, budget=0, out=tmp_path, folder=tmp_path)
    assert written == [] and not list(tmp_path.iterdir())
    first = module.plan("smoke")[0].what
    assert f"run again to go on with {first}" in capsys.readouterr().out


def test_a_piece_whose_dense_network_is_missing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the piece mnist_w2_dense_seed0 here first"):
        module.reproduce("smoke", **DIGITS, only="mnist_w2_tlc", out=tmp_path, folder=tmp_path)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_every_profile_plans_every_method_and_a_clock(profile):
    names = [piece.what for piece in module.plan(profile)]
    assert len(set(names)) == len(names) == 10  # with one seed each
    for data in ("mnist", "cifar10"):
        part = [n for n in names if n.startswith(data)]
        assert "dense" in part[0] and "clock" in part[-1] and len(part) == 5


def test_an_unknown_profile_lists_those_there_are():
    with pytest.raises(ValueError, match="no profile 'fast'; there are: smoke, laptop, paper"):
        module.plan("fast")
