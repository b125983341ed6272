"""Where a view puts the channels."""

import math

from torch import fx


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of what a node makes, once ``find_shapes`` saw it."""
    shape = getattr(node.meta.get("tensor_meta"), "shape", None)
    return None if shape is None else tuple(shape)


def moved(node: fx.Node, dim: int) -> int:
    """Where a view puts the axis ``dim`` of its input; what is no view leaves it."""
    if not node.all_input_nodes:
        return dim
    name = getattr(node.target, "__name__", node.target)
    if name in ("permute", "transpose", "swapaxes") and node.op != "call_module":
        axes = node.args[1:] if name != "permute" or len(node.args) > 2 else node.args[1]
        if not all(isinstance(a, int) for a in axes) or name != "permute" and len(axes) != 2:
            return dim
        if name != "permute":
            count = len(shape_of(node) or ()) or 1 + max(2, dim, *axes)
            order = list(range(count))
            a, b = axes
            order[a], order[b] = order[b], order[a]
        else:
            order, count = list(axes), len(axes)
        to = [a % count for a in order].index(dim % count)
        return -1 if to == count - 1 and to != 1 else to
    before, after = shape_of(node.all_input_nodes[0]), shape_of(node)
    if name not in ("view", "reshape", "flatten", "unflatten") or not before or not after:
        return dim
    dim %= len(before)
    left = math.prod(before[:dim])
    for to, size in enumerate(after):
        if math.prod(after[:to]) == left and size == before[dim]:
            return -1 if to == len(after) - 1 and to != 1 else to
    return 1
