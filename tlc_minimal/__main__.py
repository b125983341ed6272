"""Command line: doctor, demo, collapse, report, reproduce, bench, table."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
from safetensors.torch import load_file
from typer import Option, Typer

import tlc_minimal as tlc

from .doctor import report as doctors_report
from .experiments.bench import bench
from .experiments.reproduce import reproduce
from .experiments.tables import TABLES, markdown
from .measure import usual_batches
from .models import NETWORKS, save_weights
from .results import find_folder

app = Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def doctor() -> None:
    """Versions, device, memory, disk and data here, and what to do about what is missing."""
    print(doctors_report())


@app.command()
def demo(out: Path = Path("runs/demo"), epochs: float = 15, tune: float = 3) -> None:
    """Collapse a ResNet-18 on handwritten digits that need no download; ends with a report."""
    data, device = tlc.load_data("digits"), tlc.best_device()
    print(f"{data}\nResNet-18, width 8, on {device}: training it, then removing 12 of 17 ReLUs")
    torch.manual_seed(0)
    model = tlc.resnet18(len(data.classes), width=8).to(device)
    tlc.fit(model, data, epochs, progress="training the dense network")
    (out / "run.json").unlink(missing_ok=True)  # an earlier demo's: begin again
    _collapse(model, data, out, remove=12, epochs=tune)


@app.command()
def collapse(
    data: Annotated[str, Option(help="digits, mnist, cifar10, or a folder of images")],
    out: Annotated[Path, Option(help="folder for the run and its report")],
    remove: int = 12,
    network: Annotated[str, Option(help="resnet18 or simple_cnn")] = "resnet18",
    width: int = 16,
    rank: str = "tlc",
    rule: str = "on_off_affine",
    dense_epochs: float = 16,
    epochs: Annotated[float, Option(help="epochs of tuning after each removal")] = 1,
    seed: int = 0,
    resume: Annotated[bool, Option(help="go on with an interrupted run")] = False,
) -> None:
    """Train a network (once), collapse it, and write a report."""
    if network not in NETWORKS:
        raise ValueError(f"there is no network {network!r}; there are: {', '.join(NETWORKS)}.")
    images, weights = tlc.load_data(data), out / "dense.safetensors"
    torch.manual_seed(seed)
    model = NETWORKS[network](len(images.classes), width)
    if weights.exists() and not resume:
        raise FileExistsError(f"{out} already holds a run: add --resume, or choose another folder.")
    if weights.exists():
        model.load_state_dict(load_file(weights))
    else:
        tlc.fit(model, images, dense_epochs, seed=seed, progress="training the dense network")
        save_weights(model, weights)
    model.to(tlc.best_device()).eval()
    options = {"remove": remove, "rank": rank, "rule": rule, "epochs": epochs, "seed": seed}
    _collapse(model, images, out, resume=True, **options)


@app.command()
def report(folder: Path) -> None:
    """Write the report of a finished run again."""
    from .plots import write_report  # only here: matplotlib is slow to load

    print(f"report: {write_report(folder)}")


app.command()(reproduce)
app.command()(bench)


@app.command()
def table() -> None:
    """The README's tables of recorded results, as Markdown, and its pictures (data/results)."""
    from .plots import readme_pictures  # only here: matplotlib is slow to load

    for name, make in TABLES.items():
        print(f"<!-- {name} -->\n\n{markdown(make())}\n\n<!-- /{name} -->\n")
    for path in readme_pictures(tlc.results(), find_folder()):
        print(f"drawn: {path.name}")


def _collapse(model, data, out: Path, **options) -> None:
    """Collapse, report, and print the four counts and the milliseconds before and after."""
    run = tlc.collapse(model, data, out=out, **options)
    both = tlc.compare({"dense": model, "collapsed": run.model}, data)
    both.to_json(out / "compare.json", orient="index", indent=1)
    report(out)
    rows = {
        "accuracy, %": both["accuracy"].map("{:.2f}".format),
        "activations": both["activations"],
        "layers on the longest path": both["layers"],
        "million MACs": (both["macs"] / 1e6).map("{:,.2f}".format),
        "thousand parameters": (both["params"] / 1e3).map("{:,.1f}".format),
    }
    for batch in usual_batches(tlc.best_device()):
        times = both[[f"ms_{batch}", f"ms_{batch}_spread"]].to_numpy()
        rows[f"ms, batch {batch}"] = [f"{ms:.2f} ± {spread:.2f}" for ms, spread in times]
    print(pd.DataFrame(rows).set_axis(["before", "after"]).T.to_string())


def main() -> None:
    """Run the command; a mistake of the user's is one sentence, not a traceback."""
    try:
        app()
    except (ValueError, OSError, FloatingPointError) as error:
        raise SystemExit(f"tlc_minimal: {error}") from None


if __name__ == "__main__":
    main()
