"""The four counts of a network — activations, layers, MACs, parameters — and its milliseconds."""

import math
from contextlib import contextmanager
from numbers import Integral

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .clock import captured, fast_layout, middle, race, ratio
from .data import Data
from .fold import fold
from .graph import example_of, find_shapes, trace
from .nodes import activation_nodes, module_of
from .reading.fits import check_all
from .reading.refuse import check_input, check_models, in_eval, not_accepted
from .refuse import COUNT, check_number
from .train import evaluate, like_of, profile


def count(model: nn.Module, example) -> dict[str, int]:
    """Activations (how many, and the numbers that they rectify in an image: ``relu_units``, what
    private inference pays for), parametric layers on the longest path (of attention: none),
    multiply-accumulates and parameters, of what the forward uses.

    ``example``: an input batch (tensor, DataLoader or Data); MACs are per image of its size.
    """
    traced = trace(model, share=True, example=example).eval()
    x = example_of(example, traced)[:1]
    with flop_counter() as flops:
        shapes = find_shapes(traced, x)
    activations = activation_nodes(traced).values()
    return {
        "activations": len(activations),
        "relu_units": sum(math.prod(shapes[node]) for node in activations),
        "layers": _depth(traced),
        "macs": flops.get_total_flops() // 2,
        "params": sum(p.numel() for p in traced.parameters()),
    }


@contextmanager
def flop_counter():
    """What runs inside is counted, without gradients; yields PyTorch's flop counter. Attention's
    fast path and fused kernels, of whose products torch 2.11 sees none, are off meanwhile."""
    from torch.utils.flop_counter import FlopCounterMode  # only here: it loads Triton

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    flops = FlopCounterMode(display=False, custom_mapping=PRODUCTS)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), flops:
            yield flops
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def latency(models: dict[str, nn.Module], x: torch.Tensor, repeats: int = 0) -> pd.DataFrame:
    """Milliseconds of each model on ``x``, and how many times faster than the first model that is.

    One run, interleaved A B A B, ``repeats`` rounds (0: 21, or 5 in the smoke profile); every
    model with its batch norms folded, channels_last and in inference mode, on the device of ``x``.
    Columns: ms and speedup, medians, each with its spread (half the interquartile range); a speedup
    is taken within a round, so that a busy machine slows down both. On CUDA the same once more as
    CUDA graphs: ms_graph, speedup_graph (to the first model's graph), their spreads; NaN where a
    model cannot be captured. ValueError for a model that does not take ``x``.
    """
    check_models(models)
    check_number("repeats", repeats, Integral, lambda n: n == 0 or n > 1, "0 or at least 2")
    x, repeats = fast_layout(check_input(x)), repeats or (5 if profile() == "smoke" else 21)
    for model in models.values():
        if why := not_accepted(model, x.to(like_of(model))):
            raise ValueError(why)
    ready = [_ready(model, x).to(x.device) for model in models.values()]
    ready = [(m, x.to(like_of(m))) for m in ready]
    with torch.inference_mode():
        table = _race([lambda m=m, x=x: m(x) for m, x in ready], repeats, x.device)
        if x.is_cuda:
            graphs = _race([captured(m, x) for m, x in ready], repeats, x.device)
            table = table.join(_label(graphs, "graph"))
    return table.set_axis(list(models))


def compare(models: dict[str, nn.Module], data: Data, batches: tuple = ()) -> pd.DataFrame:
    """One row a model: test accuracy in percent, its :func:`count`, the threads, and at each batch
    size (default: 1 and 128, on CUDA 1 and 1024) what :func:`latency` says, as ms_128 and so on.

    The first model is the baseline of the ``speedup`` columns.
    """
    check_models(models)
    fitting = check_all(models.values(), data)
    for batch in batches or ():
        check_number("batch", batch, *COUNT)
    device = like_of(next(iter(models.values()))).device
    table = pd.DataFrame([count(_ready(m, data), data) for m in models.values()], list(models))
    table.insert(0, "accuracy", [evaluate(m, data, "test").accuracy for m in models.values()])
    table["threads"] = torch.get_num_threads()
    for batch in dict.fromkeys(batches or usual_batches(device)):
        table = table.join(_label(latency(models, first_images(fitting, batch, device)), batch))
    return table


def usual_batches(device) -> tuple[int, int]:
    """One image, and as many as keep the device busy."""
    return (1, 1024) if torch.device(device).type == "cuda" else (1, 128)


def first_images(data: Data, batch: int, device="cpu") -> torch.Tensor:
    """``batch`` normalised training images, from the first on (and again, if there are fewer)."""
    images = data.train.images
    return data.normalize(images[torch.arange(batch) % len(images)].to(device))


def _ready(model: nn.Module, example) -> nn.Module:
    """A copy as it would be used: in eval mode, norms folded where that can be, channels_last."""
    with in_eval(model):
        try:
            return fast_layout(fold(model, example))
        except ValueError:
            return fast_layout(model)


def _race(runs: list, repeats: int, device) -> pd.DataFrame:
    """What :func:`latency` tabulates of these callables; NaN for a None among them."""
    times = iter(race([run for run in runs if run], repeats, device=device))
    times = [next(times) if run else [math.nan] * repeats for run in runs]
    columns = ["ms", "ms_spread", "speedup", "speedup_spread"]
    return pd.DataFrame([middle(t) + ratio(times[0], t) for t in times], columns=columns)


def _label(table: pd.DataFrame, word) -> pd.DataFrame:
    """ms_spread becomes ms_128_spread."""
    names = (name.split("_") for name in table)
    return table.set_axis(["_".join([n[0], str(word), *n[1:]]) for n in names], axis=1)


LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase, nn.RNNCellBase, nn.Bilinear)
aten = torch.ops.aten
PRODUCTS = {  # from shapes: what PyTorch's counter has no formula for
    **dict.fromkeys((aten.mv, aten.dot), lambda a, *_, **__: 2 * math.prod(a)),
    aten._trilinear: lambda x, w, *_, **__: 2 * x[0] * math.prod(w),
    aten.mkldnn_rnn_layer: lambda x, w, u, *_, **__: 2 * x[0] * x[1] * w[0] * (w[1] + u[1]),
}
CALLS = {F.linear, F.conv1d, F.conv2d, F.conv3d}
CALLS |= {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}


def _depth(traced) -> int:
    longest = {}
    for node in traced.graph.nodes:
        before = max((longest[n] for n in node.all_input_nodes), default=0)
        module = module_of(traced, node)
        is_layer = isinstance(module, LAYERS) or node.target in CALLS
        longest[node] = before + is_layer * getattr(module, "num_layers", 1)
    return max(longest.values(), default=0)
