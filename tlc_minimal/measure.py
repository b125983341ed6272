"""The four counts of a network — activations, layers, MACs, parameters — and its milliseconds."""

import copy
import statistics as numbers

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .clock import fast_layout, race
from .data import Data
from .graph import example_of, trace
from .merge import fold
from .nodes import CONV, activation_nodes, module_of
from .train import device_of, evaluate


def count(model: nn.Module, example) -> dict[str, int]:
    """Activations, parametric layers on the longest path, multiply-accumulates and parameters.

    ``example``: an input batch (tensor, DataLoader or Data); MACs are per image of its size.
    """
    traced = trace(model).eval()
    parameter = next(traced.parameters())
    x = example_of(example)[:1].to(parameter.device, parameter.dtype)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        traced(x)
    return {
        "activations": len(activation_nodes(traced)),
        "layers": _depth(traced),
        "macs": flops.get_total_flops() // 2,
        "params": sum(p.numel() for p in traced.parameters()),
    }


def latency(models: dict[str, nn.Module], x: torch.Tensor, repeats: int = 15) -> pd.DataFrame:
    """Median and spread (half the interquartile range) in milliseconds of each model on ``x``.

    One run, interleaved A B A B; every model with its batch norms folded, channels_last and in
    inference mode, on the device of ``x``. Index: the models' names; columns: ms, ms_spread.
    """
    x = fast_layout(x)
    ready = [fast_layout(fold(copy.deepcopy(m).eval()).to(x.device)) for m in models.values()]
    with torch.inference_mode():
        times = race([lambda m=m: m(x) for m in ready], repeats, device=x.device)
    rows = []
    for taken in times:
        low, median, high = numbers.quantiles(taken, n=4)
        rows.append({"ms": median, "ms_spread": (high - low) / 2})
    return pd.DataFrame(rows, index=list(models))


def compare(
    models: dict[str, nn.Module], data: Data, batches: tuple[int, ...] = (1, 128)
) -> pd.DataFrame:
    """One row a model: test accuracy in percent, the four counts, milliseconds at each batch size.

    The first model is the baseline of the ``speedup`` columns (the same run's ratio of medians).
    """
    device = device_of(next(iter(models.values())))
    rows = []
    for model in models.values():
        rows.append(
            {
                "accuracy": evaluate(model, data, "test").accuracy,
                **count(fold(copy.deepcopy(model).eval()), data),
            }
        )
    table = pd.DataFrame(rows, index=list(models))
    images = data.train.images
    for batch in batches:
        x = data.normalize(images[torch.arange(batch) % len(images)].to(device))
        times = latency(models, x)
        table[f"ms_{batch}"] = times["ms"]
        table[f"ms_{batch}_spread"] = times["ms_spread"]
        table[f"speedup_{batch}"] = times["ms"].iloc[0] / times["ms"]
    return table


def _depth(traced) -> int:
    longest = {}
    for node in traced.graph.nodes:
        before = max((longest[n] for n in node.all_input_nodes), default=0)
        longest[node] = before + isinstance(module_of(traced, node), CONV)
    return max(longest.values(), default=0)
