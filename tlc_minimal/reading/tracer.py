"""Follows a model's forward with torch.fx, further than fx alone would.

fx gives up where a forward asks for a shape, loops over one or takes optional arguments. Here the
first argument is the input and all others have their defaults; if an example is given, every value
in the graph is known while it is made, so that questions about shapes have their answer. What
depends on the *values* of a tensor is refused still: for another input the answer may be another.
"""

import copy
import inspect
import math
from dataclasses import is_dataclass
from operator import attrgetter

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.fx.proxy import ParameterProxy

from ..modules import LEAVES
from .inplace import is_in_place, written
from .layers import WHOLE, asks_by_is, asks_for_mode, differs, is_elementwise, plain_class
from .proxies import Flag, Known, recording
from .refuse import in_eval

COUNTS = {0: "no", 2: "two", 3: "three"}


class Rereader(fx.Tracer):
    """What a forward may do beyond fx, and the code of its copy, which torch reads again when that
    was pickled: make tensors of sizes (``torch.zeros(n)``), and outputs with names."""

    def trace(self, root: nn.Module, *args, **kwargs) -> fx.Graph:
        with recording():
            return super().trace(root, *args, **kwargs)

    def create_arg(self, a):
        if isinstance(a, dict) and is_dataclass(a):  # as transformers has it
            named = {key: self.create_arg(value) for key, value in a.items()}
            return self.create_node("call_function", type(a), (), named)
        return super().create_arg(a)


class Reader(Rereader):
    """``whole``: modules that are not looked into. ``asked``: names of the modules whose forward
    branches on ``training``."""

    def __init__(self, example: Tensor | None = None, whole=()):
        super().__init__(autowrap_modules=(math,))
        self.example, self.whole, self.asked, self.inside = example, whole, set(), False

    def trace(self, root: nn.Module) -> fx.Graph:
        tensors = [*root.named_parameters(), *root.named_buffers()]
        self.names = {id(tensor): name for name, tensor in tensors}
        lists = nn.ModuleList, nn.ModuleDict  # they are called by nobody: what is in them is read
        called = [(m, n) for n, m in root.named_modules() if not isinstance(m, lists)]
        leaves = [m for m, n in called if self.stays_whole(m, n)]
        self.leaves = {id(inner) for leaf in leaves for inner in leaf.modules()}
        for name, module in root.named_modules():
            module.training = Flag(name, self.asked)
            self.asked |= {name} if id(module) not in self.leaves and asks_by_is(module) else set()
        with torch.enable_grad():
            graph = super().trace(root)
        ask = lambda v: bool(v) if isinstance(v, Flag) else v
        for node in graph.nodes:
            node.meta.pop("value", None)
            if node.op != "call_function":  # these only become modules, which have a mode
                node.args, node.kwargs = map_aggregate((node.args, node.kwargs), ask)
        return graph

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        x = self.create_proxy("placeholder", first_input(self.root), (), {})
        return root_fn, [self.root, x]

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return id(module) in self.leaves

    def stays_whole(self, module: nn.Module, name: str) -> bool:
        """Whether a module is called as it is, and its forward not followed."""
        return (
            module in self.whole
            or isinstance(module, (*LEAVES, *WHOLE))
            or plain_class(module) is not None
            and not differs(module) - {"train"}
            or super().is_leaf_module(module, name)
            or asks_for_mode(module)
            and not (name and hands_on_mode(module))
            or is_elementwise(module)
        )

    def call_module(self, module, forward, args, kwargs):
        made = module not in self.submodule_paths and self.names.keys() >= {
            id(tensor) for tensor in [*module.parameters(), *module.buffers()]
        }
        if self.inside or made:  # in the forward: a part of a Sequential, an nn.ReLU()
            return forward(*args, **kwargs)
        return super().call_module(module, forward, args, kwargs)

    def getattr(self, attr: str, value, cache: dict):
        name = self.names.get(id(value)) if isinstance(value, Tensor) and not self.inside else None
        if name is None:
            return value
        if name not in cache:
            make = lambda node: ParameterProxy(self, node, name, value)
            make = make if isinstance(value, nn.Parameter) else None
            cache[name] = self.create_proxy("get_attr", name, (), {}, proxy_factory_fn=make)
        return cache[name]

    def create_arg(self, a):
        if isinstance(a, fx.Proxy):  # which says that it is a tensor
            return a.node
        if isinstance(a, Flag):
            return a
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Known(node, self)

    def create_proxy(self, *args, **kwargs) -> fx.Proxy:
        proxy = super().create_proxy(*args, **kwargs)
        proxy.node.meta["no_grad"] = not torch.is_grad_enabled()
        if self.example is not None:
            proxy.node.meta["value"] = self.value_of(proxy.node)
        return proxy

    @torch.no_grad()
    def value_of(self, node: fx.Node):
        """What the node makes of the example, in eval mode."""
        if node.op == "placeholder":
            return self.example.clone()
        known = lambda n: n.meta["value"] if "value" in n.meta else self.value_of(n)
        args, kwargs = map_arg((node.args, node.kwargs), known)
        if is_in_place(node) and isinstance(args[0], Tensor):  # it may be a weight's or a buffer's
            args = (args[0].clone(), *args[1:])
        if written(node) is not None:
            kwargs = {k: v for k, v in kwargs.items() if k != "out"}
        args, kwargs = map_aggregate((args, kwargs), lambda v: False if isinstance(v, Flag) else v)
        self.inside = True  # no proxies meanwhile
        try:
            if node.op == "call_method":
                return getattr(args[0], node.target)(*args[1:], **kwargs)
            if node.op == "call_function":
                return node.target(*args, **kwargs)
            found = attrgetter(node.target)(self.root)
            if node.op == "get_attr":
                return found
            with in_eval(found):
                return found(*args, **kwargs)
        finally:
            self.inside = False

    def answer(self, proxy: fx.Proxy, kinds=object):
        """The value of a proxy that is no tensor; fx's TraceError if it is not known."""
        value = proxy.node.meta.get("value", proxy)
        if isinstance(value, (Tensor, fx.Proxy)) or not isinstance(value, kinds):
            what = "the values" if isinstance(value, Tensor) else "the shape or the values"
            raise fx.proxy.TraceError(f"it branches or loops on {what} of a tensor")
        return value

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.answer(obj))

    def iter(self, obj: fx.Proxy):
        value = obj.node.meta.get("value")
        count = len(value) if isinstance(value, (Tensor, tuple, list)) else len(self.answer(obj))
        return iter([obj[i] for i in range(count)])


