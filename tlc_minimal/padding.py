"""Padding: where zeros around a map matter, and how they move to the front of a linear chain."""

import torch.nn.functional as F
from torch import fx, nn

from . import kernels
from .modules import Affine
from .nodes import CONV, DROPOUT, NORM, calls, is_padded, module_of, only_user, put_module

AVERAGE = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def front(traced: fx.GraphModule, end: fx.Node) -> fx.Node | None:
    """The convolution in front of ``end``, nothing but linear maps between, that can take over its
    padding; None if there is no such chain."""
    node = end.args[0]
    while isinstance(module_of(traced, node), NORM + (Affine, nn.Identity, *DROPOUT)):
        if only_user(node) is None:
            return None
        node = node.args[0]
    first, second = module_of(traced, node), module_of(traced, end)
    if not isinstance(first, CONV[:-1]) or type(first) is not type(second):
        return None
    alone = calls(traced, node) == calls(traced, end) == 1 and only_user(node) is not None
    return None if not alone or kernels.obstacle(first) or kernels.obstacle(second) else node


def move_padding(traced: fx.GraphModule, end: fx.Node) -> None:
    """Move all padding of the linear chain that ends in ``end`` to its first convolution.

    A second convolution that pads its input by p2 becomes a first one of stride s1 that pads by
    p1 + s1 p2 (MATHS, section 4). Nothing happens where there is no such chain.
    """
    node = front(traced, end)
    if node is None:
        return
    first, second = module_of(traced, node), module_of(traced, end)
    inner, outer = kernels.read(first), kernels.read(second)
    parts = zip(inner.padding, inner.stride, outer.padding)
    put_module(traced, node.target, _with_padding(first, [p + s * q for p, s, q in parts]))
    put_module(traced, end.target, _with_padding(second, [0] * outer.dims))
    move_padding(traced, node)


def zeros_follow(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a constant channel of ``node`` is no constant any more where the next convolutions
    take it: they, or an average pooling on the way, put zeros around it."""
    for user in node.users:
        module = module_of(traced, user)
        if isinstance(module, CONV):
            if is_padded(module):
                return True
        elif _shrinks(module, user) or zeros_follow(traced, user):
            return True
    return False


def keeps_size(conv: nn.Module) -> bool:
    """Whether the output of a convolution is as large as its input."""
    if isinstance(conv, nn.Linear) or kernels.obstacle(conv):
        return False
    value = kernels.read(conv)
    parts = zip(value.padding, value.dilation, value.kernel, value.stride)
    return all(2 * p == d * (k - 1) and s == 1 for p, d, k, s in parts)


def _shrinks(pool: nn.Module | None, node: fx.Node) -> bool:
    """Whether an average pooling makes something else of a constant."""
    if isinstance(pool, AVERAGE):
        padding = pool.padding if isinstance(pool.padding, tuple) else (pool.padding,)
        return any(padding) or getattr(pool, "divisor_override", None) is not None
    if node.target is not F.avg_pool2d:
        return False
    given = dict(zip(("kernel", "stride", "padding"), node.args[1:])) | node.kwargs
    padding = given.get("padding", 0)
    padding = padding if isinstance(padding, tuple | list) else (padding,)
    return any(padding) or len(node.args) > 6 or given.get("divisor_override") is not None


def _with_padding(conv: nn.Module, padding: list[int]) -> nn.Module:
    # A new module: torch keeps a second, private copy of the padding in the old one.
    arguments = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, tuple(padding))
    bias = conv.bias is not None
    new = type(conv)(*arguments, conv.dilation, conv.groups, bias, device="meta")
    new.weight, new.bias = conv.weight, conv.bias
    return new
