"""Takes activations out: OFF channels are cut, ON channels become linear, padding moves forward.

What replaces an activation is one slope and one shift per channel (``RULES``), an ``Affine``, which
the layer in front takes in if it feeds nothing else.
"""

import torch
from torch import Tensor, fx, nn

from .channels import absorb, channel_dim
from .cut import cut, cut_branch, is_cuttable, producer
from .edits import bypass, finish, put_module
from .gaussian import Gaussian, best_affine
from .graph import editable, example_of, find_shapes
from .modules import Affine
from .nodes import SUM, find_nodes, module_of, only_user
from .padding import move_padding
from .reading.axes import shape_of
from .reading.layers import ACTIVATION, CONV, NORM, unused
from .refuse import check_known
from .statistics import statistics


def on_off(g: Gaussian, f) -> tuple[Tensor, Tensor]:
    """The paper's rule (TLC, section 3.3): OFF becomes 0, ON becomes the identity."""
    slope = g.on.to(g.mean.dtype)
    return slope, torch.zeros_like(slope)


def affine(g: Gaussian, f) -> tuple[Tensor, Tensor]:
    """Every channel becomes its best affine map (lesson 02); nothing is cut."""
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
    model: nn.Module, names, data, rule: str = "on_off_affine", padding: str = "as_trained"
) -> fx.GraphModule:
    """A copy of ``model`` in which the activations ``names`` (one or several) are linear.

    ``data``: inputs to measure statistics on (tensor, DataLoader or Data), or ready statistics as
    ``{name: Gaussian}`` (they tell no shapes: a BatchNorm1d behind a Linear is then on features,
    and what a sum adds is of one size). ``rule``: a name in ``RULES``, or ``"thrifty"``:
    ``on_off_affine`` where OFF channels can be cut and ``affine`` where they cannot.

    ``padding="as_trained"`` (default): the result is ``model`` with slope * z + shift in the place
    of each activation and nothing else changed, border included. ``"first"``: all padding of a
    chain that has become linear moves to its first convolution, which changes the border a little
    now, before tuning, so that the chain can later be *one* convolution everywhere. It is not the
    default: on maps of 2 to 16 pixels it costs more than merging brings (records bench_*).

    OFF channels are cut out of the convolutions on both sides, so that no tuning brings them back;
    their constants become a bias, or where zero padding follows one channel of ones. On a residual
    stream and in front of grouped convolutions no channel can be cut: a fixed mask stays (Affine).
    An all-OFF branch of a residual block disappears into its constant. Without a residual path the
    channel closest to ON is kept, as nothing would get through otherwise. On attention's scores a
    ReLU gets a line a token: the result takes as many tokens as ``data`` has.
    ValueError for an unknown name or rule, a layer whose weights are used twice, a model with
    hooks, quantised or half-precision CPU weights.
    """
    check_rule(rule, padding)
    ready = isinstance(data, dict)
    traced = editable(model, None if ready else data)
    nodes = find_nodes(traced, names)
    gaussians = data if ready else statistics(model, data, names)
    if not ready:
        find_shapes(traced, example_of(data, traced)[:2])
    # In forward order: cutting behind a depthwise convolution also cuts what is in front of it.
    for name, node in nodes.items():
        check_gaussian(name, gaussians)
        _remove(traced, node, gaussians[name], rule, padding)
        traced.graph.eliminate_dead_code()
    return finish(traced)


