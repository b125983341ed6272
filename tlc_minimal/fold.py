"""Folds what is affine per channel into the convolutions around it: exact, and it always pays."""

import torch
from torch import Tensor, fx, nn

from . import kernels
from .graph import trace
from .kernels import Conv
from .modules import Affine, Ones, ScaledSum
from .nodes import (
    CONV,
    DROPOUT,
    NORM,
    bypass,
    calls,
    channel_dim,
    finish,
    is_padded,
    is_sum,
    module_of,
    normalizes,
    only_user,
    put_module,
    resize,
)
from .refuse import check_plain


def fold(model: nn.Module) -> fx.GraphModule:
    """A copy of ``model`` (eval mode) whose batch norms and affine maps are inside convolutions.

    ValueError for a batch norm in training mode or without running statistics, and for what
    :func:`tlc_minimal.refuse.check_plain` refuses.
    """
    check_plain(model)
    traced = trace(model)
    fold_affine(traced)
    fold_sums(traced)
    return finish(traced)


def fold_affine(traced: fx.GraphModule) -> None:
    """Fold every batch norm and affine map into the convolution (or both branches of the sum) in
    front of it, or into the one behind it; drop what does nothing in eval mode."""
    for node in list(traced.graph.nodes):
        module, before = module_of(traced, node), node.args[0] if node.args else None
        if isinstance(module, nn.Identity) or isinstance(module, DROPOUT) and not module.training:
            bypass(node, before)
        elif isinstance(module, Ones) and is_private(traced, before):
            if (value := _weights(traced, before)).groups == 1:
                _set(module_of(traced, before), kernels.append_ones(value))
                bypass(node, before)
        elif isinstance(module, NORM + (Affine,)) and _fold_one(traced, node, before):
            bypass(node, before)


def fold_sums(traced: fx.GraphModule) -> None:
    """Let a residual sum and the affine map behind it be one step; the last thing to do."""
    for node in list(traced.graph.nodes):
        module, total = module_of(traced, node), node.args[0] if node.args else None
        if not isinstance(module, Affine) or module.slope is None or not is_sum(total):
            continue
        branch = next((n for n in total.all_input_nodes if is_private(traced, n)), None)
        if branch is None or only_user(total) is None or channel_dim(traced, total) != 1:
            continue
        slope, shift = slope_and_shift(module)
        _scale_output(traced, branch, slope, shift)
        other = next(n for n in total.all_input_nodes if n is not branch)
        put_module(traced, node.target, ScaledSum(slope))
        node.args = (branch, other)
        traced.graph.erase_node(total)


def slope_and_shift(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Of a batch norm on running statistics or an Affine; both (channels,)."""
    if isinstance(module, NORM):
        return kernels.batch_norm_affine(module)
    shift = module.shift.detach()
    if module.slope is None:
        return torch.ones_like(shift), shift
    return (module.slope * module.on).detach(), shift


def is_private(traced: fx.GraphModule, node) -> bool:
    """A convolution that feeds one node only and is called once."""
    alone = isinstance(module_of(traced, node), CONV) and only_user(node) is not None
    return alone and calls(traced, node) == 1


def _fold_one(traced: fx.GraphModule, node: fx.Node, before: fx.Node) -> bool:
    try:
        slope, shift = slope_and_shift(module_of(traced, node))
    except ValueError as error:
        raise ValueError(f"{node.target}: {error}") from error
    if is_private(traced, before) and _same_channels(traced, node, before):
        _scale_output(traced, before, slope, shift)
        return True
    earlier, axis = module_of(traced, before), getattr(module_of(traced, node), "dim", 1)
    alone = only_user(before) is not None and calls(traced, node) == 1
    if isinstance(earlier, Affine) and earlier.dim == axis and alone:
        was = slope_and_shift(earlier)
        put_module(traced, node.target, Affine(slope * was[0], slope * was[1] + shift, axis))
        node.args = before.args
        return _fold_one(traced, node, node.args[0])
    branches = before.all_input_nodes if is_sum(before) and only_user(before) else []
    private = [b for b in branches if is_private(traced, b) and _same_channels(traced, node, b)]
    if private and (len(private) == 2 or (slope == 1).all()):  # a shift alone: one branch will do
        for branch, part in zip(private, (shift, torch.zeros_like(shift))):
            _scale_output(traced, branch, slope, part)
        return True
    after = only_user(node)
    conv = module_of(traced, after)
    if not isinstance(conv, CONV) or calls(traced, after) > 1 or is_padded(conv) and shift.any():
        return False
    takes = conv.weight.shape[1] * getattr(conv, "groups", 1)
    if isinstance(conv, nn.Linear) != (axis == -1) or takes != len(shift):
        return False
    _set(conv, kernels.scale_input(_weights(traced, after), slope, shift))
    return True


def _same_channels(traced: fx.GraphModule, affine: fx.Node, conv: fx.Node) -> bool:
    """Whether an affine map acts on the channels that the convolution makes."""
    if isinstance(module_of(traced, affine), NORM):
        return normalizes(traced, affine, conv)
    return (module_of(traced, affine).dim == -1) == isinstance(module_of(traced, conv), nn.Linear)


def _weights(traced: fx.GraphModule, node: fx.Node) -> Conv:
    """Weight, bias and groups of a convolution: all that an affine map per channel touches."""
    module = module_of(traced, node)
    weight = module.weight.detach()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
    return Conv(weight, bias, groups=getattr(module, "groups", 1))


def _scale_output(traced: fx.GraphModule, node: fx.Node, slope: Tensor, shift: Tensor) -> None:
    _set(module_of(traced, node), kernels.scale_output(_weights(traced, node), slope, shift))


def _set(module: nn.Module, conv: Conv) -> None:
    module.weight, module.bias = nn.Parameter(conv.weight), nn.Parameter(conv.bias)
    resize(module)
