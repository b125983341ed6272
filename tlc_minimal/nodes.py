"""Questions to a traced graph and small edits of it: what a node calls and feeds; put, bypass."""

import operator

import torch
from torch import fx, nn

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ACTIVATION = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
SUM = {operator.add, torch.add, "add"}  # those in place are rewritten by trace


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
        if isinstance(module, NORM) and normalizes(traced, node, node.args[0]):
            continue  # its channels are those of the layer in front of it
        if isinstance(module, CONV + NORM):
            return 1
    return 1


def normalizes(traced: fx.GraphModule, norm: fx.Node, conv: fx.Node) -> bool:
    """Whether the channels of a batch norm are those of the layer in front of it. Behind a Linear
    they need not be: on (N, tokens, features) a BatchNorm1d takes the tokens as its channels."""
    layer, features = module_of(traced, conv), module_of(traced, norm).num_features
    if not isinstance(layer, nn.Linear):
        return isinstance(layer, CONV)
    meta = norm.meta.get("tensor_meta")  # there once the shapes were found
    return features == layer.out_features and (meta is None or len(meta.shape) == 2)


def is_padded(conv: nn.Module) -> bool:
    """Whether a convolution puts zeros around its input."""
    padding = getattr(conv, "padding", 0)
    if getattr(conv, "padding_mode", "zeros") != "zeros":
        return False
    if isinstance(padding, str):
        return padding == "same" and any(k > 1 for k in conv.kernel_size)
    return padding != 0 and any(padding)


def resize(conv: nn.Module) -> None:
    """Let a convolution whose weight was replaced say the right numbers of channels."""
    out, per_group = conv.weight.shape[:2]
    unit = "features" if isinstance(conv, nn.Linear) else "channels"
    setattr(conv, f"out_{unit}", out)
    setattr(conv, f"in_{unit}", per_group * getattr(conv, "groups", 1))


def bypass(node: fx.Node, replacement: fx.Node) -> None:
    """Let all users of ``node`` use ``replacement`` instead, and erase ``node``."""
    node.replace_all_uses_with(replacement)
    node.graph.erase_node(node)


def insert_after(traced: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> fx.Node:
    """Let all users of ``node`` use ``module``, called on it, instead; returns the new node."""
    put_module(traced, name, module)
    with traced.graph.inserting_after(node):
        new = traced.graph.call_module(name, (node,))
    node.replace_all_uses_with(new, lambda user: user is not new)
    return new


def finish(traced: fx.GraphModule) -> fx.GraphModule:
    """Drop what nothing uses any more, check the graph and generate its code."""
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()
    return traced
