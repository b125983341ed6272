"""Takes activations out: OFF channels are cut, ON channels become linear, padding moves to the front.

What replaces an activation is one slope and one shift per channel (``RULES``). Where it goes:
into the batch norm or convolution in front, if that feeds nothing else; channels that are constant
are cut out of the convolutions on both sides, physically, so that no tuning brings them back; on a
residual stream, where no channel can be cut, an ``Affine`` module stays behind.
"""

import torch
from torch import Tensor, fx, nn

from . import kernels
from .gaussian import Gaussian, best_affine
from .graph import (
    CONV,
    NORM,
    Affine,
    bypass,
    channel_dim,
    find_node,
    finish,
    is_sum,
    module_of,
    only_user,
    put_module,
    trace,
)
from .statistics import statistics

CHANNELWISE = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten)
POOL = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
CHANNELWISE_FUNCTIONS = {torch.flatten, "flatten", "mean"}


def on_off(g: Gaussian, f) -> tuple[Tensor, Tensor]:
    """The paper's rule (TLC, section 3.3): OFF becomes 0, ON becomes the identity."""
    slope = g.on.to(g.mean.dtype)
    return slope, torch.zeros_like(slope)


def affine(g: Gaussian, f) -> tuple[Tensor, Tensor]:
    """Every channel becomes its best affine map (MATHS, section 2); nothing is cut."""
    return best_affine(g.mean, g.std, f)


def on_off_affine(g: Gaussian, f) -> tuple[Tensor, Tensor]:
    """OFF keeps its mean E[f(z)] and is cut, ON becomes its best affine map."""
    slope, shift = best_affine(g.mean, g.std, f)
    return slope * g.on, torch.where(g.on, shift, slope * g.mean + shift)


def identity(g: Gaussian, f) -> tuple[Tensor, Tensor]:
    """Every channel becomes the identity (EASIER, Layer Folding)."""
    return torch.ones_like(g.mean), torch.zeros_like(g.mean)


RULES = {r.__name__: r for r in (on_off, on_off_affine, affine, identity)}


def linearize(
    model: nn.Module, names, data, rule: str = "on_off_affine", padding: str = "first"
) -> fx.GraphModule:
    """A copy of ``model`` in which the activations ``names`` (one or several) are linear.

    ``data``: inputs to measure statistics on (tensor, DataLoader or Data), or ready statistics as
    ``{name: Gaussian}``. ``rule``: a name in ``RULES``, or ``"published"`` for what the published
    code does (OFF channels of the batch norm zeroed, where they may drift; the activation dropped).
    ``padding="first"`` (default) moves the padding of a chain that has become linear to its first
    convolution, which changes the border a little now, before tuning, and makes every later merge
    exact; ``"as_trained"`` leaves all padding where it is, and such pairs are not merged.
    An all-OFF branch of a residual block disappears into a constant. Without a residual path the
    channel closest to ON is kept, as nothing would get through otherwise.
    ValueError for an unknown name or rule, or a layer whose weights are used twice.
    """
    if rule not in RULES and rule != "published":
        raise ValueError(f"there is no rule {rule!r}; there are: {', '.join(RULES)}, published.")
    if padding not in ("first", "as_trained"):
        raise ValueError(f"padding is 'first' or 'as_trained', not {padding!r}.")
    names = [names] if isinstance(names, str) else list(names)
    traced = trace(model)
    nodes = [find_node(traced, name) for name in names]
    gaussians = data if isinstance(data, dict) else statistics(model, data)
    for name, node in zip(names, nodes, strict=True):
        if rule == "published":
            _remove_as_published(traced, node, gaussians[name])
        else:
            ends = _remove(traced, node, gaussians[name], rule)
            if padding == "first" and len(ends) == 1:
                _move_padding(traced, ends[0])
        finish(traced)
    return traced


