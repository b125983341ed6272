"""Surgery on the neighbours of an activation: cut channels, scale them, move padding forward."""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from . import kernels
from .nodes import (
    CONV,
    NORM,
    Affine,
    bypass,
    calls,
    channel_dim,
    is_sum,
    module_of,
    only_user,
    put_module,
)

POOL = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
CHANNELWISE = (nn.Dropout, nn.Dropout2d, nn.Identity, *POOL)
CHANNELWISE_FUNCTIONS = {F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.dropout}


def producer(traced: fx.GraphModule, node: fx.Node) -> tuple[fx.Node | None, nn.Module | None]:
    """The convolution and the batch norm that make ``node`` and feed nothing else; else None.

    ValueError if that convolution is called more than once: changing it would change both calls.
    """
    norm = module_of(traced, node)
    norm = norm if isinstance(norm, NORM) else None
    conv = node.args[0] if norm is not None else node
    if only_user(node) is None or (norm is not None and calls(traced, node) > 1):
        return None, None
    if only_user(conv) is None or not isinstance(module_of(traced, conv), CONV):
        return None, norm
    if calls(traced, conv) > 1:
        raise ValueError(f"{conv.target} is called more than once: give each call its own copy.")
    return conv, norm


def next_convolutions(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """All convolutions behind ``node``, through pooling and the like; [] if anything else is."""
    ends = []
    for user in node.users:
        module = module_of(traced, user)
        if isinstance(module, CONV):
            ends.append(user)
            continue
        further = next_convolutions(traced, user) if _keeps_channels(traced, user) else []
        if not further:
            return []
        ends += further
    return ends


def can_cut(traced: fx.GraphModule, conv: fx.Node | None, ends: list[fx.Node]) -> bool:
    """Whether channels can leave ``conv`` and all that it feeds: no groups, no shared weights."""
    if conv is None or not ends:
        return False
    around = (conv, *ends)
    norm = module_of(traced, only_user(conv))
    if isinstance(norm, NORM) and norm.running_mean is None:
        return False
    dense = all(getattr(module_of(traced, n), "groups", 1) == 1 for n in around)
    return dense and all(calls(traced, n) == 1 for n in around)


def cut(traced, conv: fx.Node, norm, ends: list[fx.Node], keep: Tensor, shift: Tensor) -> None:
    """Remove the channels not in ``keep``; their constants go into the next layer's bias.

    The constant is taken to continue under the zero padding of the next layer, so that it is one
    bias and not a map of biases (MATHS, section 4); this is part of what linearising changes.
    """
    for end in ends:
        _add_bias(traced, end, _response(traced, end, torch.where(keep, 0, shift)))
        _select(module_of(traced, end), 1, keep)
    _select(module_of(traced, conv), 0, keep)
    if norm is not None:
        norm.num_features = int(keep.sum())
        norm.running_mean, norm.running_var = norm.running_mean[keep], norm.running_var[keep]
        if norm.weight is not None:
            norm.weight = nn.Parameter(norm.weight.detach()[keep])
            norm.bias = nn.Parameter(norm.bias.detach()[keep])


def cut_branch(traced: fx.GraphModule, ends: list[fx.Node], shift: Tensor) -> bool:
    """Turn an all-OFF residual branch into a constant on its shortcut; False if it is none."""
    end, last = ends[0], ends[0]
    norm = module_of(traced, only_user(end))
    if isinstance(norm, NORM):
        last = only_user(end)
    total = only_user(last)
    if len(ends) > 1 or not is_sum(total):
        return False
    conv = module_of(traced, end)
    constant = _response(traced, end, shift) + (0 if conv.bias is None else conv.bias.detach())
    if last is not end:
        slope, offset = kernels.batch_norm_affine(norm.eval())
        constant = (slope * constant + offset).to(shift.dtype)
    shortcut = next(n for n in total.all_input_nodes if n is not last)
    name = f"{end.target}_constant"
    put_module(traced, name, Affine(None, constant, channel_dim(traced, total)))
    with traced.graph.inserting_before(total):
        bypass(total, traced.graph.call_module(name, (shortcut,)))
    return True


def scale(traced, conv: fx.Node | None, norm, slope: Tensor, shift: Tensor) -> bool:
    """Put slope * z + shift into what makes z: the batch norm, else the convolution; False if
    neither can take it."""
    if norm is not None and norm.weight is not None:
        norm.weight.data *= slope
        norm.bias.data.mul_(slope).add_(shift)
    elif norm is None and conv is not None:
        module = module_of(traced, conv)
        module.weight.data *= slope.reshape(-1, *[1] * (module.weight.ndim - 1))
        if module.bias is not None:
            module.bias.data *= slope
        _add_bias(traced, conv, shift)
    else:
        return False
    return True


def move_padding(traced: fx.GraphModule, end: fx.Node) -> None:
    """Move all padding of the linear chain that ends in ``end`` to its first convolution.

    A second convolution that pads its input by p2 becomes a first one of stride s1 that pads by
    p1 + s1 p2 (MATHS, section 4). Nothing happens where there is no such chain.
    """
    node = end.args[0]
    while isinstance(module_of(traced, node), NORM + (Affine, nn.Dropout, nn.Identity)):
        if only_user(node) is None:
            return
        node = node.args[0]
    first, second = module_of(traced, node), module_of(traced, end)
    if not isinstance(first, CONV[:-1]) or not isinstance(second, CONV[:-1]):
        return
    if calls(traced, node) > 1 or calls(traced, end) > 1:
        return
    if only_user(node) is None or {first.padding_mode, second.padding_mode} != {"zeros"}:
        return
    inner, outer = kernels.read(first), kernels.read(second)
    parts = zip(inner.padding, inner.stride, outer.padding)
    put_module(traced, node.target, _with_padding(first, [p + s * q for p, s, q in parts]))
    put_module(traced, end.target, _with_padding(second, [0] * outer.dims))
    move_padding(traced, node)


def _with_padding(conv: nn.Module, padding: list[int]) -> nn.Module:
    # A new module: torch keeps a second, private copy of the padding in the old one.
    arguments = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, tuple(padding))
    bias = conv.bias is not None
    new = type(conv)(*arguments, conv.dilation, conv.groups, bias, device="meta")
    new.weight, new.bias = conv.weight, conv.bias
    return new


