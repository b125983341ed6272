"""The command line: what it makes, and mistakes in one sentence each."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tlc_minimal as tlc
from tlc_minimal.__main__ import app, main

TINY = ["--remove", "1", "--network", "simple_cnn", "--width", "2", "--rank", "random",
        "--dense-epochs", "0.5", "--epochs", "0.5"]  # fmt: skip
ROWS = ["accuracy, %", "activations", "layers on the longest path", "million MACs",
        "thousand parameters", "ms, batch 1", "ms, batch 128"]  # fmt: skip


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of two classes, 24 images of 8x8 pixels each."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part in ("train", "test"):
        for name, low in (("dark", 0), ("light", 128)):
            (root / part / name).mkdir(parents=True)
            for i in range(24):
                pixels = rng.integers(low, low + 128, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def collapsed(images, tmp_path_factory):
    """A finished run of the command, never to be written to."""
    out = tmp_path_factory.mktemp("cli") / "run"
    done = run("collapse", "--data", images, "--out", out, *TINY)
    assert done.exit_code == 0, done.output
    return out, done.output


def test_collapse_makes_a_run_and_a_report_and_says_where(collapsed):
    out, text = collapsed
    assert (out / "report.html").exists() and f"report: {out / 'report.html'}" in text
    assert [r["removed"] for r in json.loads((out / "run.json").read_text())["rows"]] == [0, 1]
    lines = [line for line in text.splitlines() if line.strip()][-8:]
    assert lines[0].split() == ["before", "after"]
    number = r" +[\d,]+(\.\d+)?"
    for line, name in zip(lines[1:6], ROWS[:5], strict=True):
        assert re.fullmatch(f"{name}{number}{number}", line), line
    for line, name in zip(lines[6:], ROWS[5:], strict=True):
        assert re.fullmatch(rf"{name}( +\d+\.\d\d ± \d+\.\d\d){{2}}", line), line


def test_report_writes_it_again(collapsed):
    out, _ = collapsed
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    done = run("report", out)
    assert done.exit_code == 0 and (out / "report.html").read_text() == page


def test_collapse_does_not_overwrite_a_run(collapsed, images):
    out, _ = collapsed
    before = {p: p.read_bytes() for p in out.iterdir()}
    done = run("collapse", "--data", images, "--out", out, *TINY)
    assert isinstance(done.exception, FileExistsError) and "--resume" in str(done.exception)
    assert {p: p.read_bytes() for p in out.iterdir()} == before


def test_collapse_goes_on_where_it_was(collapsed, images):
    out, _ = collapsed
    before = (out / "run.json").read_bytes()
    done = run("collapse", "--data", images, "--out", out, "--resume", *TINY)
    assert done.exit_code == 0, done.output
    assert (out / "run.json").read_bytes() == before


def test_doctor_prints_what_is_here():
    done = run("doctor")
    assert done.exit_code == 0 and "WHAT TO DO" in done.output


def test_reproduce_with_no_budget_says_what_there_is_to_do(tmp_path):
    done = run("reproduce", "--profile", "smoke", "--budget", "0", "--out", tmp_path, "--folder",
               tmp_path)  # fmt: skip
    assert done.exit_code == 0 and "run the same command again to go on" in done.output
    assert not list(tmp_path.iterdir())


def test_table_prints_the_records_as_markdown(tmp_path, monkeypatch):
    (tmp_path / "data/results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    data = replace(tlc.load_data("digits", size=8).subset(10), name="mnist")
    row = {"removed": 5, "test": 87.5, "macs": 1e6, "params": 1000, "activations": 1}
    tlc.record("first", data, {"width": 4, "method": "tlc"}, 0, [row], 60.0, 1, "command")
    done = run("table")
    assert done.exit_code == 0 and "<!-- chain -->\n\n| data | network |" in done.output
    assert "| mnist | width 4 | tlc |" in done.output and "87.50" in done.output


def test_help_names_every_command():
    done = run("--help")
    for command in ("doctor", "demo", "collapse", "report", "reproduce", "bench", "table"):
        assert command in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("collapse --data diggits --out OUT", "data set 'diggits'"),
        ("collapse --data digits --out OUT --network vgg", "there is no network 'vgg'"),
        ("reproduce --profile fast --out OUT --folder OUT", "there is no profile 'fast'"),
        ("bench --profile fast --out OUT --folder OUT", "there is no profile 'fast'"),
        (
            "bench --profile smoke --only vgg --out OUT",
            "there is no piece 'vgg'; there are: resnet",
        ),
        (
            "bench --profile smoke --data digits --only w4_clock --out OUT --folder OUT",
            "bench --only resnet18_w4_train` first",
        ),
        ("report OUT", "holds no run"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, words, tmp_path, monkeypatch):
    out = str(tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["tlc", *arguments.replace("OUT", out).split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    message = str(stopped.value)
    assert message.startswith("tlc_minimal: ") and words in message and "\n" not in message
    assert not (tmp_path / "out").exists(), "nothing is left behind"


def test_a_mistake_leaves_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tlc_minimal", "report", "nowhere"],
        cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "nowhere holds no run" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_new_demo_begins_again_and_removes_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text('{"rows": []}')
    (tmp_path / "mine.safetensors").write_text("mine")
    small, collapse = tlc.load_data("digits", size=8).subset(20), tlc.collapse
    monkeypatch.setattr(tlc, "load_data", lambda name: small)
    monkeypatch.setattr(tlc, "collapse", lambda *a, **k: collapse(*a, **k | {"remove": 1}))
    done = run("demo", "--out", tmp_path, "--epochs", 0.1, "--tune", 0.1)
    assert done.exit_code == 0, done.output
    assert len(json.loads((tmp_path / "run.json").read_text())["rows"]) == 2
    assert (tmp_path / "mine.safetensors").read_text() == "mine"
    assert "ms, batch 128" in done.output and (tmp_path / "report.html").exists()
