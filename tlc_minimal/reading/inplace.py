"""What works in place becomes what does not: later uses of its input use its output.

In a graph a tensor is a value, not a place. ``y += 1`` and ``y.clamp_(0)`` write to a place, and
all that looks at it later, by whatever name, sees what was written.
"""

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..nodes import module_of
from .layers import DROPOUT

OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ipow: operator.pow,
}
VIEWS = {"view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims"}
VIEWS |= {"movedim", "moveaxis", "squeeze", "unsqueeze", "contiguous", "detach", "chunk", "split"}
VIEWS |= {"narrow", "select", "unbind", "expand", "expand_as", "view_as", "t", "getitem", "getattr"}
VIEWS |= {"ravel", "unfold", "as_strided", "diagonal", "adjoint", "broadcast_to", "tensor_split"}
VIEWS |= {"hsplit", "vsplit", "dsplit", "split_with_sizes", "real", "imag", "conj", "positive"}
VIEWS |= {"atleast_1d", "atleast_2d", "atleast_3d", "view_as_real", "view_as_complex"}
VIEWS |= {"to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda"}  # perhaps


def out_of_place(traced: fx.GraphModule) -> None:
    """Let nothing in the graph work in place, in forward order. ValueError where that cannot be
    followed: on a view, or before an older view is used."""
    for node in list(traced.graph.nodes):
        if (place := place_of(traced, node)) is not None:
            if not isinstance(place, fx.Node):
                raise ValueError(f"{node} writes into several tensors: assign what it returns.")
            redirect_later_uses(traced, node, place)
            node.kwargs = {k: v for k, v in node.kwargs.items() if k not in ("out", "inplace")}
        node.target = OPERATORS.get(node.target, node.target)
        if is_in_place(node):  # still: by its name
            name, method = word(node)[:-1], node.op == "call_method"
            homes = [torch.Tensor] if method else [torch, F]
            if home := next((home for home in homes if hasattr(home, name)), None):
                node.target = name if method else getattr(home, name)
    for module in traced.modules():
        if getattr(module, "inplace", False):
            module.inplace = False


def place_of(traced: fx.GraphModule, node: fx.Node):
    """What a node writes into: a node, or several; None for what writes nowhere."""
    if node.target in OPERATORS:
        in_place = not is_number(node.args[0])
    else:
        in_place = getattr(module_of(traced, node), "inplace", False) or is_in_place(node)
    return written(node) or (node.all_input_nodes[0] if in_place else None)


def word(node: fx.Node) -> str:
    """What a node calls, as a word: "add_" of x.add_(1), "relu" of F.relu(x)."""
    return str(getattr(node.target, "__name__", node.target))


def is_in_place(node: fx.Node) -> bool:
    """Whether a function or method writes into its first argument, as its name or ``inplace``
    says."""
    if node.op not in ("call_function", "call_method") or not node.all_input_nodes:
        return False
    named = word(node).endswith("_") and not word(node).endswith("__")
    return named or node.kwargs.get("inplace") is True


def written(node: fx.Node):
    """Where a function writes what it computes, as ``out=`` says; None if nowhere."""
    return node.kwargs.get("out") if node.op == "call_function" else None


def is_number(node) -> bool:
    """Whether a node is a number made of shapes, which nothing changes in place."""
    if not isinstance(node, fx.Node):
        return True
    asked = word(node) in ("size", "dim", "numel", "len")
    asked = asked or node.target is getattr and node.args[1] not in ("T", "mT", "H", "data")
    made = node.op == "call_function" and node.target in NUMBERS
    return asked or made and all(is_number(n) for n in node.args)


NUMBERS = {operator.getitem, operator.floordiv, operator.mod, *OPERATORS, *OPERATORS.values()}


def is_view(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether what a node makes may lie where its input lies."""
    module = module_of(traced, node)
    if module is None:
        return word(node) in VIEWS and not is_number(node)
    passes = isinstance(module, DROPOUT) and not module.training
    return passes or isinstance(module, (nn.Flatten, nn.Unflatten, nn.Identity))


def redirect_later_uses(traced: fx.GraphModule, node: fx.Node, place: fx.Node) -> None:
    """Let all that uses the ``place`` that a node writes into, after it, use its output."""
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    alias, view = place, False
    while isinstance(alias, fx.Node):
        kept = alias.op == "get_attr" and not alias.target.startswith("_tensor_constant")
        if kept and alias.target in dict(traced.named_buffers()):
            raise ValueError(
                f"the forward writes into {alias.target}, and a copy would not keep that: do it in "
                "training mode only, or outside the model."
            )
        later = [user for user in alias.users if order[user] > order[node]]
        older = [n for n in alias.users if order[n] < order[node] and is_view(traced, n)]
        older = [n for n in older if not view and any(order[u] > order[node] for u in n.users)]
        if later and view or older:
            seen = (later or list(older[0].users))[-1]
            raise ValueError(
                f"{node} works in place on a view, or under one, and {seen} uses what lies there "
                "afterwards: write it out of place."
            )
        alias.replace_all_uses_with(node, lambda user: order[user] > order[node])
        passes = isinstance(module_of(traced, alias), (*DROPOUT, nn.Identity))
        view = view or is_view(traced, alias) and not passes
        alias = alias.args[0] if is_view(traced, alias) and alias.args else None
