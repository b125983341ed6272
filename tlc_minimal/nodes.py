"""Questions to a traced graph and small edits of it: what a node calls and feeds; put, bypass."""

import operator

import torch
from torch import Tensor, fx, nn

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ACTIVATION = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish)
SUM = {operator.add, operator.iadd, torch.add, "add", "add_"}


class Affine(nn.Module):
    """slope * x + shift per channel: what is left of an activation that nothing can absorb yet.

    ``slope`` and ``shift`` have shape (channels,), or slope is None for x + shift. Channels whose
    slope is 0 are OFF: a mask, not a parameter, so that no tuning brings them back. ``learn=False``
    freezes everything (the paper's rule: 0 or identity).
    """

    def __init__(self, slope: Tensor | None, shift: Tensor, dim: int = 1, learn: bool = True):
        super().__init__()
        self.dim = dim
        self.shift = nn.Parameter(shift.clone(), requires_grad=learn)
        self.slope = None if slope is None else nn.Parameter(slope.clone(), requires_grad=learn)
        self.register_buffer("on", None if slope is None else (slope != 0).to(slope.dtype))

    def forward(self, x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[self.dim] = -1
        if self.slope is not None:
            x = x * (self.slope * self.on).reshape(shape)
        return x + self.shift.reshape(shape)


def module_of(traced: fx.GraphModule, node) -> nn.Module | None:
    """The module that a node calls; None for anything but a module call."""
    called = isinstance(node, fx.Node) and node.op == "call_module"
    return traced.get_submodule(node.target) if called else None


def put_module(traced: fx.GraphModule, name: str, module: nn.Module) -> None:
    """Set (or replace) the submodule ``name``; it takes on the model's train or eval mode."""
    module.train(traced.training)
    traced.add_submodule(name, module)


def activation_nodes(traced: fx.GraphModule) -> dict[str, fx.Node]:
    """{name: node} of the removable activations in forward order."""
    nodes = traced.graph.nodes
    return {n.target: n for n in nodes if isinstance(module_of(traced, n), ACTIVATION)}


def is_sum(node) -> bool:
    """Whether a node adds two tensors (and does not scale one: torch.add's alpha)."""
    sums = isinstance(node, fx.Node) and node.target in SUM and not node.kwargs
    return sums and len(node.args) == 2 == len(node.all_input_nodes)


def calls(traced: fx.GraphModule, node: fx.Node) -> int:
    """How often the module of ``node`` is called."""
    return sum(n.op == "call_module" and n.target == node.target for n in traced.graph.nodes)


def only_user(node: fx.Node | None) -> fx.Node | None:
    """The one node that uses ``node``; None if there are several (or no node)."""
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def channel_dim(traced: fx.GraphModule, node: fx.Node) -> int:
    """Where the channels are: -1 behind a Linear or LayerNorm (features last), else 1."""
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
        module = module_of(traced, node)
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            return -1
        if isinstance(module, CONV + NORM):
            return 1
    return 1


def bypass(node: fx.Node, replacement: fx.Node) -> None:
    """Let all users of ``node`` use ``replacement`` instead, and erase ``node``."""
    node.replace_all_uses_with(replacement)
    node.graph.erase_node(node)


def finish(traced: fx.GraphModule) -> fx.GraphModule:
    """Drop what nothing uses any more, check the graph and generate its code."""
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()
    return traced
