"""Every call of an activation becomes a module of its own with a stable name, none in place."""

import copy
from collections import Counter

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..edits import put_module
from ..nodes import module_of
from .by_hand import inline_activations
from .inplace import out_of_place
from .layers import ACTIVATION, QuickGELU

KINDS = {kind.__name__.lower(): kind for kind in ACTIVATION if kind not in (nn.PReLU, QuickGELU)}
KINDS["leaky_relu"] = KINDS.pop("leakyrelu")
FUNCTIONAL = {  # a method's name, and functions
    function: kind
    for name, kind in KINDS.items()
    for function in (name, getattr(F, name), getattr(torch, name, name))
}


def _clamp(min=None, max=None) -> nn.Module | None:
    """Cut off at zero a clamp is a ReLU, at zero and six a ReLU6; elsewhere it bounds numbers."""
    return {(0, None): nn.ReLU, (0, 6): nn.ReLU6}.get((min, max), lambda: None)()


def _threshold(threshold, value, inplace=False) -> nn.Module | None:
    return nn.ReLU() if threshold == value == 0 else None


CLAMPS = (torch.clamp, torch.clamp_min, torch.clip, "clamp", "clamp_min", "clip")
FUNCTIONAL |= dict.fromkeys(CLAMPS, _clamp)
FUNCTIONAL |= dict.fromkeys((F.threshold, torch.threshold), _threshold)


def name_activations(traced: fx.GraphModule) -> None:
    """``layer1.0.relu``, called twice, becomes ``layer1.0.relu1`` and ``layer1.0.relu2``; F.relu a
    module named after the one that calls it; none works in place (:func:`out_of_place`). What does
    not depend on the input, as a gate that is a parameter, is none."""
    out_of_place(traced)
    inline = inline_activations(traced)
    for end, (source, _) in inline.items():
        end.args, end.kwargs = (source,), {}
    if inline:
        traced.graph.eliminate_dead_code()  # what computed them
    moving = set()
    for node in traced.graph.nodes:
        if node.op == "placeholder" or moving.intersection(node.all_input_nodes):
            moving.add(node)
    calls = Counter(n.target for n in traced.graph.nodes if n.op == "call_module")
    seen, taken = Counter(), {name for name, _ in traced.named_modules()}
    for node in traced.graph.nodes:  # a module that calls functions only is not in there yet
        taken |= {path for path, _ in (node.meta.get("nn_module_stack") or {}).values()}
    for node in [n for n in traced.graph.nodes if n in moving]:
        module = found = module_of(traced, node)
        if node in inline:
            module = inline[node][1]
        elif node.op in ("call_function", "call_method") and node.target in FUNCTIONAL:
            module = _as_module(node)
        if not isinstance(module, ACTIVATION):
            continue
        alone = module is found and calls[node.target] == 1
        name = base = node.target if module is found else _owner(node, module)
        while not alone and (name == base or name in taken):
            seen[base] += 1
            name = f"{base}{seen[base]}"
        taken.add(name)
        own = {id(p): p for p in module.parameters()}  # of a PReLU: shared by all its calls
        put_module(traced, name, copy.deepcopy(module, own))
        node.op, node.target = "call_module", name
        node.args, node.kwargs = (node.all_input_nodes[0],), {}


def _as_module(node: fx.Node) -> nn.Module | None:
    """The module that a function is; None if an option is computed."""
    if len(node.all_input_nodes) > 1:
        return None
    options = {k: v for k, v in node.kwargs.items() if k != "input"}
    return FUNCTIONAL[node.target](*node.args["input" not in node.kwargs :], **options)


def _owner(node: fx.Node, module: nn.Module) -> str:
    """A name for a functional activation: that of the module whose forward calls it."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    word = type(module).__name__.lower()
    return f"{path}.{word}" if path else word