def hands_on_mode(module: nn.Module) -> bool:
    """Whether a forward of several calls gives its mode to a function (F.dropout), and does not ask
    itself: it can be followed."""
    reader = Reader()
    try:
        graph = reader.trace(copied(module, share=False))
    except Exception:  # whatever it wants
        return False
    calls = sum(node.op.startswith("call") for node in graph.nodes)
    return calls > 1 and not reader.asked and not asks_by_is(module)


def first_input(model: nn.Module) -> str:
    """The name of a forward's first argument; ValueError if it needs another number of them."""
    parameters = list(inspect.signature(type(model).forward).parameters.values())[1:]
    given = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
    needed += [p.name for p in parameters if p.default is p.empty and p.kind == p.KEYWORD_ONLY]
    if not given or len(needed) > 1:
        raise ValueError(
            f"{type(model).__name__} takes {COUNTS.get(len(needed), 'several')} inputs "
            f"({', '.join(needed)}), and one is all that can be followed: "
            "wrap it in a module whose forward takes one float tensor and sets the others."
        )
    return given[0].name if given[0].kind != given[0].VAR_POSITIONAL else "x"


def copied(model: nn.Module, share: bool) -> nn.Module:
    """A deep copy; ``share``: all but the tensors. What cannot be copied (an open file, a stored
    activation) is shared, too, as far as it is an attribute of a module."""
    tensors = (*model.parameters(), *model.buffers()) if share else ()
    memo = {id(tensor): tensor for tensor in tensors}
    try:
        return copy.deepcopy(model, dict(memo))
    except (RuntimeError, TypeError, NotImplementedError):
        for value in [v for m in model.modules() for v in _held(vars(m))]:
            if isinstance(value, Tensor):
                memo[id(value)] = value.detach()
            else:
                try:
                    copy.deepcopy(value)
                except Exception:  # whatever it is that it cannot
                    memo[id(value)] = value
        return copy.deepcopy(model, memo)


def _held(value) -> list:
    """What a dictionary or list holds, and those within."""
    inner = value.values() if isinstance(value, dict) else value
    held = [_held(v) if isinstance(v, dict | list) else [v] for v in inner if v is not None]
    return [v for several in held for v in several if not isinstance(v, nn.Module)]
