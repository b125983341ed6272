"""Surgery on the neighbours of an activation: cut channels, scale them, move padding forward."""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from . import kernels
from .modules import LEAVES, Affine, BiasMap, Ones
from .nodes import (
    ACTIVATION,
    CONV,
    DROPOUT,
    NORM,
    bypass,
    calls,
    channel_dim,
    insert_after,
    is_padded,
    is_sum,
    module_of,
    normalizes,
    only_user,
    put_module,
    resize,
)

POOL = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
AVERAGE = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
FLATTEN = (torch.flatten, "flatten")
CHANNELWISE = (nn.Identity, *DROPOUT, *POOL)
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
    if norm is not None and not normalizes(traced, node, conv):
        return None, norm
    if calls(traced, conv) > 1:
        raise ValueError(f"{conv.target} is called more than once: give each call its own copy.")
    return conv, norm


def next_convolutions(traced: fx.GraphModule, node: fx.Node, flat: bool = False) -> list[fx.Node]:
    """All convolutions that take the channels of ``node`` as theirs, through pooling and the like;
    [] if anything else takes them. ``flat``: they were flattened on the way."""
    ends = []
    for user in node.users:
        module = module_of(traced, user)
        if isinstance(module, CONV):
            last = flat or channel_dim(traced, user) == -1
            further = [user] if isinstance(module, nn.Linear) == last else []
        elif _keeps_channels(traced, user):
            flattens = isinstance(module, nn.Flatten) or user.target in FLATTEN
            further = next_convolutions(traced, user, flat or flattens)
        else:
            further = []
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


def cut(
    traced, node: fx.Node, conv: fx.Node, norm, ends, keep: Tensor, shift: Tensor, ones: bool
) -> None:
    """Remove the channels not in ``keep`` of ``node`` from its ``conv`` and all its ``ends``.

    What their constants ``shift`` add to the next layer becomes its bias; where zero padding
    follows that is a map and not one number, and a channel of ``ones`` carries it.
    """
    for end in ends:
        module = module_of(traced, end)
        taps = _taps_of(module, torch.where(keep, 0, shift))
        _select(module, 1, keep)
        if ones:
            module.weight = nn.Parameter(torch.cat([module.weight.detach(), taps], 1))
            resize(module)
        else:
            _add_bias(traced, end, taps.flatten(1).sum(1))
    _select(module_of(traced, conv), 0, keep)
    if norm is not None:
        norm.num_features = int(keep.sum())
        norm.running_mean, norm.running_var = norm.running_mean[keep], norm.running_var[keep]
        if norm.weight is not None:
            norm.weight = nn.Parameter(norm.weight.detach()[keep])
            norm.bias = nn.Parameter(norm.bias.detach()[keep])
    if ones:
        insert_after(traced, node, f"{conv.target}_ones", Ones())


def cut_branch(traced: fx.GraphModule, ends: list[fx.Node], shift: Tensor, ones: bool) -> bool:
    """Turn an all-OFF residual branch into a constant (with ``ones``: a map of constants) on its
    shortcut; False if it is none."""
    end = last = ends[0]
    norm = module_of(traced, only_user(end))
    if isinstance(norm, NORM):
        last = only_user(end)
    total, conv = only_user(last), module_of(traced, end)
    if len(ends) > 1 or not is_sum(total) or isinstance(conv, nn.Linear):
        return False
    shortcut = next(n for n in total.all_input_nodes if n is not last)
    same = set(_sources(traced, shortcut)) & set(_sources(traced, end))
    if not same or ones and not (_keeps_size(conv) and len(end.args[0].users) == 1):
        return False  # the sum may spread a smaller shortcut over the branch
    taps, bias = _taps_of(conv, shift), conv.bias
    bias = taps.new_zeros(len(taps)) if bias is None else bias.detach()
    if not ones:
        taps = taps.flatten(1).sum(1).reshape(-1, *[1] * (taps.ndim - 1))
    value = kernels.Conv(taps, bias, conv.stride, conv.padding if ones else (), conv.dilation)
    if last is not end:
        value = kernels.scale_output(value, *kernels.batch_norm_affine(norm.eval()))
    if ones:
        constant = BiasMap(kernels.write(value))
    else:
        constant = Affine(None, value.weight.flatten() + value.bias, channel_dim(traced, total))
    name = f"{end.target}_constant"
    put_module(traced, name, constant)
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


def _with_padding(conv: nn.Module, padding: list[int]) -> nn.Module:
    # A new module: torch keeps a second, private copy of the padding in the old one.
    arguments = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, tuple(padding))
    bias = conv.bias is not None
    new = type(conv)(*arguments, conv.dilation, conv.groups, bias, device="meta")
    new.weight, new.bias = conv.weight, conv.bias
    return new


def _sources(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """``node`` and what it is made of by layers alone, one after the other."""
    chain, layers = [node], CONV + NORM + ACTIVATION + LEAVES + (nn.Identity, *DROPOUT, *POOL[:-1])
    while isinstance(module_of(traced, chain[-1]), layers):
        chain.append(chain[-1].args[0])
    return chain


def _keeps_channels(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node works on each channel (dimension 1) on its own and keeps their order."""
    module = module_of(traced, node)
    if isinstance(module, (nn.Identity, *DROPOUT)):
        return True
    if channel_dim(traced, node) != 1:
        return False
    if node.target in FLATTEN:
        return node.args[1:] == (1,) or node.kwargs == {"start_dim": 1}
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    return isinstance(module, CHANNELWISE) or node.target in CHANNELWISE_FUNCTIONS


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


def _keeps_size(conv: nn.Module) -> bool:
    """Whether the output of a convolution is as large as its input."""
    if isinstance(conv, nn.Linear) or kernels.obstacle(conv):
        return False
    value = kernels.read(conv)
    parts = zip(value.padding, value.dilation, value.kernel, value.stride)
    return all(2 * p == d * (k - 1) and s == 1 for p, d, k, s in parts)


def _taps_of(conv: nn.Module, constant: Tensor) -> Tensor:
    """The kernel, (out, pixels, *kernel), through which a constant per channel acts: one channel's
    (behind a Flatten: one for each of its pixels)."""
    weight = conv.weight.detach()
    weight = weight.reshape(len(weight), len(constant), -1, *weight.shape[2:])
    return torch.einsum("oc...,c->o...", weight, constant.to(weight))


def _add_bias(traced: fx.GraphModule, node: fx.Node, bias: Tensor) -> None:
    """Add to a convolution's output: in its bias, or in the mean that the next BN takes away."""
    conv, norm = module_of(traced, node), module_of(traced, only_user(node))
    if conv.bias is not None:
        conv.bias.data += bias
    elif (
        isinstance(norm, NORM)
        and norm.running_mean is not None
        and calls(traced, only_user(node)) == 1
        and normalizes(traced, only_user(node), node)
    ):
        norm.running_mean = norm.running_mean - bias
    elif bias.any():
        conv.bias = nn.Parameter(bias.to(conv.weight))


def _select(conv: nn.Module, axis: int, keep: Tensor) -> None:
    """Keep only some output (axis 0) or input (axis 1) channels of a convolution, in place."""
    keep = keep.repeat_interleave(conv.weight.shape[axis] // len(keep))  # pixels behind a Flatten
    weight = conv.weight.detach()
    conv.weight = nn.Parameter(weight[keep] if axis == 0 else weight[:, keep])
    if axis == 0 and conv.bias is not None:
        conv.bias = nn.Parameter(conv.bias.detach()[keep])
    resize(conv)
