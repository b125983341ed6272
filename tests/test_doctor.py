"""The doctor runs where nothing else does."""

import importlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
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


@pytest.mark.parametrize("lowest, beyond, told", [(0, 1, 0), (-2, 3, 0), (-2, 0, 1), (1, 2, 1)])
def test_another_python_is_told_which_ones_do(lowest, beyond, told, monkeypatch):
    minor = sys.version_info.minor
    range_ = f">=3.{minor + lowest},<3.{minor + beyond}"
    monkeypatch.setattr(doctor, "PYTHON", range_)
    assert (f" is not {range_}: install" in doctor.report()) == told


def test_doctor_reports_everything(tmp_path, monkeypatch):
    text = doctor.report()
    words = "python", "torchvision", "cpu", "profile", "GiB", "digits", "data/MNIST/raw"
    assert not [word for word in words if word not in text]
    assert "could not be read" not in text and str(ROOT) not in text
    monkeypatch.chdir(tmp_path)  # an empty folder: every thing missing gets its line
    monkeypatch.setenv("TLC_PROFILE", "fastest")
    todo = doctor.report().split("WHAT TO DO")[1]
    assert 'tlc.load_data("mnist")' in todo and 'tlc.load_data("cifar10")' in todo
    assert "TLC_PROFILE=fastest" in todo


def test_doctor_has_nothing_to_do_where_all_is_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TLC_PROFILE", raising=False)
    monkeypatch.setattr(doctor, "versions", lambda todo: [])  # this machine's own shortages
    monkeypatch.setattr(doctor, "disk_and_memory", lambda todo: [])
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    asked = 'tlc.load_data("cifar10")'
    assert asked in doctor.report()
    for part in ("train", "test"):  # in any of its forms
        (tmp_path / "data/cifar10" / part / "cat").mkdir(parents=True)
    assert asked not in doctor.report()
    for folder, parts in doctor.DATA.items():
        for part in parts:
            file = tmp_path / folder / part.replace("*", "x")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    assert doctor.report().endswith("WHAT TO DO\n- Nothing to do.")


def test_doctor_survives_missing_and_old_packages(monkeypatch):
    def version(name):
        if name in ("pandas", "jupyterlab", "scikit-learn"):
            raise PackageNotFoundError(name)
        return "2.9.1+cpu" if name == "torch" else "99.0"

    monkeypatch.setattr(doctor, "version", version)
    todo = doctor.report().split("WHAT TO DO")[1]
    assert '- pandas (needed) is missing: pip install -c constraints.txt -e "."' in todo
    assert "jupyterlab (for the notebooks) is missing" in todo and '".[course]"' in todo
    assert "torch 2.9.1+cpu is older than 2.11" in todo and "torchvision" not in todo


@pytest.mark.parametrize("broken", ["torch", "torchvision", "psutil"])
def test_doctor_survives_broken_packages(monkeypatch, broken):
    def import_module(name):
        if name == broken:
            raise RuntimeError("operator torchvision::nms does not exist")
        return sys.modules[name]

    for name in ("torch", "torchvision", "psutil"):
        importlib.import_module(name)
    monkeypatch.setattr(doctor, "import_module", import_module)
    text = doctor.report()
    assert "torchvision::nms" in text and "WHAT TO DO" in text
    if broken != "psutil":
        assert "torch and torchvision do not load together" in text
