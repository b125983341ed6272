"""The best layer of a given size for a run of layers whose activations go, by least squares.

The best line for a channel is a regression of f(z) on z; the best *layer* for a run is one, too
(lesson 05): the kernel W and bias b that minimise |W * x + b - y|² + ridge v |W|², in the mean over
images and pixels, x what the collapsed network has at that place, y what the dense one has behind
the run, v the mean variance of what a tap sees. ReplaceMe (arXiv 2505.02819) has the case of one
matrix for transformer blocks, T = (M'M + alpha I)⁻¹ M'(L - Y) in its code: M an MLP's output, Y the
stream it is added to, L the stream blocks later. Here the regression has taps and a bias, and x is
the collapsed network's own.
"""

import errno
import math
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .data import input_batches
from .edits import finish, put_module
from .graph import editable, example_of, find_shapes, trace
from .nodes import find_nodes, name_of
from .reading.fits import data_for
from .reading.layers import unused
from .reading.refuse import check_names
from .refuse import check_ranges
from .runs import Run, find_runs, in_block


class Projection(NamedTuple):
    """A collapsed network, and a table of how far each new layer is from what it replaces."""

    model: fx.GraphModule
    table: pd.DataFrame


@torch.no_grad()
def project(
    model: nn.Module, names, data, kernel: int = 3, images: int = 4000, ridge: float = 1e-3
) -> Projection:
    """A copy of ``model``, in eval mode, without the activations ``names``: each run of layers that
    they held apart is one layer, an *approximation*, fitted to what the run computes on ``data``.
    A name may also be that of a block, a module with one input and one output (a transformer's
    layer, a stage): all of it becomes one layer, attention and pooling, too.

    ``data``: a Data (its training split as it is), a DataLoader or a tensor (of augmented images,
    say); no labels. ``kernel``: the side of kernels; less where a run sees less, more where it
    strides further, takes more off the map, or keeps its size by an odd one. Linear layers become
    one matrix, layers of equal groups stay grouped. Outside of blocks, what is no layer, norm or
    sum (or a sum with another input) ends a run. ``ridge``: in units of the mean variance of a tap.

    Normal equations in float64, streamed: memory does not grow with ``images``; what both networks
    have between two runs waits in a temporary folder (for a ResNet-18 of width 64 some 0.13 MB
    an image of 32 x 32, 1.6 MB of 224 x 224). A run with a batch norm leaves one behind that
    changes nothing in eval mode, for tuning; ``fold`` takes it in. The table: a row a run, with
    ``removed``, ``layer``, ``error`` |W * x + b - y| / |y - mean(y)| on ``data``; and one for each
    activation that could not go, ``left`` says why. ValueError: an unknown name, no run at all, a
    block that no layer is like, values that are not finite, a singular system. MemoryError before a
    system is built that does not fit, OSError before a folder is filled that does not. A warning
    for fewer images than a layer needs, where the ridge decides; a ValueError if there is none.
    """
    check_ranges(kernel=kernel, images=images, ridge=ridge)
    traced, dense = editable(model, data).eval(), trace(model, True, data).eval()
    data = data_for(model, data)
    names, holds = check_names(names), {n for n, m in traced.named_modules() if any(m.children())}
    blocks = {n: nodes for n in names if n in holds and (nodes := in_block(traced, n))}
    gone = {*find_nodes(traced, [name for name in names if name not in blocks]).values()}
    like = next(traced.parameters(), torch.empty(0))
    shapes = find_shapes(traced, example_of(data, traced)[:2])
    runs, left = find_runs(traced, gone, shapes, kernel, blocks)
    if not runs:
        more = f" (and {len(left) - 1} others stay)" * (len(left) > 1)
        why = next(iter(left.values()), "no activation is to go: give names.")
        raise ValueError(f"{why.rstrip('.')}{more}.")
    check_memory(runs, like.device)
    order, ends = [node.name for node in dense.graph.nodes], [run.end.name for run in runs]
    at, files, rows, seen = order[:1] * 2, [], [], 0  # at: how far ours and theirs have run
    with TemporaryDirectory() as folder:
        for x in input_batches(data, images):
            files.append(Path(folder, f"{len(files)}.pt"))
            torch.save([{at[0]: x.to(like, copy=True)}] * 2, files[-1])  # of a view all is kept
            seen += len(x)
        check_images(runs, seen, ridge)
        for i, (run, end) in enumerate(zip(runs, ends)):
            gram = empty_gram(run.layer, like.device)
            for file in files:
                ours, theirs = torch.load(file, weights_only=False)
                ours = advance(traced, ours, at[0], run.entry.name)
                theirs = advance(dense, theirs, at[1], end, keep=ends[i:])
                torch.save([ours, theirs], file)
                check_disk(files)
                add(gram, run.layer, ours[run.entry.name], theirs[end])
            at = [run.entry.name, max(at[1], end, key=order.index)]
            error = _put(traced, run, gram, ridge, theirs[end])
            rows.append(
                {"removed": ", ".join(run.removed), "layer": str(run.layer), "error": error}
            )
    rows += [{"removed": name, "left": why} for name, why in left.items()]
    return Projection(finish(traced), pd.DataFrame(rows))


