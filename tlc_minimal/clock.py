"""The stopwatch: fair milliseconds for several contestants in one run."""

import copy
import time

import torch
from torch import Tensor


def race(
    contestants: list, repeats: int = 7, seconds: float = 0.01, device="cpu"
) -> list[list[float]]:
    """Milliseconds of each callable, ``repeats`` interleaved measurements each (A B C A B C …).

    Every measurement averages as many calls as fit into ``seconds``, after a warm-up.
    """
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None

    def clock(run, calls: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        wait()
        return (time.perf_counter() - start) / calls

    warm = [min(clock(run, 2), clock(run, 1)) for run in contestants]
    calls = [max(1, int(seconds / max(t, 1e-6))) for t in warm]
    times = [[] for _ in contestants]
    for _ in range(repeats):
        for taken, run, n in zip(times, contestants, calls, strict=True):
            taken.append(1000 * clock(run, n))
    return times


def fast_layout(thing):
    """channels_last for what has images in it: how :func:`tlc_minimal.latency` runs models, too."""
    if isinstance(thing, Tensor):
        return thing.contiguous(memory_format=torch.channels_last) if thing.ndim == 4 else thing
    return copy.deepcopy(thing).to(memory_format=torch.channels_last)
