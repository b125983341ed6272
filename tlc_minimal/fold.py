"""Folds what is a map per channel into the layers around it: exact, and it always pays."""

import torch
from torch import fx, nn

from .channels import MAP, absorb, aligned, scale, slope_and_shift
from .edits import bypass, finish, put_module, replace, resize
from .graph import editable, find_shapes
from .modules import Affine, Ones, ScaledSum
from .nodes import calls, is_fixed, is_private, is_sum, module_of, only_user
from .piece import extract, obstacle, read
from .reading.layers import CONV, passes


def fold(model: nn.Module, example=None) -> fx.GraphModule:
    """A copy of ``model`` (eval mode) whose batch norms and affine maps are inside its layers.

    ``example``: an input, needed by models that ask for its shape, and to fold a batch norm beside
    a linear layer. Tune before: no mask of OFF channels is left.
    A batch norm without running statistics stays. ValueError for one in training mode, and for
    what :func:`reading.refuse.check_plain` refuses.
    """
    traced = editable(model, example)
    if example is not None:
        find_shapes(traced, example)
    fold_maps(traced)
    fold_sums(traced)
    return finish(traced)


def fold_maps(traced: fx.GraphModule) -> None:
    """Put every batch norm, Affine and carrier of ones into the layer (or both branches of the sum)
    in front of it, else into the layer behind it; drop what does nothing in eval mode."""
    for node in list(traced.graph.nodes):
        module, before = module_of(traced, node), node.args[0] if node.args else None
        if passes(module):
            bypass(node, before)
        elif isinstance(module, Ones) and is_private(traced, before):
            append_ones(traced, node)
        elif isinstance(module, MAP):
            try:
                absorb(traced, node)
            except ValueError as error:
                raise ValueError(f"{node.target}: {error}") from error
    for node in list(traced.graph.nodes):
        behind = only_user(node)
        layer = module_of(traced, behind)
        if not isinstance(module_of(traced, node), MAP) or not isinstance(layer, CONV):
            continue
        f = extract(traced, node.args[0], (node, behind))
        if calls(traced, behind) == 1 and not obstacle(f):
            replace(traced, f.nodes, f.source, behind.target, read(f).to(layer.weight))


def append_ones(traced: fx.GraphModule, node: fx.Node) -> None:
    """Let the convolution in front of a carrier of ones make them: a row of zeros with bias 1."""
    conv = module_of(traced, node.args[0])
    if isinstance(conv, nn.Linear) or conv.groups > 1:
        return
    weight, learns = conv.weight.detach(), conv.weight.requires_grad
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
    conv.weight = nn.Parameter(torch.cat([weight, weight.new_zeros(1, *weight.shape[1:])]), learns)
    conv.bias = nn.Parameter(torch.cat([bias, bias.new_ones(1)]), learns)
    resize(conv)
    node.args[0].meta["tensor_meta"] = node.meta.get("tensor_meta")
    bypass(node, node.args[0])


def fold_sums(traced: fx.GraphModule) -> None:
    """Let a residual sum and the Affine behind it be one step; the last thing to do."""
    for node in list(traced.graph.nodes):
        module, total = module_of(traced, node), node.args[0] if node.args else None
        if not isinstance(module, Affine) or module.slope is None or not is_sum(total):
            continue
        private = [n for n in total.all_input_nodes if is_private(traced, n)]
        branch = next((n for n in private if aligned(node, module, module_of(traced, n))), None)
        other = next(n for n in total.all_input_nodes if n is not branch)
        if branch is None or is_fixed(other) or only_user(total) is None or module.dim != 1:
            continue
        slope, shift = slope_and_shift(module)
        scale(module_of(traced, branch), slope, shift)
        one = ScaledSum(slope.to(module.slope)).requires_grad_(module.slope.requires_grad)
        put_module(traced, node.target, one)
        node.args = (branch, other)
        traced.graph.erase_node(total)
