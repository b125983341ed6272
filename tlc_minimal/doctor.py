"""What is here and what is missing, as text to paste; it imports nothing but Python at the top."""

import os
import platform
import re
import shutil
import sys
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

# A test holds these to pyproject.toml.
PYTHON = ">=3.11,<3.14"
CORE = "torch>=2.11 torchvision>=0.26 filelock>=3.16 matplotlib>=3.9 numpy>=1.26 "
CORE += "pandas>=2.2 pillow>=10.4 psutil>=6.0 safetensors>=0.8 tqdm>=4.66 typer>=0.17"
COURSE = "ipywidgets>=8.1.3 joblib>=1.2 jupyterlab>=4.2 nbconvert>=7.16 nbval>=0.11 "
COURSE += "scikit-learn>=1.5"
MNIST, PARTS = "data/MNIST/raw", ["train/*", "test/*"]
CIFAR = {"data/cifar10": PARTS, "data/cifar10-jpeg": PARTS}
CIFAR["data/cifar-10-batches-py"] = ["data_batch_1", "data_batch_5", "test_batch"]
DATA = {MNIST: ["train-i*", "train-l*", "t10k-i*", "t10k-l*"]} | CIFAR


def report() -> str:
    """Versions, device, memory, disk, data; what to do about each thing missing; never raises."""
    todo, lines = [], [f"python        {platform.python_version()} on {platform.platform()}"]
    for section in (versions, device, disk_and_memory, data):
        lines += ["", section.__name__.upper().replace("_", " ")]
        try:
            lines += section(todo)
        except Exception as error:  # whatever is broken here, the rest is still worth reading
            lines.append(f"could not be read: {type(error).__name__}: {error}")
    return "\n".join([*lines, "", "WHAT TO DO", *(f"- {t}" for t in todo or ["Nothing to do."])])


def versions(todo):
    lowest, beyond = (int(minor) for minor in re.findall(r"3\.(\d+)", PYTHON))
    if not lowest <= sys.version_info.minor < beyond:
        todo.append(f"Python {platform.python_version()} is not {PYTHON}: install 3.12, say")
    for group, target, use in (CORE, ".", "needed"), (COURSE, ".[course]", "for the notebooks"):
        install = f'pip install -c constraints.txt -e "{target}"'
        for name, floor in (item.split(">=") for item in group.split()):
            try:
                found = version(name)
                numbers = [[int(n) for n in re.findall(r"\d+", v)] for v in (found, floor)]
                if numbers[0] < numbers[1]:
                    todo.append(f"{name} {found} is older than {floor}: {install}")
            except Exception:
                found = "missing"
                todo.append(f"{name} ({use}) is missing: {install}")
            yield f"{name:13} {found}"


def device(todo):
    torch, chosen = None, os.environ.get("TLC_PROFILE")
    try:
        torch = import_module("torch")
        import_module("torchvision")  # "operator torchvision::nms ..." if built for another torch
    except Exception as error:
        again = "pip install --force-reinstall -c constraints.txt torch torchvision"
        if find_spec("torch") and find_spec("torchvision"):  # else they are missing, said above
            todo.append(f"torch and torchvision do not load together ({str(error)[:80]}): {again}")
    gpus = range(torch.cuda.device_count() if torch and torch.cuda.is_available() else 0)
    for i in gpus:
        p = torch.cuda.get_device_properties(i)
        yield f"cuda:{i}        {p.name}, {p.total_memory / 2**30:.0f} GiB"
    if torch and not gpus:
        yield "gpu           " + ("Apple MPS" if torch.backends.mps.is_available() else "none")
        if shutil.which("nvidia-smi"):
            todo.append("torch sees no GPU beside the NVIDIA driver: newer driver, or a CUDA torch")
    yield f"cpu           {os.cpu_count()} cores, {torch.get_num_threads() if torch else 0} threads"
    yield f"profile       {chosen or ('paper' if gpus else 'laptop')}"
    if chosen and chosen not in ("smoke", "laptop", "paper"):
        todo.append(f"TLC_PROFILE={chosen} is unknown: set smoke, laptop or paper, or unset it")


def disk_and_memory(todo):
    for folder in ("data", "runs"):
        free = shutil.disk_usage(folder if Path(folder).is_dir() else ".").free / 2**30
        yield f"{folder + '/':13} {free:.1f} GiB free"
        if free < 2:
            todo.append(f"only {free:.1f} GiB is free for {folder}/: make room for 2")
    m = import_module("psutil").virtual_memory()
    yield f"memory        {m.available / 2**30:.1f} GiB free of {m.total / 2**30:.1f}"
    if m.available < 4 * 2**30:
        todo.append("less than 4 GiB of memory is free and the demo may take that: close something")


def data(todo):
    yield f"{'digits':25} {'complete' if find_spec('sklearn') else 'missing'} (in scikit-learn)"
    found = {d: sum(any(Path(d).glob(part)) for part in parts) for d, parts in DATA.items()}
    for d, n in found.items():
        yield f"{d:25} {n} of {len(DATA[d])} parts"
    for d in ("data/checkpoints", "data/results"):
        yield f"{d:25} {len(list(Path(d).glob('*')))} files"
    if found[MNIST] < len(DATA[MNIST]):
        todo.append(f'for MNIST (12 MB): tlc.load_data("mnist"), or its four files in {MNIST}')
    if all(found[d] < len(DATA[d]) for d in CIFAR):
        todo.append('for CIFAR-10 (170 MB): tlc.load_data("cifar10"), or the path of any images')
