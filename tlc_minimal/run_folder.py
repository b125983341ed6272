"""A run's folder: one process at a time, every file whole, and what is there is taken up."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .files import cannot_write, digest, read_json, write_json
from .parallel import is_main, own
from .refuse import check_number

FIELDS = {"config": dict, "rows": list, "sha256": str}  # of run.json


@contextmanager
def owned(folder: str | Path) -> Iterator[Path]:
    """The folder (~ is the home), made if it is missing, for this process alone inside the block;
    of several that train together the main one has it, the others a copy.

    The system frees the lock when its owner dies, however it dies. TypeError, ValueError if it has
    no name, OSError if it cannot be written; BlockingIOError, naming the owner, if another process
    has it. Ctrl-C and a full disk inside the block get a note that says how to go on.
    """
    check_number("out", folder, (str, Path), str, "the name of a folder")
    folder = Path(folder).expanduser()
    if not is_main():
        yield own(folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)  # this process may re-enter
        lock.acquire()
    except Timeout:
        owner = (folder / ".owner").read_text() if (folder / ".owner").exists() else "unknown"
        way_out = "wait for it, or choose another folder"
        raise BlockingIOError(f"{folder} is in use by process {owner}: {way_out}.") from None
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        if lock.lock_counter == 1:
            (folder / ".owner").write_text(str(os.getpid()))
            for left in folder.glob("*.????????.part"):  # of a process killed while it wrote
                left.unlink()
        yield own(folder)
    except (KeyboardInterrupt, OSError) as error:
        if lock.lock_counter == 1 and not isinstance(error, FileExistsError):  # said once
            error.add_note(f"What is finished is kept in {folder}: resume=True goes on from there.")
        raise
    finally:
        lock.release()


def rows_of(folder: Path, config: dict, resume: bool) -> list[dict]:
    """The rows of a folder's run so far, [] where there is none.

    FileExistsError if there is one and ``resume`` is False; ValueError if it is damaged, or of
    another ``config``.
    """
    if not (folder / "run.json").exists():
        return []
    if not resume:
        raise FileExistsError(f"{folder} already holds a run: pass resume=True, or another folder.")
    saved = run_of(folder)
    if differing := [k for k in config if saved["config"].get(k) != config[k]]:
        what = f"{folder} holds a run with different {', '.join(differing)}: nothing was changed"
        way_out = "choose another folder, or the same model, data and settings"
        raise ValueError(f"{what}; {way_out}.")
    return saved["rows"]


def run_of(folder: str | Path) -> dict:
    """What a folder's run.json holds: config and rows. FileNotFoundError if it holds no run,
    ValueError if that is damaged."""
    path = Path(folder).expanduser() / "run.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no run: choose the folder that collapse wrote to.")
    saved = read_json(path, FIELDS)
    if saved.pop("sha256") != digest({}, {"run": json.dumps(saved)}):
        raise ValueError(f"{path} is damaged (wrong SHA-256): restore it, or move it away.")
    return saved


def write_run(folder: Path, config: dict, rows: list[dict]) -> None:
    """Keep a run's config and rows as the folder's run.json, with a SHA-256 inside."""
    run = {"config": config, "rows": rows}
    write_json(folder / "run.json", run | {"sha256": digest({}, {"run": json.dumps(run)})})
