"""Every call of an activation becomes a module of its own with a stable name, none in place."""

import copy
import operator
from collections import Counter

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..nodes import module_of, put_module
from .layers import ACTIVATION, DROPOUT

FUNCTIONAL = {
    F.relu: nn.ReLU,
    F.relu_: nn.ReLU,
    torch.relu: nn.ReLU,
    torch.relu_: nn.ReLU,
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    F.relu6: nn.ReLU6,
    F.leaky_relu: nn.LeakyReLU,
    F.gelu: nn.GELU,
    F.silu: nn.SiLU,
    F.hardswish: nn.Hardswish,
    F.mish: nn.Mish,
    F.elu: nn.ELU,
    F.elu_: nn.ELU,
    F.selu: nn.SELU,
    F.celu: nn.CELU,
    F.hardtanh: nn.Hardtanh,
    F.softplus: nn.Softplus,
    torch.tanh: nn.Tanh,
    F.tanh: nn.Tanh,
    "tanh": nn.Tanh,
}


VIEWS = {"view", "reshape", "flatten", "permute", "transpose", operator.getitem, torch.flatten}
VIEWS |= {torch.reshape, torch.permute, torch.transpose}


IN_PLACE = {operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul}
IN_PLACE |= {"add_": "add", "sub_": "sub", "mul_": "mul", "div_": "div"}


def name_activations(traced: fx.GraphModule) -> None:
    """``layer1.0.relu``, called twice, becomes ``layer1.0.relu1`` and ``layer1.0.relu2``; F.relu a
    module named after the one that calls it. Later uses of an input that was changed in place use
    the output. ValueError where that cannot be followed."""
    calls = Counter(n.target for n in traced.graph.nodes if n.op == "call_module")
    seen, taken = Counter(), {name for name, _ in traced.named_modules()}
    for node in traced.graph.nodes:  # a module that calls functions only is not in there yet
        taken |= {path for path, _ in (node.meta.get("nn_module_stack") or {}).values()}
    for node in list(traced.graph.nodes):
        module = module_of(traced, node)
        if isinstance(module, ACTIVATION):
            base, shared = node.target, calls[node.target] > 1
        elif node.op in ("call_function", "call_method") and node.target in FUNCTIONAL:
            module, base, shared = _as_module(node), _owner(node), True
        else:
            if node.target in IN_PLACE:
                _redirect_later_uses(traced, node)
                node.target = IN_PLACE[node.target]
            continue
        if _in_place(node, module):
            _redirect_later_uses(traced, node)
        own = {id(p): p for p in module.parameters()}  # of a PReLU: shared by all its calls
        module = copy.deepcopy(module, own)
        if hasattr(module, "inplace"):
            module.inplace = False
        name = base
        while shared:
            seen[base] += 1
            name = f"{base}{seen[base]}"
            if name not in taken:
                taken.add(name)
                break
        put_module(traced, name, module)
        node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}


def _as_module(node: fx.Node) -> nn.Module:
    options = {k: v for k, v in node.kwargs.items() if k not in ("inplace", "input")}
    return FUNCTIONAL[node.target](**options)


def _owner(node: fx.Node) -> str:
    """A name for a functional activation: that of the module whose forward calls it."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    word = FUNCTIONAL[node.target].__name__.lower()
    return f"{path}.{word}" if path else word


def _in_place(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        return getattr(module, "inplace", False)
    named = str(getattr(node.target, "__name__", node.target))
    return named.endswith("_") or bool(node.kwargs.get("inplace") or True in node.args[1:])


def _redirect_later_uses(traced: fx.GraphModule, node: fx.Node) -> None:
    """After an in-place activation its input holds the output: let later users say so."""
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    alias, view = node.args[0], False
    while isinstance(alias, fx.Node):
        later = [user for user in alias.users if order[user] > order[node]]
        if later and view:
            raise ValueError(
                f"{node} works in place on a view, and {later[0]} uses what lies under it "
                "afterwards: make the activation not in place."
            )
        alias.replace_all_uses_with(node, lambda user: order[user] > order[node])
        module = module_of(traced, alias)
        view = view or alias.target in VIEWS or isinstance(module, nn.Flatten)
        passes = isinstance(module, DROPOUT) and not module.training
        alias = alias.args[0] if passes or view else None
