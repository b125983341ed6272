"""Questions to a traced graph, and its edits: what a node calls and feeds; put, bypass, replace."""

import operator

import torch
from torch import fx, nn

from .modules import Affine
from .reading.axes import moved, shape_of
from .reading.layers import ACTIVATION, CONV, DROPOUT, NORM, passes

MAP = (*NORM, Affine)  # slope * x + shift, per channel
SUM = {operator.add, torch.add, "add"}  # those in place are rewritten by trace


def module_of(traced: fx.GraphModule, node) -> nn.Module | None:
    """The module that a node calls; None for anything but a module call."""
    called = isinstance(node, fx.Node) and node.op == "call_module"
    return traced.get_submodule(node.target) if called else None


def name_of(node: fx.Node) -> str:
    """What a reader knows a node by."""
    ends = {"placeholder": "the input", "output": "the output"}
    name = str(node.target) if node.op == "call_module" else node.name
    return ends.get(node.op, "a sum" if is_sum(node) else name)


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


def is_private(traced: fx.GraphModule, node, kinds=CONV) -> bool:
    """Whether a node calls a module of these kinds that is called once and feeds one node only."""
    alone = isinstance(module_of(traced, node), kinds) and only_user(node) is not None
    return alone and calls(traced, node) == 1


def looked_through(traced: fx.GraphModule, node):
    """What ``node`` is in eval mode: dropout passes everything."""
    while isinstance(m := module_of(traced, node), DROPOUT) or passes(m):
        node = node.args[0]
    return node


def channel_dim(traced: fx.GraphModule, node: fx.Node) -> int:
    """Where the channels are that ``node`` takes: :func:`made_dim` of its first input that is made
    of the network's."""
    inputs = [n for n in node.all_input_nodes if not is_fixed(n)] or node.all_input_nodes
    return made_dim(traced, inputs[0]) if inputs else 1


def is_fixed(node: fx.Node) -> bool:
    """Whether a node is the same for every input: a parameter, or made of such by functions."""
    inputs = node.all_input_nodes if node.op in ("call_function", "call_method") else ()
    return node.op == "get_attr" or bool(inputs) and all(map(is_fixed, inputs))


def made_dim(traced: fx.GraphModule, node: fx.Node) -> int:
    """Where the channels are that ``node`` makes: -1 (Linear, LayerNorm) or 1, moved by views."""
    module = module_of(traced, node)
    if isinstance(module, (nn.Linear, nn.LayerNorm)):
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


def is_padded(conv: nn.Module) -> bool:
    """Whether a convolution puts zeros around its input."""
    zeros = getattr(conv, "padding_mode", "") == "zeros"
    return zeros and any(width(conv) if conv.padding == "same" else left_padding(conv))


def keeps_size(conv: nn.Module) -> bool:
    """Whether the output of a convolution is as large as its input."""
    parts = zip(left_padding(conv), width(conv), conv.stride)
    return conv.padding == "same" or all(2 * p == w and s == 1 for p, w, s in parts)


def width(conv: nn.Module) -> list[int]:
    """Pixels from the first to the last tap of a convolution, along each dimension."""
    return [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]


def left_padding(conv: nn.Module) -> list[int]:
    """Zeros in front of the first pixel, along each dimension."""
    same = {"same": [w // 2 for w in width(conv)], "valid": [0] * len(conv.stride)}
    return same.get(conv.padding) or list(conv.padding)


def alone(traced: fx.GraphModule, source: fx.Node, nodes) -> fx.GraphModule:
    """The nodes behind ``source``, in forward order, as a module of their own."""
    graph = fx.Graph()
    copies = {source: graph.placeholder("x")}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[nodes[-1] if nodes else source])
    return fx.GraphModule(traced, graph)


def put_module(traced: fx.GraphModule, name: str, module: nn.Module) -> None:
    """Set (or replace) the submodule ``name``; it takes on the model's train or eval mode."""
    module.train(traced.training)
    traced.add_submodule(name, module)


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


def replace(traced: fx.GraphModule, nodes, source: fx.Node, name: str, module) -> fx.Node:
    """Put ``module``, called ``name``, on ``source`` in the place of all of ``nodes`` (in forward
    order; nothing but their last one leads out); returns its node."""
    new = insert_after(traced, nodes[-1], name, module)
    new.args, new.meta = (source,), dict(nodes[-1].meta)
    for node in reversed(nodes):
        traced.graph.erase_node(node)
    return new


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
