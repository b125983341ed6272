"""Edits of a traced graph: put, bypass, insert, replace, finish."""

from torch import fx, nn


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
    order; nothing but their last one leads out), learning if one of them does; returns its node."""
    module.requires_grad_(any(p.requires_grad for p in alone(traced, source, nodes).parameters()))
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
    new.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})  # it is in the same block
    node.replace_all_uses_with(new, lambda user: user is not new)
    return new


def finish(traced: fx.GraphModule) -> fx.GraphModule:
    """Drop what nothing uses any more, check the graph and generate its code."""
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()
    return traced
