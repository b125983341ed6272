"""Linear segments: which layers hang together with nothing but linear maps between, and why two
neighbouring convolutions of a segment cannot be one."""

from torch import fx, nn

from . import kernels
from .modules import LEAVES, Bordered
from .nodes import CONV, DROPOUT, NORM, calls, is_sum, module_of, only_user

LINEAR = CONV + NORM + LEAVES + (nn.Identity, *DROPOUT)


def segments(traced: fx.GraphModule) -> list[list[fx.Node]]:
    """The nodes of every linear segment in forward order, for those that hold a convolution."""
    group = {}
    for node in traced.graph.nodes:
        if not _is_linear(traced, node):
            continue
        group[node] = [node]
        for before in node.all_input_nodes:
            if before in group and group[before] is not group[node]:
                merged = group[before] + group[node]
                group.update((member, merged) for member in merged)
    found = {id(nodes): nodes for nodes in group.values()}.values()
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    found = [sorted(nodes, key=order.get) for nodes in found]
    found = [nodes for nodes in found if convolutions(traced, nodes)]
    return sorted(found, key=lambda nodes: order[nodes[0]])


def convolutions(traced: fx.GraphModule, nodes: list[fx.Node]) -> list[fx.Node]:
    """Those of the nodes that are convolutions or linear layers (or both at once: Bordered)."""
    return [n for n in nodes if isinstance(module_of(traced, n), (*CONV, Bordered))]


def obstacle(traced: fx.GraphModule, second: fx.Node) -> str | None:
    """Why the convolution ``second`` and the one directly in front of it are not one: a reason for
    people, empty if they can be, None if there is no convolution in front."""
    first = second.args[0] if second.args else None
    pair = [(node, module_of(traced, node)) for node in (first, second)]
    if not all(isinstance(module, CONV) for _, module in pair):
        return None
    for node, module in pair:
        if calls(traced, node) > 1:
            return f"{node.target} is called more than once"
        if reason := kernels.obstacle(module):
            return f"{node.target} {reason}"
    if only_user(first) is None:
        return f"{first.target} feeds {', '.join(str(user.target) for user in first.users)}"
    if pair[0][1].weight.ndim != pair[1][1].weight.ndim:
        return "one is a convolution, the other a linear layer"
    return ""


def why_apart(traced: fx.GraphModule, node: fx.Node) -> str:
    """Why a convolution stays apart from what is in front of it in its segment; empty at the
    beginning of a segment."""
    first = node.args[0] if node.args else None
    if (reason := obstacle(traced, node)) is not None:
        return reason
    if is_sum(first):
        return f"{node.target} follows a sum that other layers take, too"
    if _is_linear(traced, first):
        return f"{node.target} follows {first.target}, which no convolution can take in"
    return ""


def why_no_sum(traced: fx.GraphModule, node: fx.Node) -> str:
    """Why a convolution does not take in the one that its output is added to; empty if its output
    is not added to that of another, or if the two were tried."""
    total = only_user(node)
    pair = convolutions(traced, total.all_input_nodes) if is_sum(total) else []
    if len(pair) < 2:
        return ""
    for one, other in (pair, pair[::-1]):
        if isinstance(module_of(traced, one), Bordered):
            return f"{one.target} keeps a border, and {other.target} cannot join it at the sum"
    if pair[0].args[0] is not pair[1].args[0]:
        return f"{pair[0].target} and {pair[1].target} meet at a sum, with different inputs"
    return ""


def _is_linear(traced: fx.GraphModule, node) -> bool:
    return is_sum(node) or isinstance(module_of(traced, node), LINEAR)