def advance(traced: fx.GraphModule, values: dict, at: str, until: str, keep=()) -> dict:
    """Run on: from {name: value} of what is needed behind node ``at`` to that behind ``until``;
    ``keep`` names what is never dropped. ValueError for NaN or inf (-inf may mask attention)."""
    nodes, runner = {node.name: node for node in traced.graph.nodes}, fx.Interpreter(traced)
    runner.args_iter = iter(())  # all arguments but the first have their defaults
    runner.env = {nodes[name]: value for name, value in values.items() if name in nodes}
    for node in [n for n in traced.graph.nodes if nodes[at] < n and not nodes[until] < n]:
        runner.env[node] = value = runner.run_node(node)
        if isinstance(value, Tensor) and value.is_floating_point() and not (value < math.inf).all():
            raise ValueError(f"what {name_of(node)} makes is not finite: it is too large, or NaN.")
        for used in runner.user_to_last_uses.get(node, ()):
            if used.name not in keep:
                del runner.env[used]
    return {node.name: value for node, value in runner.env.items()}


def empty_gram(layer: nn.Module, device: torch.device) -> Tensor:
    """Room for the products of all pairs of taps, a 1 and outputs, a matrix for each group."""
    groups = getattr(layer, "groups", 1)
    side = layer.weight[0].numel() + 1 + len(layer.weight) // groups
    return torch.zeros(groups, side, side, dtype=torch.float64, device=device)


