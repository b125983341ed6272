"""Where channels are, and what happens to each on its own: y = slope * x + shift."""

import torch
from torch import Tensor, fx, nn

from .edits import bypass, resize
from .modules import Affine
from .nodes import calls, is_fixed, is_private, is_sum, module_of, only_user
from .reading.axes import moved, shape_of
from .reading.layers import CONV, NORM

MAP = (*NORM, Affine)  # slope * x + shift, per channel
PER_CHANNEL = ("weight", "bias", "running_mean", "running_var", "slope", "shift", "on")


def channel_dim(traced: fx.GraphModule, node: fx.Node) -> int | None:
    """Where the channels are that ``node`` takes: :func:`made_dim` of its first input that is made
    of the network's; None if only shapes, which are not known, could tell."""
    inputs = [n for n in node.all_input_nodes if not is_fixed(n)] or node.all_input_nodes
    inputs.sort(key=lambda n: n.op == "placeholder")  # which says least
    return made_dim(traced, inputs[0]) if inputs else 1


def made_dim(traced: fx.GraphModule, node: fx.Node) -> int | None:
    """Where the channels are behind ``node``: -1 (Linear, LayerNorm, Embedding) or 1, or moved."""
    module = module_of(traced, node)
    shape = getattr(module, "normalized_shape", ())
    if isinstance(module, nn.Linear | nn.Embedding) or len(shape) == 1:
        return -1
    tokens = isinstance(module, NORM) and not normalizes(traced, node, node.args[0])
    if isinstance(module, CONV) or tokens:
        return 1
    return moved(node, channel_dim(traced, node))


def normalizes(traced: fx.GraphModule, norm: fx.Node, conv: fx.Node) -> bool:
    """Whether the channels of a batch norm are those of the layer in front of it. Behind a Linear
    they need not be: on (N, tokens, features) a BatchNorm1d takes the tokens as its channels."""
    layer, features = module_of(traced, conv), module_of(traced, norm).num_features
    if not isinstance(layer, nn.Linear):
        return isinstance(layer, CONV)
    return features == layer.out_features and len(shape_of(norm) or (0, 0)) == 2


def slope_and_shift(module: nn.Module) -> tuple[Tensor, Tensor]:
    """What an Affine or a batch norm on running statistics does to its channels: both (channels,),
    float64. ValueError for a batch norm in training mode."""
    if isinstance(module, Affine):
        shift = module.shift.detach().double()
        on = shift.new_ones(len(shift)) if module.slope is None else module.slope * module.on
        return on.detach().double(), shift
    if module.training:
        raise ValueError("a batch norm in training mode cannot be folded: call model.eval() first.")
    slope = (module.running_var.double() + module.eps).rsqrt()
    if module.weight is not None:
        slope = slope * module.weight.detach().double()
    shift = -module.running_mean.double() * slope
    return slope, shift if module.bias is None else shift + module.bias.detach().double()


def aligned(node: fx.Node, one: nn.Module, other: nn.Module) -> bool:
    """Whether the batch norm or Affine ``one`` of ``node`` maps the channels of ``other``: along
    the last axis of a Linear, else along axis 1; on a matrix the two are the same."""
    one, other = (-1 if isinstance(m, nn.Linear) else getattr(m, "dim", 1) for m in (one, other))
    return one == other in (1, -1) or one * other == -1 and len(shape_of(node) or ()) == 2


def scale(module: nn.Module, slope: Tensor, shift: Tensor) -> None:
    """Put y → slope * y + shift, both (channels,), into the layer, batch norm (with weights) or
    Affine that makes y. Whether it learns stays as it was."""
    if isinstance(module, Affine):
        if module.slope is None:
            module.slope = nn.Parameter(torch.ones_like(module.shift), module.shift.requires_grad)
            module.on = torch.ones_like(module.shift)
        gain, offset = module.slope, module.shift
    else:
        gain, offset = module.weight, module.bias
    slope, shift = (v.to(gain.device, torch.float64) for v in (slope, shift))
    if offset is not None:
        offset.data = (slope * offset.detach() + shift).to(offset)
    elif shift.any():
        module.bias = nn.Parameter(shift.to(gain), gain.requires_grad)
    gain.data = (gain.detach() * slope.reshape(-1, *[1] * (gain.ndim - 1))).to(gain)


def absorb(traced: fx.GraphModule, node: fx.Node) -> None:
    """Let what makes the input of a batch norm or Affine take it in, and the node go: a layer,
    batch norm or Affine that feeds nothing else, or both branches of a sum (a shift: one of them).
    Nothing happens if they cannot. Errors as in :func:`slope_and_shift`."""
    module, before = module_of(traced, node), node.args[0]
    slope, shift = slope_and_shift(module)
    makers = before.all_input_nodes if is_sum(before) and only_user(before) else [before]
    fit = []
    for maker in makers:
        made = module_of(traced, maker)
        gain = made.shift if isinstance(made, Affine) else getattr(made, "weight", None)
        if gain is None or not is_private(traced, maker, CONV + MAP) or len(gain) != len(slope):
            continue
        takes = aligned(node, module, made)
        takes |= isinstance(module, Affine) and module.dim == made_dim(traced, maker)
        fit += [made] * takes
    if fit and (len(fit) == len(makers) or (slope == 1).all()):
        for made, part in zip(fit, (shift, 0 * shift)):
            scale(made, slope, part)
        bypass(node, before)


def add_bias(traced: fx.GraphModule, node: fx.Node, bias: Tensor) -> None:
    """Add to a layer's output: in its bias, or, if it has none, in the mean that the batch norm
    behind it takes away."""
    conv, behind = module_of(traced, node), only_user(node)
    norm = module_of(traced, behind)
    known = isinstance(norm, NORM) and calls(traced, behind) == 1
    if conv.bias is None and known and normalizes(traced, behind, node):
        norm.running_mean = norm.running_mean - bias
    else:
        scale(conv, torch.ones_like(bias), bias)


def thin(module: nn.Module, keep: Tensor) -> None:
    """Leave a layer (dense or depthwise), batch norm or Affine the output channels in ``keep``."""
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if key in PER_CHANNEL:
            tensor.data = tensor.data[keep]
    if isinstance(module, CONV):
        if getattr(module, "groups", 1) > 1:
            module.groups = len(module.weight)
        resize(module)
    elif hasattr(module, "num_features"):  # an instance norm's, too
        module.num_features = int(keep.sum())