def _keeps_channels(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node works on each channel (dimension 1) on its own and keeps their order."""
    module = module_of(traced, node)
    if channel_dim(traced, node) != 1:
        return False
    if node.target in (torch.flatten, "flatten"):
        return node.args[1:] == (1,) or node.kwargs == {"start_dim": 1}
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1
    return isinstance(module, CHANNELWISE) or node.target in CHANNELWISE_FUNCTIONS


def _response(traced: fx.GraphModule, end: fx.Node, constant: Tensor) -> Tensor:
    """What a constant per input channel adds to each output channel of a convolution, (out,)."""
    taps = module_of(traced, end).weight.detach().flatten(1)
    return taps @ constant.to(taps).repeat_interleave(taps.shape[1] // len(constant))


def _add_bias(traced: fx.GraphModule, node: fx.Node, bias: Tensor) -> None:
    """Add to a convolution's output: in its bias, or in the mean that the next BN takes away."""
    conv, norm = module_of(traced, node), module_of(traced, only_user(node))
    if conv.bias is not None:
        conv.bias.data += bias
    elif isinstance(norm, NORM) and norm.running_mean is not None:
        norm.running_mean = norm.running_mean - bias
    elif bias.any():
        conv.bias = nn.Parameter(bias.clone())


def _select(conv: nn.Module, axis: int, keep: Tensor) -> None:
    """Keep only some output (axis 0) or input (axis 1) channels of a convolution, in place."""
    keep = keep.repeat_interleave(conv.weight.shape[axis] // len(keep))  # pixels behind a Flatten
    weight = conv.weight.detach()
    conv.weight = nn.Parameter(weight[keep] if axis == 0 else weight[:, keep])
    if axis == 0 and conv.bias is not None:
        conv.bias = nn.Parameter(conv.bias.detach()[keep])
    unit = "features" if isinstance(conv, nn.Linear) else "channels"
    setattr(conv, f"{'in' if axis else 'out'}_{unit}", int(keep.sum()))