def _remove(traced: fx.GraphModule, node: fx.Node, g: Gaussian, rule: str) -> list[fx.Node]:
    """Replace one activation; returns the convolutions that now receive its linear substitute."""
    module = module_of(traced, node)
    f = torch.relu if isinstance(module, nn.ReLU) else module
    slope, shift = RULES[rule](g, f)
    ends = _next_convolutions(traced, node)
    conv, norm = _producer(traced, node.args[0])
    before = node.args[0]
    dim = channel_dim(traced, node)
    direct = ends and all(user in ends for user in node.users)
    bypass(node, before)
    keep = slope != 0
    if rule == "identity":
        return ends if direct else []
    if conv is not None and not keep.all() and ends and _can_cut(traced, conv, ends):
        if not keep.any() and _cut_branch(traced, ends, shift):
            return []
        if not keep.any():
            keep[(g.mean / g.std.clamp_min(1e-12)).argmax()] = True
            slope = torch.where(keep, torch.ones_like(slope), slope)
        _cut(traced, conv, norm, ends, keep, shift)
        slope, shift = slope[keep], shift[keep]
    absorber = norm if norm is not None and norm.weight is not None else None
    if (slope != 0).all() and absorber is not None:
        _scale(absorber, slope, shift)
    elif (slope != 0).all() and conv is not None and norm is None:
        _scale_convolution(traced, conv, slope, shift)
    elif not ((slope == 1).all() and (shift == 0).all()):
        name = f"{node.target}_affine"
        put_module(traced, name, Affine(slope, shift, dim, learn=rule != "on_off"))
        with traced.graph.inserting_after(before):
            new = traced.graph.call_module(name, (before,))
        before.replace_all_uses_with(new, lambda user: user is not new)
    return ends if direct else []


def _remove_as_published(traced: fx.GraphModule, node: fx.Node, g: Gaussian) -> None:
    source = node.args[0]
    norm = source
    while norm.args and not isinstance(module_of(traced, norm), NORM):
        norm = norm.args[0]
    module = module_of(traced, norm)
    with torch.no_grad():
        for parameter in (module.weight, module.bias):
            parameter[~g.on] = 0
    bypass(node, source)


def _producer(traced: fx.GraphModule, node: fx.Node) -> tuple[fx.Node | None, nn.Module | None]:
    """The convolution (and batch norm) that make ``node`` and nothing else; None where shared."""
    norm = module_of(traced, node)
    norm = norm if isinstance(norm, NORM) else None
    conv = node.args[0] if norm is not None and node.args else node
    exclusive = only_user(node) is not None and only_user(conv) is not None
    if norm is not None and not (exclusive and _calls(traced, node.target) == 1):
        return None, None
    if exclusive and isinstance(module_of(traced, conv), CONV):
        if _calls(traced, conv.target) > 1:
            raise ValueError(
                f"{conv.target} is called more than once: give each call its own copy."
            )
        return conv, norm
    return None, norm


