"""Channels that have become constant are cut out of the layers on both sides, physically.

Which layers read a channel, and where, is not derived. What lies between an activation and a layer
is *run*, twice, on noise of very different size, its OFF channels at their constants. They are cut
only if what becomes of them is the same number in both runs, bit for bit in float64, and if the run
without them gives all the rest unchanged. So no channel can pass for constant by accident: one that
carries noise and happens to saturate is still there in the run without the OFF channels, and then
there is one more than there should be; and what mixes channels, counts them or orders them gives
something else as soon as some are missing.
"""

import copy
from functools import partial

import torch
from torch import Tensor, fx, nn

from .channels import add_bias, scale, slope_and_shift, thin
from .modules import LEAVES, Affine, BiasMap, Ones
from .nodes import (
    ACTIVATION,
    CONV,
    DROPOUT,
    NORM,
    alone,
    bypass,
    calls,
    channel_dim,
    insert_after,
    is_padded,
    is_sum,
    keeps_size,
    module_of,
    normalizes,
    only_user,
    put_module,
    resize,
    shape_of,
)

PASSIVE = (nn.Identity, *(kind for kind in ACTIVATION if kind is not nn.PReLU), *DROPOUT)


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


def readers(traced: fx.GraphModule, node: fx.Node, path=()) -> list[tuple[fx.Node, list[fx.Node]]]:
    """Every layer that takes what ``node`` makes, and the nodes on the way there, which have one
    input and no weights; [] if anything else takes it, or a layer that cannot lose an input."""
    found = []
    for user in node.users:
        module = module_of(traced, user)
        if isinstance(module, CONV):
            single = calls(traced, user) == 1 == getattr(module, "groups", 1)
            further = [(user, [*path])] * single
        elif user.op == "output" or len(user.all_input_nodes) > 1:
            further = []
        elif isinstance(module, ACTIVATION) or module is not None and module.state_dict():
            further = []  # an activation has statistics of its channels
        else:
            further = readers(traced, user, (*path, user))
        if not further:
            return []
        found += further
    return found


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
            if norms and isinstance(module, nn.Linear) and len(shape_of(node) or ()) != 2:
                return []
            groups = getattr(module, "groups", 1)
            if groups == 1:
                return chain
            if not groups == module.in_channels == module.out_channels:
                return []
        node = node.args[0]
    return []


@torch.no_grad()
def cut(traced: fx.GraphModule, node: fx.Node, keep: Tensor, shift: Tensor) -> bool:
    """Cut the channels of ``node`` that are not in ``keep``, constant at ``shift``, both
    (channels,), out of all layers on both sides; False, and nothing changes, if that cannot be.

    What the constants add to the next layer goes into its bias, or into the mean of the batch norm
    behind it. Where zeros are put around them it is a map, not a number, and one channel of ones
    carries it.
    """
    chain, ends = owners(traced, node.args[0]), readers(traced, node)
    if not chain:
        return False
    arrived = [travel(traced, node, chain[-1], path, end, keep, shift) for end, path in ends]
    if not arrived or None in arrived:
        return False
    pads = [is_padded(module_of(traced, end)) for end, _ in ends]
    ones = any(v is None or pad and bool(v.any()) for (v, _), pad in zip(arrived, pads))
    if ones and not all(carried for _, carried in arrived):
        return False
    for (end, _), (values, _) in zip(ends, arrived):
        layer = module_of(traced, end)
        weight = layer.weight.detach().unflatten(1, (len(keep), -1))
        stay, gone = weight[:, keep].flatten(1, 2), weight[:, ~keep]
        if ones:
            taps = torch.einsum("oc...,c->o...", gone, shift[~keep].to(gone))
            stay = torch.cat([stay, taps], 1)
        else:
            taps = torch.einsum("oc...,c->o...", gone, values.to(gone))
            add_bias(traced, end, taps.flatten(1).sum(1))
        layer.weight = nn.Parameter(stay, layer.weight.requires_grad)
        resize(layer)
    for owner in chain:
        thin(module_of(traced, owner), keep)
    if ones:
        insert_after(traced, node, f"{node.target}_ones", Ones())
    return True


def cut_branch(traced: fx.GraphModule, node: fx.Node, shift: Tensor) -> bool:
    """Turn a residual branch into a constant on its shortcut if all that ``node`` gives to it is
    ``shift`` (channels,); False if that cannot be."""
    chain, ends = owners(traced, node.args[0]), readers(traced, node)
    if not chain or len(ends) != 1:
        return False
    ((end, path),) = ends
    arrived = travel(traced, node, chain[-1], path, end, shift != shift, shift)
    if arrived is None or arrived[0] is None:
        return False
    features = module_of(traced, end).weight.shape[1] // len(shift)
    return replace_branch(traced, end, arrived[0].repeat_interleave(features))


