"""Command line: doctor, demo, collapse, report, reproduce, bench, table."""

import io
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option, Typer

import tlc_minimal as tlc

from .collapse import checked
from .doctor import report as doctors_report
from .experiments.bench import bench
from .experiments.pages import fill
from .experiments.pieces import trained
from .experiments.reproduce import reproduce
from .files import write_whole
from .models import NETWORKS
from .parallel import from_main, is_main
from .refuse import check_known
from .results import find_folder
from .run_folder import owned, rows_of
from .train import check_recipe

app = Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def doctor() -> None:
    """Versions, device, memory, disk and data here, and what to do about what is missing."""
    print(doctors_report())


@app.command()
def demo(out: str = "runs/demo", epochs: float = 15, tune: float = 12) -> None:
    """Collapse a ResNet-18 on handwritten digits that need no download; ends with a report."""
    print(f"{tlc.load_data('digits')}\nResNet-18, width 8, on {tlc.best_device()}:", end=" ")
    print("one convolution a run of layers, until 30 % of the MACs are left")
    how = {"macs": 0.3, "method": "project", "width": 8, "resume": True}
    collapse("digits", out, dense_epochs=epochs, epochs=tune, **how)
    print("next: `make lab` opens the course, notebooks/00_tour.ipynb first")


@app.command()
def collapse(
    data: Annotated[str, Option(help="digits, pictures, mnist, cifar10, or a folder of images")],
    out: Annotated[str, Option(help="folder for the run and its report")],
    remove: Annotated[int | None, Option(help="default: 12, without another target")] = None,
    macs: Annotated[float | None, Option(help="project, blocks: share that may be left")] = None,
    speedup: Annotated[float | None, Option(help="for project: how many times as fast")] = None,
    method: Annotated[str, Option(help=", ".join(tlc.METHODS))] = "at_once",
    network: Annotated[str, Option(help=" or ".join(NETWORKS))] = "resnet18",
    width: int = 16,
    rank: Annotated[str | None, Option(help="for the methods that rank; default: tlc")] = None,
    rule: Annotated[str | None, Option(help="default: on_off_affine")] = None,
    dense_epochs: float = 16,
    epochs: Annotated[float, Option(help="epochs of tuning in all")] = 12,
    seed: int = 0,
    resume: Annotated[bool, Option(help="go on with an interrupted run")] = False,
) -> None:
    """Train a network (once), collapse it, and write a report."""
    choices = {"rank": rank, "rule": rule, "macs": macs, "speedup": speedup}
    choices = {k: v for k, v in choices.items() if v is not None}
    remove = 12 if remove is None and macs is speedup is None else remove
    images = from_main(lambda: tlc.load_data(data))
    check_known("network", network, NETWORKS)
    build = partial(NETWORKS[network], len(images.classes), width)
    check_recipe(images, dense_epochs=dense_epochs, seed=seed)
    config = checked(build(), images, remove, epochs, method, seed, choices)[3]
    del config["model"]  # it is not trained yet
    with owned(out) as folder:
        path = folder / "dense.safetensors"
        begun = [path, path.with_suffix(".state"), folder / "run.json"]
        if not resume and any(there.exists() for there in begun):
            way_out = "add --resume, or choose another folder"
            raise FileExistsError(f"{folder} already holds a run: {way_out}.")
        rows_of(folder, config, resume=True)  # ValueError if they are another run's
        model = trained(path, build, images, dense_epochs, seed)
        how = (remove, epochs, method, seed, folder)
        run = tlc.collapse(model, images, *how, resume=True, **choices)
        if not is_main():
            return
        both = tlc.compare({"dense": model, "collapsed": run.model}, images)
        both.to_json(folder / "compare.json", orient="index", indent=1)
        from .lessons.drawings import towers  # only here: matplotlib is slow to load
        from .lessons.plots import png
        from .lessons.report import readable

        drawn = png(towers({"dense": model, "collapsed": run.model}, images))
        write_whole(folder / "layers.png", drawn)
    report(folder)
    print(readable(both).to_string())


@app.command()
def report(folder: Path) -> None:
    """Write the report of a finished run again."""
    from .lessons.report import write_report  # only here: matplotlib is slow to load

    print(f"report: {write_report(folder.expanduser())}")


app.command()(reproduce)
app.command()(bench)


@app.command()
def table() -> None:
    """Make the tables and pictures of README.md and data/results anew from the records."""
    from .lessons.plots import readme_pictures  # only here: matplotlib is slow to load

    folder = find_folder()
    for page in (folder.parents[1] / "README.md", folder / "README.md"):
        if page.exists():
            page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
            print(f"filled: {page}")
    for path in readme_pictures(tlc.results(), folder):
        print(f"drawn: {path.name}")


def main() -> None:
    """Run the command; a mistake of the user's is one sentence, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that knows ASCII only
    try:
        with redirect_stdout(sys.stdout if is_main() else io.StringIO()):
            app()
    except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        notes = "\n".join(getattr(error, "__notes__", []))
        raise SystemExit(f"tlc_minimal: {error}\n{notes}".rstrip()) from None
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C
            again = "the same command goes on from there (`collapse` with --resume)."
            print(f"tlc_minimal: stopped. What is finished is kept: {again}", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
