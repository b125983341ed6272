"""The bench, made tiny: what is trained is clocked, what is recorded is not repeated."""

import importlib
import shutil

import pandas as pd
import psutil
import pytest
import torch
from helpers import residual, rows_of

import tlc_minimal as tlc
from tlc_minimal.experiments import pieces
from tlc_minimal.run_folder import run_of, write_run

bench = importlib.import_module("tlc_minimal.experiments.bench")
BATCHES = (1, 3)
NAMES = ["resnet18_w2", "mobilenet_v2_small"]
SMALL = {"width_mult": 0.1, "inverted_residual_setting": [[1, 8, 1, 1], [2, 8, 2, 2]]}


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Two networks, a few images, one removal, two small batches; one thread, which no other
    process on a busy machine can hold up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        common = (40, 0.5, 0.1, 0.5, (0, 1))
        plans = [bench.Plan("resnet18", {"width": 2}, *common),
                 bench.Plan("mobilenet_v2", SMALL, *common)]  # fmt: skip
        patch.setitem(bench.PROFILES, "smoke", dict(zip(NAMES, plans, strict=True)))
        patch.setattr(bench, "usual_batches", lambda device: BATCHES)
        patch.setitem(bench.BUILD, "resnet18", residual)
        patch.setattr(psutil, "cpu_percent", lambda interval: 7.0)  # it waits, and waits again
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(runs, records) of both networks, trained first and clocked later; never written to."""
    out, folder = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("records")
    for only in ("train", "clock"):
        bench.bench("smoke", "digits", only, out, folder)
    return out, folder


def forbid(*args, **kwargs):
    raise AssertionError("this was to be taken from what is there")


def test_each_network_leaves_a_record_clocked_in_two_and_merged_at_each_batch(done):
    table = tlc.results(done[1])
    names = {f"bench_{name}" for name in NAMES}
    assert set(table["what"]) == names == {p.stem for p in done[1].iterdir()}
    assert set(table["method"]) == {"bench"} and (table["run_seconds"] > 0).all()
    assert set(table["images"]) == {40} and set(table["data"]) == {"digits"}
    assert set(table["rule"]) == {"on_off_affine"} and set(table["padding"]) == {"as_trained"}
    rows = rows_of(done[1], "bench_resnet18_w2")
    assert [(r["batch"], r["how"], r["removed"]) for r in rows] == [
        (batch, how, removed)
        for batch in BATCHES for how in ("in two", "merged") for removed in (0, 1)
    ]  # fmt: skip
    for row in rows:
        assert row["activations"] == 5 - row["removed"]
        assert row["ms"] > 0 and row["speedup"] > 0 and row["speedup_spread"] >= 0
        assert row["threads"] == torch.get_num_threads() and row["busy"] == 7
    assert all(r["speedup"] == 1 for r in rows if (r["removed"], r["how"]) == (0, "in two"))


def test_a_lost_record_is_clocked_again_and_nothing_is_trained(done, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "fit", forbid)
    monkeypatch.setattr(bench, "collapse", forbid)
    shutil.copytree(done[0], out := tmp_path / "runs")
    config, rows = run_of(out / "resnet18_w2").values()
    rows = [row | {"test": test} for row, test in zip(rows, (11.0, 22.0), strict=True)]
    write_run(out / "resnet18_w2", config, rows)
    seen, merge = [], bench.merge
    monkeypatch.setattr(bench, "merge", lambda model, x: seen.append(len(x)) or merge(model, x))
    written = bench.bench("smoke", "digits", "resnet18_w2", out, tmp_path)
    assert seen == [1, 1, 3, 3] and [p.name for p in written] == ["bench_resnet18_w2.json"]
    old, new = (rows_of(folder, "bench_resnet18_w2") for folder in (done[1], tmp_path))
    assert [r["accuracy"] for r in new] == [11.0, 22.0] * 4
    same = ("removed", "how", "activations")
    assert [[r[k] for k in same] for r in old] == [[r[k] for k in same] for r in new]


def test_a_rerun_trains_and_clocks_nothing_but_shows_the_tables(done, monkeypatch, capsys):
    for name in ("trained", "collapse", "latency", "load_data"):
        monkeypatch.setattr(bench, name, forbid)
    before = {p: p.read_bytes() for folder in done for p in folder.rglob("*.*") if p.is_file()}
    assert bench.bench("smoke", "digits", "", *done) == []
    shown = capsys.readouterr().out
    assert "4 pieces, 0 to do: -" in shown
    assert shown.count("never slower than dense") == 2
    for word in (*NAMES, "million MACs", "speedup", "in two"):
        assert word in shown
    assert {p: p.read_bytes() for p in before} == before


def test_the_clock_needs_a_finished_run(done, tmp_path):
    words = "bench --only resnet18_w2_train` first, with the same --profile, --data and --out"
    shutil.copytree(done[0], out := tmp_path / "runs")
    config, rows = run_of(out / "resnet18_w2").values()
    write_run(out / "resnet18_w2", config, rows[:1])  # one removal is missing
    with pytest.raises(FileNotFoundError, match=words):
        bench.bench("smoke", "digits", "resnet18_w2_clock", out, tmp_path)


def one_row(speedup, spread, busy=0.0, how="merged"):
    row = {"removed": 8, "how": how, "batch": 128, "busy": busy}
    return row | {"speedup": speedup, "speedup_spread": spread}


@pytest.mark.parametrize(("rows", "want"), [
    ([one_row(1.2, 0.01), one_row(0.99, 0.02)], "holds"), ([one_row(3.8, 0.1)], "holds"),
    ([one_row(0.5, 0.01, how="in two")], "holds"),
    ([one_row(0.97, 0.02)], "broken by 8 removed at batch 128: 0.970 ± 0.020"),
    ([one_row(1.2, 0.3)], "too noisy to say for 8 removed at batch 128: 1.200 ± 0.300"),
    ([one_row(0.5, 0.1)], "broken by 8 removed at batch 128: 0.500 ± 0.100"),
    ([one_row(1.2, 0.01, 40.0)], "others kept the machine 40 % busy"),
])  # fmt: skip
def test_the_verdict(rows, want):
    assert bench.verdict(pd.DataFrame(rows)) == f"never slower than dense: {want}"
