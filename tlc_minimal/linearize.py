"""Takes activations out: OFF channels are cut, ON channels become linear, padding moves forward.

What replaces an activation is one slope and one shift per channel (``RULES``). Where it goes:
into the batch norm or convolution in front, if that feeds nothing else; channels that are constant
are cut out of the convolutions on both sides, physically, so that no tuning brings them back; on a
residual stream, where no channel can be cut, an ``Affine`` module stays behind.
"""

import torch
from torch import Tensor, fx, nn

from .cut import can_cut, cut, cut_branch, move_padding, next_convolutions, producer, scale
from .gaussian import Gaussian, best_affine
from .graph import find_node, trace
from .nodes import Affine, bypass, channel_dim, finish, module_of, put_module
from .statistics import last_norm, statistics


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
    check_rule(rule)
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
                move_padding(traced, ends[0])
        finish(traced)
    return traced


def check_rule(rule: str) -> None:
    """ValueError that names the rules there are, if ``rule`` is none of them."""
    if rule not in RULES and rule != "published":
        raise ValueError(f"there is no rule {rule!r}; there are: {', '.join(RULES)}, published.")


def _remove(traced: fx.GraphModule, node: fx.Node, g: Gaussian, rule: str) -> list[fx.Node]:
    """Replace one activation; returns the convolutions that directly receive its substitute."""
    module, before = module_of(traced, node), node.args[0]
    f = torch.relu if isinstance(module, nn.ReLU) else module
    slope, shift = RULES[rule](g, f)
    dim, ends = channel_dim(traced, node), next_convolutions(traced, node)
    direct = ends if all(user in ends for user in node.users) else []
    conv, norm = producer(traced, before)
    bypass(node, before)
    if rule == "identity":
        return direct
    keep = slope != 0
    if not keep.all() and can_cut(traced, conv, ends):
        if not keep.any():
            if cut_branch(traced, ends, shift):
                return []
            keep[(g.mean / g.std.clamp_min(1e-12)).argmax()] = True
            line = RULES["affine" if rule == "on_off_affine" else "identity"](g, f)
            slope, shift = (torch.where(keep, a, b) for a, b in zip(line, (slope, shift)))
        cut(traced, conv, norm, ends, keep, shift)
        slope, shift, keep = slope[keep], shift[keep], keep[keep]
    if not (keep.all() and scale(traced, conv, norm, slope, shift)):
        name = f"{node.target}_affine"
        put_module(traced, name, Affine(slope, shift, dim, learn=rule != "on_off"))
        with traced.graph.inserting_after(before):
            new = traced.graph.call_module(name, (before,))
        before.replace_all_uses_with(new, lambda user: user is not new)
    return direct


def _remove_as_published(traced: fx.GraphModule, node: fx.Node, g: Gaussian) -> None:
    norm = last_norm(traced, node)
    with torch.no_grad():
        norm.weight[~g.on] = 0
        norm.bias[~g.on] = 0
    bypass(node, node.args[0])
