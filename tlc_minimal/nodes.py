"""Questions to a traced graph: what a node is, calls and feeds. Its edits: :mod:`edits`."""

import difflib
import operator

import torch
from torch import fx, nn

from .reading.layers import ACTIVATION, CONV, passes
from .reading.refuse import check_names, quoted

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


def find_nodes(traced: fx.GraphModule, names) -> dict[str, fx.Node]:
    """{name: node} of the activations of these names, one or several, in forward order.
    ValueError, with the closest name, for one that there is not; TypeError for what is no name."""
    nodes, names = activation_nodes(traced), check_names(names)
    for name in names:
        if name not in nodes:
            close, there = difflib.get_close_matches(name, nodes, 1), ", ".join(nodes) or "none"
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {there}."
            raise ValueError(f"there is no activation {quoted(name)} in this model; {hint}")
    return {name: node for name, node in nodes.items() if name in names}


def is_sum(node) -> bool:
    """Whether a node adds two tensors (and does not scale one: torch.add's alpha)."""
    sums = isinstance(node, fx.Node) and node.target in SUM and not node.kwargs
    return sums and len(node.args) == 2 == len(node.all_input_nodes)


def calls(traced: fx.GraphModule, node: fx.Node) -> int:
    """How often the module of ``node`` is called."""
    return len(traced.graph.find_nodes(op="call_module", target=node.target))


def only_user(node: fx.Node | None) -> fx.Node | None:
    """The one node that uses ``node``; None if there are several (or no node)."""
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def is_private(traced: fx.GraphModule, node, kinds=CONV) -> bool:
    """Whether a node calls a module of these kinds that is called once and feeds one node only."""
    alone = isinstance(module_of(traced, node), kinds) and only_user(node) is not None
    return alone and calls(traced, node) == 1


def looked_through(traced: fx.GraphModule, node):
    """What ``node`` is in a network in eval mode, where dropout passes everything."""
    while passes(module_of(traced, node)):
        node = node.args[0]
    return node


def is_fixed(node: fx.Node) -> bool:
    """Whether a node is the same for every input: a parameter, or made of such by functions."""
    inputs = node.all_input_nodes if node.op in ("call_function", "call_method") else ()
    return node.op == "get_attr" or bool(inputs) and all(map(is_fixed, inputs))