def add(gram: Tensor, layer: nn.Module, x: Tensor, y: Tensor) -> None:
    """Add to a Gram matrix (its lower triangle) what inputs and targets of a layer bring."""
    groups, side, _ = gram.shape
    y = y.movedim(-1 if isinstance(layer, nn.Linear) else 1, -1)
    images = max(1, 2**23 // (groups * side * y[0, ..., 0].numel()))  # 64 MiB at a time
    for some, targets in zip(x.split(images), y.split(images)):
        u, targets = patches(layer, some.double()), targets.double().flatten(0, -2).T
        z = torch.cat([u, torch.ones_like(u[:, :1]), targets.reshape(groups, -1, u.shape[2])], 1)
        for i in range(0, side, 512):
            columns = slice(i, i + 512)
            gram[:, i:, columns].baddbmm_(z[:, i:], z[:, columns].mT)


def patches(layer: nn.Module, x: Tensor) -> Tensor:
    """What each output pixel of a layer sees: (groups, inputs and taps, images and pixels)."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2).T[None]
    x, dims = F.pad(x, [p for p in reversed(layer.padding) for _ in (0, 1)]), x.ndim - 2
    for axis, (size, stride) in enumerate(zip(layer.kernel_size, layer.stride), 2):
        x = x.unfold(axis, size, stride)  # (N, C, *pixels, *taps) in the end
    x = x.permute(1, *range(2 + dims, 2 + 2 * dims), 0, *range(2, 2 + dims))
    return x.reshape(layer.groups, layer.weight[0].numel(), -1)


def solve(gram: Tensor, taps: int, ridge: float, where) -> tuple[Tensor, ...]:
    """Of a Gram matrix, which it uses up: the kernel (groups, taps, out); mean and variance of what
    the kernel makes and the mean of the target, each (channels,); the relative error. All float64.

    ValueError that says ``where``, for what is not finite or has no single solution.
    """
    sums = torch.cat([gram[:, taps, : taps + 1], gram[:, taps + 1 :, taps]], 1)[..., None]
    if not (sums.isfinite().all() and gram.diagonal(dim1=1, dim2=2).isfinite().all()):
        raise ValueError(f"{where}: values are not finite, the model or the data hold NaN.")
    rows, means = sums[0, taps].clone(), sums / sums[0, taps]
    square = gram[:, :taps, :taps].diagonal(dim1=1, dim2=2).mean()
    covariance = gram.baddbmm_(means, sums.mT, alpha=-1)  # times rows
    uu, uy = covariance[:, :taps, :taps], covariance[:, taps + 1 :, :taps].mT
    total = covariance[:, taps + 1 :, taps + 1 :].diagonal(dim1=1, dim2=2).sum()
    variance = uu.diagonal(dim1=1, dim2=2).mean()
    ridge = ridge * variance.clamp_min(1e-9 * square + 1e-100)  # a constant has none, but rounding
    uu.diagonal(dim1=1, dim2=2).add_(ridge)
    root, failed = torch.linalg.cholesky_ex(uu)
    scale = root.diagonal(dim1=1, dim2=2)
    if failed.any() or scale.min() <= 1e-7 * scale.max():
        raise ValueError(f"{where}: some taps follow from others, give a ridge above 0.")
    kernel = torch.cholesky_solve(uy, root)
    fitted, shrunk = (kernel * uy).sum(1), ridge * kernel.square().sum(1)
    error = (total - (fitted + shrunk).sum()).clamp_min(0) / total.clamp_min(1e-100)
    mean, var = means[:, :taps].mT @ kernel, (fitted - shrunk).clamp_min(0) / rows
    return kernel, mean.flatten(), var.flatten(), means[:, taps + 1 :].flatten(), error.sqrt()


def _put(traced: fx.GraphModule, run: Run, gram: Tensor, ridge: float, like: Tensor) -> float:
    """Let the run's last node call the layer, or its norm; returns the relative error."""
    layer, before, end = run.layer, run.entry, run.end
    name = unused(traced, f"{run.removed[0]}_layer")
    kernel, mean, var, target, error = solve(gram, layer.weight[0].numel(), ridge, run)
    layer.weight = nn.Parameter(kernel.mT.reshape(layer.weight.shape).to(like))
    layer.bias = None if run.norm else nn.Parameter((target - mean).to(like))
    put_module(traced, name, layer)
    if run.norm:
        with traced.graph.inserting_before(end):
            before = traced.graph.call_module(name, (before,))
            before.meta = dict(end.meta)  # in the same block
        name = unused(traced, f"{run.removed[0]}_norm")
        norm = run.norm(len(mean)).to(like)
        state = {"weight": (var + norm.eps).sqrt(), "bias": target}
        norm.load_state_dict(state | {"running_mean": mean, "running_var": var}, strict=False)
        put_module(traced, name, norm)
    end.op, end.target, end.args, end.kwargs = "call_module", name, (before,), {}
    traced.graph.eliminate_dead_code()
    return error.item()


def check_memory(runs: list[Run], device: torch.device) -> None:
    for run in runs:
        gram, free = empty_gram(run.layer, torch.device("meta")), free_memory(device) / 2**30
        if (size := (3 * gram.nbytes + 2**28) / 2**30) > free:
            text = f"{run}: normal equations of side {gram.shape[1]} take {size:.1f} GiB, and"
            text = f"{text} {free:.1f} are free: take a smaller kernel or remove less of this run."
            raise MemoryError(text)


def check_disk(files: list[Path]) -> None:
    """OSError if all files will not have room once they are as large as the first."""
    first, *others = (file.stat().st_size / 2**30 for file in files)
    more, free = sum(first - size for size in others), shutil.disk_usage(files[0]).free / 2**30
    if more > free:
        text = f"{first * len(files):.1f} GiB wait in {files[0].parents[1]}, {free:.1f} are free"
        raise OSError(errno.ENOSPC, f"{text}: give fewer images, or set TMPDIR")


def check_images(runs: list[Run], images: int, ridge: float) -> None:
    unknowns = [run.layer.weight[0].numel() + 1 for run in runs]
    need, n, run = max((math.ceil(n / run.pixels), n, str(run)) for n, run in zip(unknowns, runs))
    if need > images:
        text = f"{run}: {n} unknowns take at least {need} images and there are {images}: give more"
        if not ridge:
            raise ValueError(f"{text} or a ridge above 0.")
        warnings.warn(f"{text}, or it is the ridge that decides.", stacklevel=4)


def free_memory(device: torch.device) -> int:
    """In bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
