"""Zero padding: how wide it is, and how it moves to the front of a chain, to make it one layer."""

from torch import fx, nn

from .channels import MAP
from .nodes import calls, is_private, module_of, only_user
from .reading.layers import CONV, DROPOUT


def is_padded(conv: nn.Module) -> bool:
    """Whether a convolution puts zeros around its input."""
    zeros = getattr(conv, "padding_mode", "") == "zeros"
    return zeros and any(width(conv) if conv.padding == "same" else left_padding(conv))


def keeps_size(conv: nn.Module) -> bool:
    """Whether the output of a convolution is as large as its input."""
    parts = zip(left_padding(conv), width(conv), conv.stride)
    return conv.padding == "same" or all(2 * p == w and s == 1 for p, w, s in parts)


def width(conv: nn.Module) -> list[int]:
    """Pixels from the first to the last tap of a convolution, along each dimension."""
    return [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]


def left_padding(conv: nn.Module) -> list[int]:
    """Zeros in front of the first pixel, along each dimension."""
    same = {"same": [w // 2 for w in width(conv)], "valid": [0] * len(conv.stride)}
    return same.get(conv.padding) or list(conv.padding)


def move_padding(traced: fx.GraphModule, end: fx.Node) -> None:
    """Move all padding of the linear chain that ends in ``end`` to its first convolution.

    A second convolution that pads its input by p2 becomes a first one of stride s1 that pads by
    p1 + s1 p2 (lesson 03). Nothing happens where more than linear maps, or a branch, is between the
    two, or one of them cannot give or take padding.
    """
    node, maps = end.args[0], (*MAP, nn.Identity, *DROPOUT)
    while isinstance(module_of(traced, node), maps) and only_user(node) is not None:
        node = node.args[0]
    first, second = module_of(traced, node), module_of(traced, end)
    alike = is_private(traced, node, CONV[:-1]) and type(first) is type(second)
    if not (alike and calls(traced, end) == 1 and _is_even(first) and _is_even(second)):
        return
    parts = zip(left_padding(first), first.stride, left_padding(second))
    first.padding = tuple(p + s * q for p, s, q in parts)  # torch's private copy is not for zeros
    second.padding = (0,) * len(second.stride)
    move_padding(traced, node)


def _is_even(conv: nn.Module) -> bool:
    """Whether a convolution pads with zeros, as many on either side."""
    odd = conv.padding == "same" and any(w % 2 for w in width(conv))
    return conv.padding_mode == "zeros" and not odd
