"""How fast a network trains here, against what the device can do at most, and what bounds it."""

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..clock import middle, now, race
from ..data import Data
from ..models import resnet18
from ..train import best_device, fit, layout, precision, steps_of

BATCHES = (128, 512, 1024)


def throughput(piece, data: Data, out: Path):
    """Rows: a large matrix product (TFLOP/s), a copy on the device (GB/s), then training at
    several batch sizes: images/s, in percent of a bare step's, ms a step, TFLOP/s, its share of the
    first ceiling in percent, peak memory (on CUDA), and what bounds it."""
    rows = ceilings(best_device())
    flops = training_flops(resnet18(len(data.classes), piece.config["width"]), data)
    slowest = None
    for batch in BATCHES:
        if batch > data.train.size:
            break
        tried = []
        for _ in range(3):  # a busy machine slows both: the middle one counts
            row = speed_of_fit(piece.config["width"], data, batch)
            bare = bare_step(piece.config["width"], data, batch)
            tried.append(row | {"of_bare": 100 * bare / row.pop("busy")})
        row = sorted(tried, key=lambda row: row["of_bare"])[1]
        row |= {"measured": "training", "batch": batch, "epochs": 3 * row["epochs"]}
        row["tflops"] = row["images_per_s"] * flops / 1e12
        row["share"] = 100 * row["tflops"] / rows[0]["tflops"]
        row["bound"] = bound(row, slowest)
        slowest = slowest or row
        rows.append(row)
    return rows, float(sum(row.pop("epochs", 0) for row in rows))


def ceilings(device: torch.device) -> list[dict]:
    """What the device does at most: a matrix product in the precision that trains there, a copy of
    its memory; both measured."""
    size, numbers = (8192, 2**28) if device.type == "cuda" else (1024, 2**24)
    a = torch.randn(size, size, device=device, dtype=precision(device))
    source = torch.zeros(numbers, device=device)
    target = torch.empty_like(source)
    times = race([lambda: a @ a, lambda: target.copy_(source)], 5, device=device)
    product, copy = (middle(t)[0] / 1000 for t in times)  # seconds
    moved = 2 * source.numel() * source.element_size()  # read and written
    return [
        {"measured": "matrix product", "tflops": 2 * size**3 / product / 1e12},
        {"measured": "copy", "gb_per_s": moved / copy / 1e9},
    ]


def training_flops(model: nn.Module, data: Data) -> float:
    """Floating-point operations of one image's training step, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode  # only here: it loads Triton

    with FlopCounterMode(display=False) as counter:
        model.train()(data.example).sum().backward()
    return counter.get_total_flops() / len(data.example)


def speed_of_fit(width: int, data: Data, batch: int) -> dict:
    """Images a second of ``fit`` in its second half: a run twice as long, less the short run."""
    device = best_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, busy = [], []
    epochs = min(1.0, 20_000 / data.train.size) if device.type == "cpu" else 1.0
    for length in (epochs, 2 * epochs):
        model = resnet18(len(data.classes), width)
        start, begun = now(device), used(device)
        fit(model, data, length, lr=0.01, batch=batch, progress=None)
        seconds.append(now(device) - start)
        busy.append(used(device) - begun)
    steps = steps_of(data, 2 * epochs, batch) - steps_of(data, epochs, batch)
    each = max(seconds[1] - seconds[0], 1e-9) / steps
    row = {"images_per_s": batch / each, "ms_per_step": 1000 * each, "epochs": 3 * epochs}
    row["busy"] = max(busy[1] - busy[0], 1e-9) / steps
    if device.type == "cuda":
        row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def used(device: torch.device) -> float:
    """Seconds that a CPU worked for this process: not those in which it worked for others."""
    return now(device) if device.type == "cuda" else time.process_time()


def bare_step(width: int, data: Data, batch: int) -> float:
    """Seconds used by forward, backward and SGD, as ``fit`` does them, on a batch at hand."""
    model, device = resnet18(len(data.classes), width).train(), best_device()
    model = model.to(device, memory_format=layout(model))
    sgd = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True)
    x, y = data.normalize(data.train.images[:batch]), data.train.labels[:batch].to(device)
    x, half = x.to(device, memory_format=layout(model)), precision(device) is torch.bfloat16

    def step():
        sgd.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(model(x).float(), y, label_smoothing=0.05)
        loss.backward()
        sgd.step()

    step()
    begun, steps = used(device), 45
    for _ in range(steps):
        step()
    return (used(device) - begun) / steps


def bound(row: dict, smallest: dict | None) -> str:
    """What bounds a training step: the host, if a larger batch takes hardly longer a step; the
    arithmetic, if it comes near the matrix product; else the traffic of many small layers."""
    if smallest and row["ms_per_step"] < 1.5 * smallest["ms_per_step"]:
        return "launches: the step is as long at a smaller batch"
    if row["share"] > 50:
        return "arithmetic"
    return "memory traffic and small kernels"