def replace_branch(traced: fx.GraphModule, end: fx.Node, constant: Tensor) -> bool:
    """Turn the residual branch that ends in the convolution ``end`` (and its batch norm) into a
    constant on its shortcut, where its input is ``constant`` (in,) at all pixels; where it pads
    that, a map of constants. False if it is no such branch."""
    norm, conv = only_user(end), module_of(traced, end)
    last = norm if isinstance(module_of(traced, norm), NORM) else end
    total = only_user(last)
    if not is_sum(total) or isinstance(conv, nn.Linear):
        return False
    shortcut = next(n for n in total.all_input_nodes if n is not last)
    together = set(_sources(traced, shortcut)) & set(_sources(traced, end))
    padded = is_padded(conv) and bool(constant.any())
    if not together or padded and not keeps_size(conv):
        return False  # the sum may spread a smaller shortcut over the branch
    weight = conv.weight.detach()
    taps = torch.einsum("oc...,c->o...", weight, constant.to(weight)).unsqueeze(1)
    one = copy.deepcopy(conv)
    one.weight = nn.Parameter(taps if padded else taps.flatten(1).sum(1, keepdim=True))
    if one.bias is None:
        one.bias = nn.Parameter(weight.new_zeros(len(weight)))
    if last is not end:
        scale(one, *slope_and_shift(module_of(traced, last).eval()))
    resize(one)
    value = (one.weight.flatten(1).sum(1) + one.bias).detach()
    new = BiasMap(one) if padded else Affine(None, value, channel_dim(traced, total))
    name = f"{end.target}_constant"
    put_module(traced, name, new)
    with traced.graph.inserting_before(total):
        bypass(total, traced.graph.call_module(name, (shortcut,)))
    return True


def travel(traced, node: fx.Node, owner: fx.Node, path, end: fx.Node, keep: Tensor, shift: Tensor):
    """What the constants of the channels not in ``keep`` are when they reach the layer ``end``:
    (values, carried), or None if they are none there, or not alone. ``values``: one a channel that
    goes, None where they vary over the pixels; ``carried``: whether they are its constant times
    what a channel of ones becomes."""
    axis, at = channel_dim(traced, node), -1 if isinstance(module_of(traced, end), nn.Linear) else 1
    if not path and axis == at:
        return shift[~keep].double(), True
    run, layer = copy.deepcopy(alone(traced, node, path)).double().eval(), module_of(traced, owner)
    known, kinds = shape_of(node), [2, 3] if isinstance(layer, nn.Linear) else [layer.weight.ndim]
    kinds = [len(known)] if known else kinds
    for ndim in kinds:  # a matrix, or with tokens: it must hold for both
        for side in (16, 64):  # what is too small for a pool is no size to learn from
            size = [1, *[side if axis == 1 else 3] * (ndim - 2), len(keep)]
            try:
                found = _arrive(run, size, axis, at, keep.cpu(), shift.cpu().double())
                break
            except (RuntimeError, ValueError, IndexError, TypeError):
                found = None
        if found is None:
            return None
    return found


def _arrive(run, size: list[int], axis: int, at: int, keep: Tensor, shift: Tensor):
    def features(x):
        y = run(x.movedim(-1, axis).contiguous()).movedim(at, 0)
        return y.unflatten(0, (x.shape[-1], -1))

    close = partial(torch.allclose, rtol=1e-12, atol=1e-12)
    noise, seen = torch.Generator().manual_seed(0), []
    for spread in (1.0, 1000.0):
        x = spread * torch.randn(size, generator=noise, dtype=torch.float64)
        x[..., ~keep] = shift[~keep]
        whole = features(x)
        if keep.any():
            rest = features(x[..., keep])
            if rest.shape[1:] != whole.shape[1:] or not close(rest, whole[keep]):
                return None
        seen.append(whole[~keep].flatten(1))
    if not torch.equal(*seen):
        return None
    values, ones = seen[0][:, 0], features(torch.ones_like(x[..., :1])).flatten()
    steady = close(seen[0], values[:, None])
    carried = close(seen[0], shift[~keep, None] * ones)
    return (values if steady else None, carried) if steady or carried else None


def _sources(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """``node`` and what it is made of by layers alone, one after the other."""
    chain, layers = [node], CONV + NORM + LEAVES + PASSIVE
    while isinstance(module_of(traced, chain[-1]), layers):
        chain.append(chain[-1].args[0])
    return chain
