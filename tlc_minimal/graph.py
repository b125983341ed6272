"""Reads any model through torch.fx: which activations there are, what feeds them, what they feed.

``trace`` turns a model into a ``GraphModule`` (an ordinary nn.Module that also carries its graph)
in which every call of an activation is a module of its own with a stable name: a ReLU called twice
as ``layer1.0.relu`` becomes ``layer1.0.relu1`` and ``layer1.0.relu2``, a functional ``F.relu``
becomes a module beside it. Everything else in the library works on that graph, never on names.
"""

import copy
import difflib
import operator
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from .modules import LEAVES
from .nodes import (
    ACTIVATION,
    DROPOUT,
    NORM,
    activation_nodes,
    channel_dim,
    copied,
    finish,
    is_sum,
    module_of,
    put_module,
)
from .refuse import line_of

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
}
VIEWS = {"view", "reshape", "flatten", "permute", "transpose", operator.getitem, torch.flatten}
VIEWS |= {torch.reshape, torch.permute, torch.transpose}
IN_PLACE = {operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul}
IN_PLACE |= {"add_": "add", "sub_": "sub", "mul_": "mul", "div_": "div"}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (*LEAVES, *ACTIVATION)) or super().is_leaf_module(module, name)


@dataclass(frozen=True)
class Layer:
    """One removable activation.

    ``name`` in the traced model, ``kind`` ("ReLU"), number of ``channels``, ``norm``: the batch
    norm it follows directly (or None), ``after_sum``: whether it follows a residual sum.
    """

    name: str
    kind: str
    channels: int
    norm: str | None
    after_sum: bool


def trace(model: nn.Module, share: bool = False) -> fx.GraphModule:
    """A traced deep copy of ``model``, every activation call a module of its own, none in place.

    ``share``: all but the tensors is copied; for those who only read them.
    ValueError if torch.fx cannot follow the model's forward.
    """
    if _is_traced(model):
        return copied(model, share)
    tensors = (*model.parameters(), *model.buffers()) if share else ()
    model = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be traced ({str(error).splitlines()[0]}"
            f"{line_of(error)}): its forward must not branch or loop on the values of tensors; "
            "move that part outside the model or wrap it with torch.fx.wrap."
        ) from error
    traced = fx.GraphModule(model, graph, type(model).__name__)
    for name, module in traced.named_modules():
        module.training = model.get_submodule(name).training
    calls = Counter(n.target for n in graph.nodes if n.op == "call_module")
    seen = Counter()
    for node in list(graph.nodes):
        module = module_of(traced, node)
        if isinstance(module, ACTIVATION):
            base, shared = node.target, calls[node.target] > 1
        elif node.op in ("call_function", "call_method") and node.target in FUNCTIONAL:
            options = {k: v for k, v in node.kwargs.items() if k not in ("inplace", "input")}
            module, base, shared = FUNCTIONAL[node.target](**options), _owner(node), True
        else:
            if node.target in IN_PLACE:
                _redirect_later_uses(traced, node)
                node.target = IN_PLACE[node.target]
            continue
        if _in_place(node, module):
            _redirect_later_uses(traced, node)
        module = copy.deepcopy(module)
        if hasattr(module, "inplace"):
            module.inplace = False
        name = base
        while shared:
            seen[base] += 1
            name = f"{base}{seen[base]}"
            if name not in calls:
                break
        put_module(traced, name, module)
        node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}
    return finish(traced)


def _is_traced(model: nn.Module) -> bool:
    """Whether ``trace`` made this graph, or would leave it as it is."""
    nodes = model.graph.nodes if isinstance(model, fx.GraphModule) else ()
    called = Counter(n.target for n in nodes if n.op == "call_module")
    for node in nodes:
        module = module_of(model, node)
        if isinstance(module, ACTIVATION):
            as_it_is = called[node.target] == 1 and not getattr(module, "inplace", False)
        elif module is not None:
            as_it_is = _Tracer().is_leaf_module(module, node.target)
        else:
            as_it_is = not (node.op == "get_attr" or node.target in {*FUNCTIONAL, *IN_PLACE})
        if not as_it_is:
            return False
    return bool(called)


def find_layers(model: nn.Module, example) -> list[Layer]:
    """The removable activations of ``model`` in forward order.

    ``example``: an input batch, or anything that has or yields one (Data, DataLoader).
    ValueError if the model cannot be traced or does not accept the example.
    """
    traced = trace(model, share=True)
    shapes = find_shapes(traced, example)

    def layer(node: fx.Node) -> Layer:
        kind, before = type(module_of(traced, node)).__name__, node.args[0]
        norm = before.target if isinstance(module_of(traced, before), NORM) else None
        channels = shapes[node][channel_dim(traced, node)]
        return Layer(node.target, kind, channels, norm, is_sum(before))

    return [layer(node) for node in activation_nodes(traced).values()]


def find_shapes(traced: fx.GraphModule, example) -> dict[fx.Node, tuple[int, ...]]:
    """The shape of every tensor-valued node when the traced model runs (in eval) on ``example``."""
    x = example_of(example)
    parameter = next(traced.parameters(), x)
    mode = traced.training
    try:
        with torch.no_grad(), redirect_stderr(StringIO()):  # it prints its errors, too
            ShapeProp(traced.eval()).propagate(x.to(parameter.device, parameter.dtype))
    except RuntimeError as error:
        raise ValueError(
            f"the model does not accept an example of shape {tuple(x.shape)}: "
            f"{str(error.__cause__ or error).splitlines()[0]}"
        ) from error
    finally:
        traced.train(mode)
    meta = {node: node.meta.get("tensor_meta") for node in traced.graph.nodes}
    return {node: tuple(m.shape) for node, m in meta.items() if hasattr(m, "shape")}


def example_of(data) -> Tensor:
    """An input batch from a tensor, from anything with ``.example``, or from a DataLoader."""
    if isinstance(data, Tensor):
        return data
    if hasattr(data, "example"):
        return data.example
    try:
        batch = next(iter(data))
    except TypeError as error:
        raise TypeError(
            f"an example input is needed, not {type(data).__name__}: give a batch of inputs as a "
            "tensor, a DataLoader or a Data."
        ) from error
    return batch if isinstance(batch, Tensor) else batch[0]


def find_node(traced: fx.GraphModule, name: str) -> fx.Node:
    """The activation of that name; ValueError with the closest name if there is none."""
    nodes = activation_nodes(traced)
    if name not in nodes:
        close = difflib.get_close_matches(name, nodes, 1)
        there = ", ".join(nodes) or "none"
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {there}."
        raise ValueError(f"there is no activation {name!r} in this model; {hint}")
    return nodes[name]


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
        passes = isinstance(module, nn.Identity)
        passes |= isinstance(module, DROPOUT) and not module.training
        alias = alias.args[0] if passes or view else None