def _next_convolutions(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """All convolutions behind ``node``, through pooling and the like; [] if anything else is."""
    ends = []
    for user in node.users:
        module = module_of(traced, user)
        if isinstance(module, CONV):
            ends.append(user)
        elif isinstance(module, CHANNELWISE + POOL) or user.target in CHANNELWISE_FUNCTIONS:
            further = _next_convolutions(traced, user)
            if not further:
                return []
            ends += further
        else:
            return []
    return ends


def _can_cut(traced: fx.GraphModule, conv: fx.Node, ends: list[fx.Node]) -> bool:
    modules = [module_of(traced, n) for n in (conv, *ends)]
    shared = any(_calls(traced, n.target) > 1 for n in (conv, *ends))
    return not shared and all(getattr(m, "groups", 1) == 1 for m in modules)


def _cut(traced, conv: fx.Node, norm, ends: list[fx.Node], keep: Tensor, shift: Tensor) -> None:
    """Remove the channels not in ``keep``; their constants go into the next layer's bias.

    The constant is taken to continue under the zero padding of the next layer, so that it is one
    bias and not a map of biases (MATHS, section 4); this is part of what linearising changes.
    """
    for end in ends:
        _add_bias(traced, end, _constant_input(traced, end, torch.where(keep, 0, shift)))
        _select(module_of(traced, end), 1, keep)
    _select(module_of(traced, conv), 0, keep)
    if norm is not None:
        norm.num_features = int(keep.sum())
        for name in ("weight", "bias"):
            if getattr(norm, name) is not None:
                setattr(norm, name, nn.Parameter(getattr(norm, name).detach()[keep]))
        for name in ("running_mean", "running_var"):
            setattr(norm, name, getattr(norm, name)[keep])


def _cut_branch(traced: fx.GraphModule, ends: list[fx.Node], shift: Tensor) -> bool:
    """Turn an all-OFF residual branch into a constant added to its shortcut; False if it is none."""
    end = ends[0]
    conv = module_of(traced, end)
    after = only_user(end)
    norm = module_of(traced, after) if after is not None else None
    last = after if isinstance(norm, NORM) else end
    total = only_user(last)
    if len(ends) > 1 or total is None or not is_sum(total):
        return False
    constant = _constant_input(traced, end, shift)
    if conv.bias is not None:
        constant = constant + conv.bias.detach()
    if isinstance(norm, NORM):
        slope, bias = kernels.batch_norm_affine(norm.eval())
        constant = (slope * constant + bias).to(shift.dtype)
    shortcut = next(n for n in total.all_input_nodes if n is not last)
    name = f"{end.target}_constant"
    put_module(traced, name, Affine(None, constant, channel_dim(traced, total)))
    with traced.graph.inserting_before(total):
        bypass(total, traced.graph.call_module(name, (shortcut,)))
    return True


def _constant_input(traced: fx.GraphModule, end: fx.Node, constant: Tensor) -> Tensor:
    """What a constant per input channel adds to each output channel of a convolution, (out,)."""
    weight = module_of(traced, end).weight.detach()
    taps = weight.flatten(1) if weight.ndim > 2 else weight
    return taps @ constant.to(weight).repeat_interleave(taps.shape[1] // len(constant))


def _add_bias(traced: fx.GraphModule, node: fx.Node, bias: Tensor) -> None:
    """Add to a convolution's output: in its bias, or in the mean that the next BN takes away."""
    conv, after = module_of(traced, node), only_user(node)
    norm = module_of(traced, after) if after is not None else None
    if conv.bias is not None:
        conv.bias.data += bias
    elif isinstance(norm, NORM) and norm.running_mean is not None:
        norm.running_mean = norm.running_mean - bias
    elif bias.any():
        conv.bias = nn.Parameter(bias.clone())


def _select(conv: nn.Module, axis: int, keep: Tensor) -> None:
    """Keep only some output (axis 0) or input (axis 1) channels of a convolution, in place."""
    repeat = conv.weight.shape[axis] // len(keep)  # a Linear behind Flatten: pixels per channel
    keep = keep.repeat_interleave(repeat)
    conv.weight = nn.Parameter(
        conv.weight.detach()[keep] if axis == 0 else conv.weight.detach()[:, keep]
    )
    if axis == 0 and conv.bias is not None:
        conv.bias = nn.Parameter(conv.bias.detach()[keep])
    names = (
        ("out_features", "in_features")
        if isinstance(conv, nn.Linear)
        else ("out_channels", "in_channels")
    )
    setattr(conv, names[axis], int(keep.sum()))


def _scale(norm: nn.Module, slope: Tensor, shift: Tensor) -> None:
    with torch.no_grad():
        norm.weight.mul_(slope)
        norm.bias.mul_(slope).add_(shift)


def _scale_convolution(traced: fx.GraphModule, node: fx.Node, slope: Tensor, shift: Tensor) -> None:
    conv = module_of(traced, node)
    shape = (-1, *[1] * (conv.weight.ndim - 1))
    with torch.no_grad():
        conv.weight.mul_(slope.reshape(shape))
        if conv.bias is not None:
            conv.bias.mul_(slope)
    _add_bias(traced, node, shift)


def _move_padding(traced: fx.GraphModule, end: fx.Node) -> None:
    """Move all padding of the linear chain that ends in ``end`` to its first convolution."""
    second, node = module_of(traced, end), end.args[0]
    while isinstance(module_of(traced, node), NORM + (Affine, nn.Dropout, nn.Identity)):
        if only_user(node) is None:
            return
        node = node.args[0]
    first = module_of(traced, node)
    if isinstance(second, nn.Linear) or not isinstance(first, CONV) or only_user(node) is None:
        return
    if any(m.padding_mode != "zeros" for m in (first, second)):
        return
    inner, outer = kernels.read(first), kernels.read(second)
    parts = zip(inner.padding, inner.stride, outer.padding, strict=True)
    first.padding = tuple(p + s * q for p, s, q in parts)
    second.padding = (0,) * outer.dims
    for module in (first, second):
        module._reversed_padding_repeated_twice = [
            p for p in reversed(module.padding) for _ in "ab"
        ]
    _move_padding(traced, node)


def _calls(traced: fx.GraphModule, target: str) -> int:
    return sum(n.op == "call_module" and n.target == target for n in traced.graph.nodes)
