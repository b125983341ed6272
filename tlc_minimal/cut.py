"""Channels that have become constant are cut out of the layers on both sides, physically.

Which layers read a channel, and where, is not derived. What lies between an activation and a layer
is *run*, twice, on noise small and large, its OFF channels at their constants. They are cut only if
what becomes of them is the same number in both runs, bit for bit in float64, and in images of other
sizes, and if the run without them gives all the rest unchanged: so no channel passes for constant
by accident. One that carries noise and happens to saturate is one too many in the run without the
OFF channels; what mixes, counts or orders channels gives something else as soon as some are
missing. That holds in front of the activation, too, where all channels carry noise.
"""

import copy

import torch
from torch import Tensor, fx, nn

from .channels import MAP, add_bias, channel_dim, made_dim, normalizes, scale, slope_and_shift, thin
from .edits import alone, insert_after, resize
from .modules import LEAVES, Affine, BiasMap, Ones
from .nodes import calls, is_private, is_sum, module_of, only_user
from .padding import is_padded, keeps_size
from .reading.axes import CLOSE, arrive, at_sizes, shape_of, wholes
from .reading.layers import ACTIVATION, CONV, DROPOUT, NORM, unused

PASSIVE = (nn.Identity, *(kind for kind in ACTIVATION if kind is not nn.PReLU), *DROPOUT)


