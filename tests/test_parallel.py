"""Several processes train one network: the table of one alone, one writes, all stop together."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from helpers import CLOCK, apart, digits, files, residual

import tlc_minimal as tlc

HOW = {"batch": 25, "lr": 0.05, "keep": "all", "progress": False, "resume": True}


def collapse(out: Path, method: str):
    torch.manual_seed(int(os.environ.get("RANK", 0)))  # all begin with the first one's weights
    model, data = residual().double(), digits(75, 16)
    run = tlc.collapse(model, data, 2, 4.0, method, out=out / "run", **HOW)
    about = {"table": run.table.to_dict("records"), "wrote": str(run.folder)}
    (out / f"{os.environ.get('RANK', 'alone')}.json").write_text(json.dumps(about))


def fall(out: Path, rank: str):
    """One process has no room for what it should write; what the other does then is tested."""
    write = "tlc_minimal.collapse.save_weights" if rank == os.environ["RANK"] else "os.sync"
    with patch(write, side_effect=OSError("full")):
        collapse(out, "one_by_one")


def member(rank: int, many: int, port: int, work, *args):
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(many), "RANK": str(rank), "LOCAL_RANK": str(rank), **where}
    work(*args)


def team(many: int, work, *args) -> list[int]:
    """``work(*args)`` by so many processes; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    members = [apart(member, rank, many, port, work, *args) for rank in range(many)]
    for process in members:
        process.join(120)
    return [process.exitcode for process in members]


@pytest.mark.parametrize("many, method", [
    (3, "one_by_one"), (2, "layer_folding"), (2, "project"),
])  # fmt: skip
def test_the_table_is_that_of_one_process(many, method, tmp_path):
    """Also with parts of different sizes (25 images, three processes), with gradients that a method
    adds to (slopes), and with what is drawn."""
    for folder in (alone := tmp_path / "alone", together := tmp_path / "together"):
        folder.mkdir()
    collapse(alone, method)
    if method == "one_by_one":  # what one began
        shutil.copytree(alone / "run", together / "run")
        for file in (together / "run").glob("stage_02.*"):
            file.unlink()
    assert team(many, collapse, together, method) == [0] * many
    tables = [together / f"{rank}.json" for rank in range(many)]
    want, *got = (json.loads(path.read_text()) for path in (alone / "alone.json", *tables))
    for about in got:
        tables = (pd.DataFrame(which["table"]).drop(columns=CLOCK) for which in (about, want))
        pd.testing.assert_frame_equal(*tables, rtol=1e-4)
    assert got[0]["wrote"] == str(together / "run")
    assert files(together / "run").keys() == files(alone / "run").keys()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_all_stop_when_one_does(rank, tmp_path):
    assert all(team(2, fall, tmp_path, rank))  # neither 0 nor None, of one that waits


def test_the_command_line_by_torchrun(tmp_path):
    ask = "collapse --data digits --network simple_cnn --width 2 --dense-epochs 0.3 --remove 2"
    ask = ["-m", "tlc_minimal", *ask.split(), "--epochs", "0.3", "--out", str(tmp_path / "run")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    how = dict(capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    done = subprocess.run([*launch, *ask], **how)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == done.stdout.count("accuracy, %") == 1
    assert not list(tmp_path.glob("tlc-*"))
