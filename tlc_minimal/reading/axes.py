"""Where the channels are, and what becomes of them: what is between two layers is run."""

import copy
import math
import warnings
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

CLOSE = partial(torch.allclose, rtol=1e-12, atol=1e-12)
VIEWS = ("view", "reshape", "flatten", "unflatten")
BLIND = {"view", "reshape", "unflatten", "unsqueeze", "squeeze", "movedim", "moveaxis", "einsum"}
SIDES = (16, 24, 32), (64, 72, 80)  # of images to run; a pool may be larger than the first
FEW = (3, 4, 5)  # tokens


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of what a node makes, once ``find_shapes`` saw it."""
    shape = getattr(node.meta.get("tensor_meta"), "shape", None)
    return None if shape is None else tuple(shape)


def moved(node: fx.Node, dim: int | None) -> int | None:
    """Where a node puts the axis ``dim`` of its first input; what is no view leaves it. It is run
    to see that; where it cannot be (no shapes, sizes that are asked for), its name tells, or that
    nobody can (None)."""
    name = getattr(node.target, "__name__", node.target)
    if node.op == "call_module":
        root = node.graph.owning_module
        module = root.get_submodule(node.target) if root is not None else None
        if not isinstance(module, nn.Flatten | nn.Unflatten):
            return dim
        name = type(module).__name__.lower()
    if not node.all_input_nodes or dim is None:
        return dim
    before, after = shape_of(node.all_input_nodes[0]), shape_of(node)
    if (to := followed(node, dim)) is not None:
        return dim if to == dim % len(before) and len(before) == len(after) else _end(to, after)
    if name in ("permute", "transpose", "swapaxes", "swapdims"):
        return _renamed(node, name, dim)
    if name in BLIND and before is None:
        return None
    if name not in VIEWS or not before or not after:
        return dim
    dim %= len(before)
    left = math.prod(before[:dim])
    for to, size in enumerate(after):
        if math.prod(after[:to]) == left and size == before[dim]:
            return _end(to, after)
    return 1


@torch.no_grad()
def followed(node: fx.Node, dim: int) -> int | None:
    """Where the axis ``dim`` is behind a node that ran on numbers which differ along it only; None
    if it cannot run, or if they do not differ along one axis of that size."""
    before, after = shape_of(node.all_input_nodes[0]), shape_of(node)
    if not before or not after or {*map(shape_of, node.all_input_nodes)} != {before}:
        return None
    dim, sizes = dim % len(before), [2, *before[1:]]
    sizes[dim] = count = max(2, before[dim])
    ramp = torch.arange(1.0, count + 1).view(-1, *[1] * (len(before) - 1 - dim))
    x = ramp.expand(sizes).contiguous()
    args, kwargs = map_arg((node.args, node.kwargs), lambda _: x)
    try:
        with torch.random.fork_rng([]):
            if node.op == "call_method":
                y = getattr(args[0], node.target)(*args[1:], **kwargs)
            elif node.op == "call_module":
                y = node.graph.owning_module.get_submodule(node.target)(*args, **kwargs)
            else:
                y = node.target(*args, **kwargs)
        axes = [axis for axis in range(y.ndim) if (y != y.narrow(axis, 0, 1)).any()]
    except Exception:  # whatever it wants
        return None
    one = len(axes) == 1 and y.ndim == len(after) and y.shape[axes[0]] == count
    return axes[0] if one else None


def _end(to: int, shape) -> int:
    return -1 if to == len(shape) - 1 and to != 1 else to


def _renamed(node: fx.Node, name: str, dim: int) -> int:
    """What ``permute`` and those that change two axes do, from their arguments."""
    axes = [*node.args[1:], *(v for v in node.kwargs.values() if not isinstance(v, fx.Node))]
    axes = tree_leaves(axes)  # as one list, too
    if not all(isinstance(a, int) for a in axes):
        return dim
    count = len(axes) if name == "permute" else 1 + max(2, dim, *axes)
    x = torch.empty(*range(1, count + 1), device="meta")  # its sizes tell its axes apart
    y = getattr(x, name)(*axes)
    return _end(y.shape.index(x.shape[dim]), y.shape)


# ---- what becomes of channels that are constant ----


def at_sizes(path: nn.Module, known, kinds: list[int], f, axis: int, at: int, keep, *more) -> list:
    """``f(run, size, axis, at, keep, *more)`` of the shape ``known`` and of two other sizes of
    images and batches, channels last, of so many axes (``kinds``, if no shape is known), in
    float64; [None] where ``path`` cannot run."""
    run, found = copy.deepcopy(path).double().eval().forward, []  # a call would print its errors
    seen = [[*known[:axis], *known[axis:][1:], len(keep)]] if known else []
    for ndim in [len(known)] if known else kinds:
        for sides in SIDES if axis == 1 else (FEW, *SIDES):
            pair = [1, *sides[: ndim - 2], len(keep)], [2, *sides[::-1][: ndim - 2], len(keep)]
            try:
                with warnings.catch_warnings(action="ignore"):  # an InstanceNorm counts channels
                    found += [f(run, size, axis, at, keep, *more) for size in (*pair, *seen)]
                break
            except Exception:  # too small, or what it wants is not there
                continue
        else:
            return [None]
    return found


def features(run, x: Tensor, axis: int, at: int) -> Tensor:
    """(channels, ...): what ``run`` makes of ``x``. Its channels, last here, are at ``axis``, and
    at ``at`` afterwards."""
    y = run(x.movedim(-1, axis).contiguous()).movedim(at, 0)
    return y.unflatten(0, (x.shape[-1], -1))


def wholes(run, size: list[int], axis: int, at: int, keep: Tensor, shift=None) -> list | None:
    """The :func:`features` of noise, small and large, channels not in ``keep`` at ``shift`` (None:
    noise, too). None if those in ``keep`` are not the same when the others are missing."""
    noise, seen = torch.Generator().manual_seed(0), []
    for spread in (1.0, 1000.0):
        x = spread * torch.randn(size, generator=noise, dtype=torch.float64)
        if shift is not None:
            x[..., ~keep] = shift[~keep]
        seen.append(whole := features(run, x, axis, at))
        if keep.any():
            rest = features(run, x[..., keep], axis, at)
            if rest.shape[1:] != whole.shape[1:] or not CLOSE(rest, whole[keep]):
                return None
    return seen


def arrive(run, size: list[int], axis: int, at: int, keep: Tensor, shift: Tensor):
    """(values, carried) of channels that ``run`` leaves constant, at one size; else None. Where
    ``values`` vary over the pixels they are None; ``carried``: they are ``shift`` times what a
    channel of ones becomes."""
    seen = wholes(run, size, axis, at, keep, shift)
    gone = [whole[~keep].flatten(1) for whole in seen or ()]
    if not gone or not torch.equal(*gone):
        return None
    ones = torch.ones(*size[:-1], 1, dtype=torch.float64)
    one = features(run, ones, axis, at)
    kept = torch.randn(*size[:-1], int(keep.sum()), generator=torch.Generator().manual_seed(1))
    rest = features(run, kept.double(), axis, at) if keep.any() else one[:0]
    both = features(run, torch.cat([kept.double(), ones], -1), axis, at)
    carried = CLOSE(gone[0], shift[~keep, None] * one.flatten())
    carried &= CLOSE(both, torch.cat([rest, one]))  # what comes last is last still: no flip
    values = gone[0][:, 0] if CLOSE(gone[0], gone[0][:, :1]) else None
    return (values, carried) if values is not None or carried else None