def producer(traced: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The layer that makes ``node``, maybe with a batch norm behind it, if both feed nothing else.

    ValueError if that layer is called more than once: changing it would change both calls.
    """
    normed = isinstance(module_of(traced, node), NORM)
    conv = node.args[0] if normed else node
    if normed and not (is_private(traced, node, NORM) and normalizes(traced, node, conv)):
        return None
    if only_user(conv) is None or not isinstance(module_of(traced, conv), CONV):
        return None
    if calls(traced, conv) > 1:
        raise ValueError(f"{conv.target} is called more than once: give each call its own copy.")
    return conv


def readers(traced: fx.GraphModule, node: fx.Node) -> list[tuple[fx.Node, list[fx.Node]]]:
    """Every layer that takes what ``node`` makes, and the nodes on the way there, which take only
    that and have no weights; [] if anything else takes it, or a layer that cannot lose an input."""
    found, ways = [], {node: []}
    for user in traced.graph.nodes:
        sources, module = [n for n in user.all_input_nodes if n in ways], module_of(traced, user)
        way = list(dict.fromkeys(n for source in sources for n in ways[source]))
        if not sources:
            continue
        if isinstance(module, CONV) and calls(traced, user) == 1 == getattr(module, "groups", 1):
            found.append((user, way))
        elif isinstance(module, CONV + ACTIVATION) or module is not None and module.state_dict():
            return []  # an activation has statistics of its channels
        elif not user.users or len(sources) < len(user.all_input_nodes):
            return []
        else:
            ways[user] = [*way, user]
    return found


def owners(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """All nodes whose channels are those of ``node``, from it up to the convolution that makes
    them; [] if a channel cannot leave. Through a depthwise convolution its input's channels go,
    too: nobody else wants them. What has no weights (a pool) is to be run (:func:`unmixed`)."""
    chain = []
    while only_user(node) is not None and len(node.all_input_nodes) == 1:
        module, before = module_of(traced, node), node.all_input_nodes[0]
        if isinstance(module, CONV + MAP):
            if calls(traced, node) > 1:
                return []
        elif module and module.state_dict() or made_dim(traced, node) != channel_dim(traced, node):
            return []
        chain.append(node)
        if isinstance(module, CONV):
            norms = [m for m in (module_of(traced, n) for n in chain) if isinstance(m, NORM)]
            tokens = isinstance(module, nn.Linear) and len(shape_of(node) or ()) != 2
            if norms and tokens or any(norm.num_features != len(module.weight) for norm in norms):
                return []  # behind a Linear a norm may take the tokens as its channels
            groups = getattr(module, "groups", 1)
            if groups == 1:
                return chain
            if not groups == module.in_channels == module.out_channels:
                return []
        node = before
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
    arrived, ones = arrivals(traced, node, chain, ends, keep, shift)
    if not arrived:
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
    for module in filter(None, (module_of(traced, owner) for owner in chain)):
        thin(module, keep)
    if ones:
        insert_after(traced, node, unused(traced, f"{node.target}_ones"), Ones())
    return True


def arrivals(traced, node: fx.Node, chain, ends, keep: Tensor, shift: Tensor):
    """What :func:`travel` says at each of ``ends``, and whether a channel of ones has to carry it;
    nothing ([]) if the channels not in ``keep`` cannot leave ``chain``."""
    if not chain or not all(unmixed(traced, n, chain[-1], keep) for n in chain):
        return [], False
    arrived = [travel(traced, node, chain[-1], path, end, keep, shift) for end, path in ends]
    if None in arrived:
        return [], False
    pads = [is_padded(module_of(traced, end)) for end, _ in ends]
    ones = any(v is None or pad and bool(v.any()) for (v, _), pad in zip(arrived, pads))
    carried = channel_dim(traced, node) == 1 and all(carried for _, carried in arrived)
    return arrived if carried or not ones else [], ones


def is_cuttable(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether channels of an activation can be cut: tried with every other one."""
    chain, ends = owners(traced, node.args[0]), readers(traced, node)
    shift = torch.linspace(0.1, 1, len(module_of(traced, chain[-1]).weight) if chain else 0)
    return bool(arrivals(traced, node, chain, ends, torch.arange(len(shift)) % 2 > 0, shift)[0])


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
    shapes = {shape_of(shortcut) or shape_of(total), shape_of(total)}
    if not together or padded and not keeps_size(conv) or len(shapes) > 1:
        return False  # the sum may spread a smaller shortcut over the branch
    weight, learns = conv.weight.detach(), conv.weight.requires_grad
    one = copy.deepcopy(conv)
    one.weight.data = torch.einsum("oc...,c->o...", weight, constant.to(weight)).unsqueeze(1)
    if one.bias is None:
        one.bias = nn.Parameter(weight.new_zeros(len(weight)), learns)
    if last is not end:
        scale(one, *slope_and_shift(module_of(traced, last).eval()))
    resize(one)
    value = (one.weight.flatten(1).sum(1) + one.bias).detach()
    new = BiasMap(one) if padded else Affine(None, value, channel_dim(traced, total), learns)
    insert_after(traced, total, unused(traced, f"{end.target}_constant"), new).args = (shortcut,)
    traced.graph.erase_node(total)
    return True


def travel(traced, node: fx.Node, owner: fx.Node, path, end: fx.Node, keep: Tensor, shift: Tensor):
    """What the constants of the channels not in ``keep`` are when they reach the layer ``end``:
    (values, carried), or None if they are none there, or not alone. ``values``: one a channel that
    goes, None where they vary over the pixels; ``carried``: whether they are its constant times
    what a channel of ones becomes."""
    axis, at = channel_dim(traced, node), -1 if isinstance(module_of(traced, end), nn.Linear) else 1
    if not path and axis == at:
        return shift[~keep].double(), True
    found = _run(traced, node, owner, path, arrive, axis, at, keep.cpu(), shift.cpu().double())
    if None in found:
        return None
    values, carried = found[0][0], all(carried for _, carried in found)
    steady = all(v is not None and CLOSE(v, values) for v, _ in found)  # at any size
    return (values if steady else None, carried) if steady or carried else None


def unmixed(traced, node: fx.Node, owner: fx.Node, keep: Tensor) -> bool:
    """Whether ``node``, between the layer ``owner`` and the activation, gives the channels in
    ``keep`` as it would without the others. Layers and norms do; all else is run."""
    if isinstance(module_of(traced, node), CONV + MAP):
        return node is not owner or len(module_of(traced, node).weight) == len(keep)
    source, axis = node.all_input_nodes[0], channel_dim(traced, node)
    found = _run(traced, source, owner, [node], wholes, axis, axis, keep.cpu())
    return None not in found and all(whole.shape[1] == 1 for pair in found for whole in pair)


def _run(traced, source: fx.Node, owner: fx.Node, path, f, axis: int, at: int, keep, *more) -> list:
    """:func:`at_sizes` of ``path`` behind ``source``, whose channels the layer ``owner`` makes."""
    run, layer = alone(traced, source, path), module_of(traced, owner)
    kinds = [2, 3] if isinstance(layer, nn.Linear) else [layer.weight.ndim]  # maybe of tokens
    return at_sizes(run, shape_of(source), kinds, f, axis, at, keep, *more)


def _sources(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """``node`` and what it is made of by layers alone, one after the other."""
    chain, layers = [node], CONV + NORM + LEAVES + PASSIVE
    while isinstance(module_of(traced, chain[-1]), layers):
        chain.append(chain[-1].args[0])
    return chain
