"""An experiment is a list of pieces, each one JSON record: a rerun does only what is missing."""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..data import Data, load_data
from ..files import cannot_write, load_weights, read_json, save_weights
from ..parallel import processes
from ..refuse import check_number
from ..results import FOLDER, SCHEMA, record
from ..train import best_device, fit, layout, precision


class Piece(NamedTuple):
    """One record to be made. ``run(piece, data, out)`` returns its rows and the epochs it took."""

    what: str  # the record's name
    data: str | Callable[[], Data]  # "cifar10", "mnist", … or what loads it
    seed: int
    config: dict  # with "method": what the tables call it
    run: Callable[["Piece", Data, Path], tuple[list[dict], float]]
    minutes: float  # an estimate, for the plan
    images: int | None = None  # how many of the training images; None: all


def run_pieces(
    pieces: list[Piece], paths: dict[str, str], out: Path, folder: Path = FOLDER,
    budget: float | None = None, only: str = "",
) -> list[Path]:  # fmt: skip
    """Make the records that ``folder`` lacks, in order; returns their paths.

    ``paths``: where the data sets are, {"cifar10": a name or a folder of images}. ``out``: where
    runs live; one that was interrupted is taken up there. ``budget``: minutes; a piece that does
    not fit into what is left of it is not begun, unless it is the first (and the budget not 0).
    ``only``: pieces whose name contains this.
    ValueError if no piece's name does, or if a record that is there has another schema.
    """
    if budget is not None:
        check_number("budget", budget, Real, lambda b: b >= 0, "a number of minutes, 0 or above")
    check_alone()
    chosen = [p for p in pieces if only in p.what]
    if not chosen:
        there = ", ".join([p.what for p in pieces[:9]] + ["…"] * (len(pieces) > 9))
        raise ValueError(f"there is no piece {only!r}; there are: {there}.")
    missing = [p for p in chosen if not _is_recorded(folder / f"{p.what}.json")]
    total = sum(p.minutes for p in missing)
    print(f"{len(chosen)} pieces, {len(missing)} to do, about {total:.0f} minutes", flush=True)
    for piece in missing:
        print(f"  {piece.what}: {piece.minutes:.1f} minutes")
    begun, written, loaded = time.perf_counter(), [], (None, None)
    for piece in missing:
        left = None if budget is None else budget - (time.perf_counter() - begun) / 60
        if left is not None and (left < piece.minutes and written or left <= 0):
            print(
                f"{max(left, 0):.1f} minutes are left of the budget of {budget:g}, and "
                f"{piece.what} takes about {piece.minutes:.1f}: run the same command again to go "
                "on with it."
            )
            break
        for place in (out, folder):  # before an hour is trained
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise cannot_write(place, error) from error
        key = (piece.data, piece.images)
        if loaded[0] != key:
            loaded = (key, _load(piece, paths))
        start = time.perf_counter()
        rows, epochs = piece.run(piece, loaded[1], out)
        seconds = time.perf_counter() - start
        config = {"precision": str(precision()).removeprefix("torch.")} | piece.config
        about = (piece.what, loaded[1], config, piece.seed)
        written.append(record(*about, rows, seconds, epochs, this_command(), folder))
        print(f"{written[-1].name}: {seconds:.0f} s", flush=True)
    return written


def check_alone() -> None:
    """RuntimeError under several processes: a record is made, and a clock looked at, by one."""
    if processes() > 1:
        raise RuntimeError(
            "records are made by one process each: start it without torchrun or accelerate launch; "
            "several may run side by side, each with other pieces (--only)."
        )


def trained(
    path: Path, build: Callable[[], nn.Module], data: Data, epochs: float, seed: int, **how
) -> nn.Module:
    """The network of ``build``, trained by ``fit(…, epochs, seed=seed, **how)`` and kept in
    ``path``; loaded if it is there, taken up where it was if it was killed. Records travel with the
    repository, weights do not: the same seed trains the same network again. In eval mode, on the
    best device. ValueError if ``path`` holds a network that was trained otherwise."""
    torch.manual_seed(seed)
    model = build()
    recipe = {"epochs": epochs, "seed": seed, **how, "data": data.sha256, "images": data.train.size}
    if path.exists():
        _, about = load_weights(path, into=model)
        there = json.loads(about.get("recipe", "{}"))
        if differing := [k for k in there if there[k] != recipe.get(k)]:
            raise ValueError(
                f"{path} was trained with different {', '.join(differing)}: nothing was changed; "
                "choose another folder, or train as it was."
            )
    else:
        state = path.with_suffix(".state")
        fit(model, data, epochs, seed=seed, progress=path.stem, state=state, **how)
        save_weights(model, path, recipe=json.dumps(recipe))
        state.unlink(missing_ok=True)  # or another process was as far
    return model.to(best_device(), memory_format=layout(model)).eval()


def this_command() -> str:
    """The command line that runs now, as a person would type it: no absolute paths."""
    arguments = (os.path.relpath(a) if os.path.isabs(a) else a for a in sys.argv[1:])
    return f"python -m tlc_minimal {shlex.join(arguments)}"


def _load(piece: Piece, paths: dict[str, str]) -> Data:
    name = piece.data
    data = name() if callable(name) else load_data(paths.get(name, name))
    return data.subset(piece.images) if piece.images else data


def _is_recorded(path: Path) -> bool:
    if not path.exists():
        return False
    if read_json(path, {"schema": int})["schema"] != SCHEMA:
        raise ValueError(
            f"{path} is not of schema {SCHEMA}: move it away, and run again to make it anew."
        )
    return True
