"""Command line: doctor, demo, collapse, report, reproduce."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
Epochs = Annotated[float, typer.Option(help="epochs of tuning after each removal")]


@app.command()
def doctor() -> None:
    """Versions, device, memory, disk and data here, and what to do about what is missing."""
    from .doctor import report

    print(report())


@app.command()
def demo(out: Path = Path("runs/demo"), epochs: float = 15, tune: float = 3) -> None:
    """Collapse a ResNet-18 on handwritten digits that need no download; ends with a report."""
    from . import best_device, fit, load_data, resnet18
    from .plots import write_report

    data = load_data("digits")
    print(
        f"{data}\nResNet-18, width 8, on {best_device()}: training it, then removing 12 of 17 ReLUs"
    )
    model = resnet18(len(data.classes), width=8).to(best_device())
    fit(model, data, epochs, progress="training the dense network")
    _collapse(model, data, 12, "tlc", "on_off_affine", tune, 0, _fresh(out), False, write_report)


@app.command()
def collapse(
    data: Annotated[str, typer.Option(help="digits, mnist, cifar10, or a folder of images")],
    out: Annotated[Path, typer.Option(help="folder for the run and its report")],
    remove: int = 12,
    network: Annotated[str, typer.Option(help="resnet18 or simple_cnn")] = "resnet18",
    width: int = 16,
    rank: str = "tlc",
    rule: str = "on_off_affine",
    dense_epochs: float = 16,
    epochs: Epochs = 1,
    seed: int = 0,
    resume: Annotated[bool, typer.Option(help="go on with an interrupted run")] = False,
) -> None:
    """Train a network (once), collapse it, and write a report."""
    import torch
    from safetensors.torch import load_file, save_file

    from . import best_device, fit, load_data, resnet18, simple_cnn
    from .plots import write_report

    networks = {"resnet18": resnet18, "simple_cnn": simple_cnn}
    if network not in networks:
        raise ValueError(f"there is no network {network!r}; there are: {', '.join(networks)}.")
    loaded = load_data(data)
    torch.manual_seed(seed)
    model = networks[network](len(loaded.classes), width)
    weights = out / "dense.safetensors"
    if weights.exists() and not resume:
        raise FileExistsError(f"{out} already holds a run: add --resume, or choose another folder.")
    if weights.exists():
        model.load_state_dict(load_file(weights))
    else:
        fit(model, loaded, dense_epochs, seed=seed, progress="training the dense network")
        out.mkdir(parents=True, exist_ok=True)
        save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, weights)
    model.to(best_device()).eval()
    _collapse(model, loaded, remove, rank, rule, epochs, seed, out, True, write_report)


@app.command()
def report(folder: Path) -> None:
    """Write the report of a finished run again."""
    from .plots import write_report

    print(f"report: {write_report(folder)}")


@app.command()
def reproduce(
    profile: Annotated[str, typer.Option(help="smoke, laptop or paper")] = "",
    data: Annotated[
        str, typer.Option(help="where CIFAR-10 is (a folder of images will do)")
    ] = "cifar10",
    mnist: Annotated[str, typer.Option(help="where MNIST is")] = "mnist",
    budget: Annotated[
        float | None, typer.Option(help="minutes after which no new piece begins")
    ] = None,
    only: Annotated[str, typer.Option(help="only pieces whose name contains this")] = "",
    out: Path = Path("runs/reproduce"),
    folder: Annotated[Path, typer.Option(help="where the records go")] = Path("data/results"),
) -> None:
    """Make the recorded results again; whatever is already recorded is left as it is."""
    from .reproduce import reproduce as run
    from .train import profile as default

    run(profile or default(), {"cifar10": data, "mnist": mnist}, budget, only, out, folder)


@app.command()
def table() -> None:
    """The README's table of recorded results, as Markdown."""
    from .results import markdown, summary

    print(markdown(summary()))


def _collapse(model, data, remove, rank, rule, epochs, seed, out, resume, write_report) -> None:
    from . import collapse, compare

    run = collapse(model, data, remove, rank, rule, epochs, seed=seed, out=out, resume=resume)
    table = compare({"dense": model, "collapsed": run.model}, data)
    table.to_json(out / "compare.json", orient="index", indent=1)
    print(f"report: {write_report(out)}")
    print(table.round(2).T.to_string())


def _fresh(folder: Path) -> Path:
    """The demo's own folder, emptied of an earlier demo."""
    for pattern in ("*.safetensors", "*.json", "*.part"):
        for path in folder.glob(pattern):
            path.unlink()
    return folder


def main() -> None:
    """Run the command; a mistake of the user's is one sentence, not a traceback."""
    try:
        app()
    except (ValueError, OSError, FloatingPointError) as error:
        raise SystemExit(f"tlc_minimal: {error}") from None


if __name__ == "__main__":
    main()
