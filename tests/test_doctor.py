"""The doctor runs where nothing else does."""

import subprocess
import sys
from pathlib import Path

import pytest

from tlc_minimal import doctor

ROOT = Path(__file__).resolve().parents[1]


def test_doctor_runs_with_nothing_but_python():
    """-S: Python without site-packages, and so without torch, typer and all the rest."""
    command = [sys.executable, "-S", "-m", "tlc_minimal"]
    how = {"cwd": ROOT, "capture_output": True, "text": True, "env": {"PYTHONUTF8": "1"}}
    done = subprocess.run([*command, "doctor"], **how)
    assert done.returncode == 0, done.stderr
    assert "torch (needed) is missing: pip install" in done.stdout
    assert "do not load together" not in done.stdout, "missing is not broken"
    assert "No module named" in subprocess.run([*command, "demo"], **how).stderr


@pytest.mark.parametrize(
    "lowest, beyond, told", [(0, 1, False), (-2, 3, False), (-2, 0, True), (1, 2, True)]
)
def test_another_python_is_told_which_ones_do(lowest, beyond, told, monkeypatch):
    minor = sys.version_info.minor
    range_ = f">=3.{minor + lowest},<3.{minor + beyond}"
    monkeypatch.setattr(doctor, "PYTHON", range_)
    assert (f" is not {range_}: install" in doctor.report()) == told


def test_doctor_finds_cifar10_in_any_of_its_forms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = 'tlc.load_data("cifar10")'
    assert asked in doctor.report()
    for part in ("train", "test"):
        (tmp_path / "data/cifar10" / part / "cat").mkdir(parents=True)
    assert asked not in doctor.report()