def _remove(traced: fx.GraphModule, node: fx.Node, g: Gaussian, rule: str, padding: str) -> None:
    module, before, rule = module_of(traced, node), node.args[0], rule_at(traced, node, rule)
    if (dim := channel_dim(traced, node)) is None and (dim := g.dim) is None:
        raise ValueError(f"only inputs tell where the channels of {node.target} are: give them.")
    f, (slope, shift) = function_of(module), line_at(traced, node, g, rule)
    maker = module_of(traced, producer(traced, before))  # refuses a layer that is called twice
    like = next(traced.parameters(), g.mean) if maker is None else maker.weight
    if (count := _channels(traced, before) or len(slope)) != len(slope):
        text = f"statistics of {node.target} are of {len(slope)} channels, and it has {count} now"
        raise ValueError(f"the {text}: take the statistics of this model.")
    put_module(traced, node.target, nn.Identity())
    if padding == "first" and isinstance(module_of(traced, only_user(node)), CONV):
        move_padding(traced, only_user(node))
    keep = (slope != 0) | (rule == "affine")
    if not keep.any():
        if cut_branch(traced, node, shift):
            return
        keep[(g.mean / g.std.clamp_min(1e-12)).argmax()] = True  # else nothing would get through
        a, b = RULES["affine" if rule == "on_off_affine" else "identity"](g, f)
        slope, shift = torch.where(keep, a, slope), torch.where(keep, b, shift)
    if not keep.all() and cut(traced, node, keep, shift):
        slope, shift = slope[keep], shift[keep]
    if (slope == 1).all() and not shift.any():
        bypass(node, before)
        return
    node.target = unused(traced, f"{node.target}_affine")
    affine = Affine(slope.to(like), shift.to(like), dim, learn=rule != "on_off")
    put_module(traced, node.target, affine)
    if (slope != 0).all() and isinstance(module_of(traced, before), CONV + NORM):
        absorb(traced, node)


def check_gaussian(name: str, gaussians: dict) -> None:
    """ValueError if there are no statistics of an activation, or they are not finite."""
    g = gaussians.get(name)
    if not isinstance(g, Gaussian):
        there = ", ".join(map(str, list(gaussians)[:5])) or "none"
        raise ValueError(f"there are no statistics (a Gaussian) of {name}; there are: {there}.")
    parts = [v for v in (g.mean, g.std) if isinstance(v, Tensor) and v.is_floating_point()]
    if [v.ndim for v in parts] != [1, 1] or len(g.mean) != len(g.std):
        raise ValueError(f"mean and std of {name} are floats (channels,), a tensor each.")
    if not (g.mean.isfinite().all() and g.std.isfinite().all() and (g.std >= 0).all()):
        raise ValueError(f"the statistics of {name} hold NaN, inf or a negative spread.")


def check_rule(rule: str, padding: str = "as_trained") -> None:
    """ValueError that names what there is, if ``rule`` or ``padding`` is nothing known."""
    check_known("padding", padding, ("first", "as_trained"))
    check_known("rule", rule, (*RULES, "thrifty"))


def rule_at(traced: fx.GraphModule, node: fx.Node, rule: str) -> str:
    """The rule in ``RULES`` that ``rule`` means at this activation."""
    if rule != "thrifty":
        return rule
    return "on_off_affine" if is_cuttable(traced, node) else "affine"


def line_at(traced: fx.GraphModule, node: fx.Node, g: Gaussian, rule: str) -> tuple[Tensor, Tensor]:
    """(slope, shift), each (channels,), that ``rule`` gives an activation whose input is ``g``.
    ValueError for a PReLU along another axis than the channels'."""
    own = getattr(module_of(traced, node), "num_parameters", 1)  # along axis 1
    matrix = len(shape_of(node) or (0, 0)) == 2
    if own > 1 and (own != len(g.mean) or channel_dim(traced, node) != 1 and not matrix):
        raise ValueError(f"{node.target} has {own} slopes, along another axis than its channels.")
    return RULES[rule_at(traced, node, rule)](g, function_of(module_of(traced, node)))


def function_of(module: nn.Module):
    """The function to integrate, channels first; torch.relu has a closed form (:mod:`gaussian`)."""
    if isinstance(module, nn.PReLU):
        slope = module.weight.detach()
        return lambda z: torch.where(z > 0, z, slope.to(z).view(-1, *[1] * (z.ndim - 1)) * z)
    return torch.relu if type(module) is nn.ReLU else module


def _channels(traced: fx.GraphModule, node: fx.Node) -> int:
    """How many channels a node has, as far as the layers that make it agree; 0 if they do not."""
    made = module_of(traced, node)
    if isinstance(made, (*CONV, *NORM, Affine)):
        return len(next(iter(made.state_dict().values()), ()))
    through = node.all_input_nodes if isinstance(made, ACTIVATION) or node.target in SUM else ()
    counts = {_channels(traced, maker) for maker in through}
    return counts.pop() if len(counts) == 1 else 0
