"""The stopwatch: fair milliseconds for several contestants in one run."""

import copy
import statistics as numbers
import time

import torch
from torch import Tensor


def race(contestants, repeats: int = 7, seconds: float = 0.01, device="cpu") -> list[list[float]]:
    """Milliseconds of each callable, ``repeats`` interleaved measurements each (A B C A B C …).

    Every measurement averages as many calls as fit into ``seconds``, after a warm-up. A busy
    machine slows down whole rounds, so compare within the rounds: :func:`ratio`.
    """
    # Freed at once: glibc then keeps memory, where it had large tensors mapped anew for every call.
    torch.empty(2**25 - 2**16, dtype=torch.uint8)

    def clock(run, calls: int) -> float:
        start = now(device)
        for _ in range(calls):
            run()
        return (now(device) - start) / calls

    warm = [min(clock(run, 1) for _ in range(3)) for run in contestants]
    calls = [max(1, int(seconds / max(t, 1e-6))) for t in warm]
    rounds = [[1000 * clock(*turn) for turn in zip(contestants, calls)] for _ in range(repeats)]
    return [list(times) for times in zip(*rounds)]


def now(device="cpu") -> float:
    """Seconds, once the device has done its work: a GPU lags behind the Python that feeds it."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def middle(values: list[float]) -> tuple[float, float]:
    """Median and spread: half the interquartile range."""
    low, median, high = numbers.quantiles(values, n=4)
    return median, (high - low) / 2


def ratio(baseline: list[float], taken: list[float]) -> tuple[float, float]:
    """Median and spread of how many times faster than the baseline, round by round of one race."""
    return middle([a / b for a, b in zip(baseline, taken, strict=True)])


def captured(model, x: Tensor):
    """A callable that replays ``model(x)`` as one CUDA graph; None if it cannot be captured."""
    side, graph = torch.cuda.Stream(x.device), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream(x.device))
    try:
        with torch.cuda.stream(side):  # also in front: what is set up on first use is not captured
            for _ in range(3):
                model(x)
            with torch.cuda.graph(graph, stream=side):
                model(x)
    except RuntimeError:
        return None
    torch.cuda.current_stream(x.device).wait_stream(side)
    return graph.replay


def fast_layout(thing):
    """channels_last for what has images in it: how :func:`tlc_minimal.latency` runs models, too."""
    if isinstance(thing, Tensor):
        return thing.contiguous(memory_format=torch.channels_last) if thing.ndim == 4 else thing
    volumes = any(p.ndim > 4 for p in thing.parameters())
    return copy.deepcopy(thing).to(memory_format=None if volumes else torch.channels_last)
