"""The command line: what it makes, and runs that are not what the command asks for."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from helpers import files, gives_up, interrupted, make_folder, same, untrained
from typer.testing import CliRunner

import tlc_minimal as tlc
from tlc_minimal import __main__ as command
from tlc_minimal.__main__ import app
from tlc_minimal.experiments import pieces
from tlc_minimal.files import load_weights
from tlc_minimal.lessons import plots, report

TINY = ["--remove", "1", "--network", "simple_cnn", "--width", "2", "--rank", "random",
        "--dense-epochs", "2", "--epochs", "0.5"]  # fmt: skip
ROWS = ["accuracy, %", "activations", "layers on the longest path", "million MACs",
        "thousand parameters", "ms, batch 1", "ms, batch 128"]  # fmt: skip


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def check_mistake(words, folder, monkeypatch, *args):
    """The command gives up with one line (and exit code 1), and the folder is as it was."""
    before, text = files(folder), gives_up(monkeypatch, *args)
    assert isinstance(text, str) and text.startswith("tlc_minimal: ") and "\n" not in text
    assert words in text and len(text) < 300
    assert files(folder) == before


def equal(path, other) -> bool:
    """The same tensors, bit for bit, and the same metadata (in whatever order)."""
    (a, about), (b, wanted) = load_weights(path), load_weights(other)
    return about == wanted and same(dict(sorted(a.items())), dict(sorted(b.items())))


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """They take longer than all the rest of a run; tests/test_plots.py looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_image", lambda figure, alt: plots.plt.close(figure) or alt)
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of two classes, 24 images of 8x8 pixels each."""
    return make_folder(tmp_path_factory.mktemp("images"), count=24, size=(8, 8))


@pytest.fixture(scope="module")
def collapsed(images, tmp_path_factory):
    """A finished run of the command, never to be written to."""
    out = tmp_path_factory.mktemp("cli") / "run"
    done = run("collapse", "--data", images, "--out", out, *TINY)
    assert done.exit_code == 0, done.output
    return out, done.output


@pytest.fixture
def again(collapsed, images, tmp_path):
    """The arguments that go on with a copy of that run."""
    out = shutil.copytree(collapsed[0], tmp_path / "run")
    return ["collapse", "--data", images, "--out", out, "--resume", *TINY]


def test_collapse_makes_a_run_and_a_report_and_says_where(collapsed):
    out, text = collapsed
    assert (out / "report.html").exists() and f"report: {out / 'report.html'}" in text
    assert [r["removed"] for r in json.loads((out / "run.json").read_text())["rows"]] == [0, 1]
    assert (out / "dense.safetensors").exists() and not list(out.glob("*.state"))
    lines = [line for line in text.splitlines() if line.strip()][-8:]
    assert lines[0].split() == ["before", "after"]
    for line, name in zip(lines[1:], ROWS, strict=True):
        number = r" +\d+\.\d\d ± \d+\.\d\d" if name.startswith("ms") else r" +[\d,]+(\.\d+)?"
        assert re.fullmatch(name + 2 * number, line), line
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert run("report", out).exit_code == 0 and (out / "report.html").read_text() == page


def test_collapse_does_not_overwrite_a_run_and_goes_on_where_it_was(again, collapsed, monkeypatch):
    words = "already holds a run: add --resume, or choose another folder"
    anew = [word for word in again if word != "--resume"]
    with untrained():
        check_mistake(words, again[4], monkeypatch, *anew)
        done = run(*again)
    assert done.exit_code == 0, done.output
    before, after = files(collapsed[0]), files(again[4])
    assert all(after[k] == before[k] for k in before if k.startswith(("run", "stage", "dense")))


def test_a_kill_in_dense_training_costs_an_epoch(collapsed, images, tmp_path, monkeypatch, capsys):
    ask = ["collapse", "--data", images, "--out", tmp_path / "run", *TINY]
    with interrupted(1, 3):
        assert gives_up(monkeypatch, *ask) == 130, "as a shell says of Ctrl-C"
        said = capsys.readouterr().err
        assert "stopped. What is finished is kept: the same command goes on" in said
        assert "--resume" in said and "Traceback" not in said
        assert run(*ask, "--resume").exit_code == 130
        done = run(*ask, "--resume")
    assert done.exit_code == 0, done.output
    for name in ("dense.safetensors", "stage_01.safetensors", "stage_01.choice"):
        assert equal(tmp_path / "run" / name, collapsed[0] / name), name
    assert not list((tmp_path / "run").glob("*.state"))


def test_method_and_options_reach_the_run_and_the_home_is_a_home(images, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    done = run("collapse", "--data", images, "--out=~/x", "--method", "one_by_one",
               "--remove", 2, "--rank", "magnitude", "--rule", "affine", "--seed", 3, "--network",
               "simple_cnn", "--width", 2, "--dense-epochs", 0.1, "--epochs", 0.2)  # fmt: skip
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "home/x/run.json").read_text())["config"]
    assert {k: config[k] for k in ("method", "remove", "epochs", "seed", "options")} == {
        "method": "one_by_one", "remove": 2, "epochs": 0.2, "seed": 3,
        "options": {"rank": "magnitude", "rule": "affine"},
    }  # fmt: skip
    assert (tmp_path / "home/x/report.html").exists() and not list((tmp_path / "here").iterdir())
    assert run("report", "~/x").exit_code == 0


def test_table_fills_the_pages_from_the_records(tmp_path, monkeypatch):
    (tmp_path / "data/results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    data = replace(tlc.load_data("digits", size=8).subset(10), name="mnist")
    row = {"removed": 5, "test": 87.5, "macs": 1e6, "params": 1000, "activations": 1}
    tlc.record("first", data, {"width": 4, "method": "tlc"}, 0, [row], 60.0, 1, "command")
    page = tmp_path / "data/results/README.md"
    page.write_text("Text.\n<!-- chain -->\nold\n<!-- /chain -->\nMore.\n")
    assert run("table").exit_code == 0
    filled = page.read_text()
    assert filled.startswith("Text.\n<!-- chain -->\n\n| data | network |") and "old" not in filled
    assert "| mnist | width 4 | tlc |" in filled and "87.50" in filled
    assert filled.endswith("|\n\n<!-- /chain -->\nMore.\n")
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("option, words", [
    (["--rank", "magnitude"], "different options"), (["--dense-epochs", 3], "different epochs"),
    (["--width", 4], "dense.safetensors holds the weights of another network"),
    (["--network", "resnet18"], "dense.safetensors holds the weights of another network"),
], ids=lambda v: str(v)[:40])  # fmt: skip
def test_a_run_with_other_settings_is_not_resumed(option, words, again, monkeypatch):
    with untrained():
        check_mistake(words, again[4], monkeypatch, *again, *option)


def test_damaged_weights_are_named_and_heal_once_deleted(again, collapsed, monkeypatch):
    out, name = again[4], "dense.safetensors"
    (out / name).write_bytes((out / name).read_bytes()[:-3])
    check_mistake(f"{out / name} is damaged", out, monkeypatch, *again)
    (out / name).unlink()
    done = run(*again)
    assert done.exit_code == 0 and equal(out / name, collapsed[0] / name)


@pytest.fixture
def demo(data, monkeypatch, tmp_path):
    """The demo, with a network and digits that take a moment."""
    small, load, real = data.subset(20), tlc.load_data, command.collapse
    monkeypatch.setattr(tlc, "load_data", lambda name: small if name == "digits" else load(name))

    def tiny(data, out, macs, **how):
        real(data, out, remove=1, network="simple_cnn", **how | {"width": 2})

    monkeypatch.setattr(command, "collapse", tiny)
    return ["demo", "--out", tmp_path, "--epochs", 0.1, "--tune", 0.1]


def test_a_demo_adds_to_a_folder_and_is_read_the_second_time(demo, tmp_path, monkeypatch):
    (tmp_path / "mine.safetensors").write_text("mine")
    done = run(*demo)
    assert done.exit_code == 0, done.output
    assert len(json.loads((tmp_path / "run.json").read_text())["rows"]) == 2
    assert (tmp_path / "mine.safetensors").read_text() == "mine"
    assert "ms, batch 128" in done.output and (tmp_path / "report.html").exists()
    before = files(tmp_path)
    monkeypatch.setattr(pieces, "fit", None)
    with untrained():
        assert run(*demo).exit_code == 0
    after = files(tmp_path)
    assert all(after[k] == before[k] for k in before if k.startswith(("run", "stage", "dense")))


@pytest.mark.parametrize("other", ["a collapse", "a command", "another demo", "a begun command"])
def test_a_demo_in_another_runs_folder_is_refused(other, demo, collapsed, tmp_path, monkeypatch):
    if other == "a collapse":
        data = tlc.load_data("digits")
        tlc.collapse(tlc.simple_cnn(width=2), data, 2, 0.1, rank="random", out=tmp_path)
    elif other == "another demo":
        assert run(*demo[:-1], 0.2).exit_code == 0
    elif other == "a command":
        shutil.copytree(collapsed[0], tmp_path, dirs_exist_ok=True)
    else:
        for name in ("dense.safetensors", ".lock", ".owner"):
            shutil.copy(collapsed[0] / name, tmp_path)
    words = "of another network" if other == "a begun command" else "nothing was changed"
    with untrained():
        check_mistake(words, tmp_path, monkeypatch, *demo)
