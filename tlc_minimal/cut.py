"""Surgery on the neighbours of an activation: cut channels out of them, or scale them."""

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
    is_sum,
    module_of,
    normalizes,
    only_user,
    put_module,
    resize,
)
from .padding import keeps_size

POOL = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
PASSIVE = (nn.Identity, *ACTIVATION, *DROPOUT)
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


def owners(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """All layers whose channels are those of ``node``, from it up to the convolution that makes
    them; [] if a channel cannot leave. Through a depthwise convolution its input's channels go,
    too: nobody else wants them."""
    chain = []
    while isinstance(module := module_of(traced, node), CONV + NORM + (Affine, *PASSIVE)):
        if only_user(node) is None or calls(traced, node) > 1 and not isinstance(module, PASSIVE):
            return []
        chain.append(node)
        if isinstance(module, NORM) and module.running_mean is None:
            return []
        if isinstance(module, CONV):
            norms = [m for m in (module_of(traced, n) for n in chain) if isinstance(m, NORM)]
            if any(norm.num_features != len(module.weight) for norm in norms):
                return []  # behind a Linear a norm may take the tokens as its channels
            groups = getattr(module, "groups", 1)
            if groups == 1:
                return chain
            if not groups == module.in_channels == module.out_channels:
                return []
        node = node.args[0]
    return []


def can_take(traced: fx.GraphModule, ends: list[fx.Node]) -> bool:
    """Whether all these convolutions can do with fewer input channels."""
    alone = [calls(traced, end) == 1 for end in ends]
    return bool(ends) and all(alone) and all(_groups(module_of(traced, end)) == 1 for end in ends)


def cut(traced, node: fx.Node, chain, ends, keep: Tensor, shift: Tensor, ones: bool) -> None:
    """Remove the channels not in ``keep`` of ``node`` from the ``chain`` of its owners and from all
    its ``ends``.

    What their constants ``shift`` add to the next layer becomes its bias; where zero padding
    follows that is a map and not one number, and a channel of ``ones`` carries it.
    """
    for end in ends:
        module = module_of(traced, end)
        taps = _taps_of(module, torch.where(keep, 0, shift))
        module.weight = nn.Parameter(_inputs(module, keep))
        if ones:
            module.weight = nn.Parameter(torch.cat([module.weight.detach(), taps], 1))
        else:
            _add_bias(traced, end, taps.flatten(1).sum(1))
        resize(module)
    for owner in chain:
        module = module_of(traced, owner)
        for holder in (module._parameters, module._buffers):
            for key, tensor in holder.items():
                if tensor is not None and tensor.ndim:  # num_batches_tracked is a number
                    holder[key] = _like(tensor, tensor.detach()[keep])
        if isinstance(module, CONV):
            if _groups(module) > 1:  # depthwise
                module.groups = len(module.weight)
            resize(module)
        elif isinstance(module, NORM):
            module.num_features = int(keep.sum())
    if ones:
        insert_after(traced, node, f"{node.target}_ones", Ones())


def cut_branch(traced, node: fx.Node, ends: list[fx.Node], shift: Tensor, ones: bool) -> bool:
    """Turn the all-OFF residual branch that ``node`` is on into a constant (with ``ones``: a map of
    constants) on its shortcut; False if it is on none."""
    end = last = ends[0]
    norm = module_of(traced, only_user(end))
    if isinstance(norm, NORM):
        last = only_user(end)
    total, conv = only_user(last), module_of(traced, end)
    if len(ends) > 1 or not is_sum(total) or isinstance(conv, nn.Linear):
        return False
    shortcut = next(n for n in total.all_input_nodes if n is not last)
    same = set(_sources(traced, shortcut)) & set(_sources(traced, end))
    if not same or ones and not (keeps_size(conv) and end.args[0] is node):
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


def _inputs(conv: nn.Module, keep: Tensor) -> Tensor:
    """The weight for the input channels that are kept (behind a Flatten: all their pixels)."""
    return conv.weight.detach()[:, keep.repeat_interleave(conv.weight.shape[1] // len(keep))]


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    """A parameter if ``tensor`` is one, learning if it does."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values


def _groups(conv: nn.Module) -> int:
    return getattr(conv, "groups", 1)
