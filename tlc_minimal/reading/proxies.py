"""What stands for a value while a forward is read: a proxy that knows it, and a module's mode; and
what is replaced meanwhile, because it would not take a proxy."""

import builtins
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.fx.proxy import Attribute, TraceError
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointFunction

from .inplace import OPERATORS

FACTORIES = ("zeros", "ones", "full", "empty", "arange", "linspace", "rand", "randn", "eye")
FACTORIES += ("tensor", "as_tensor")
INPUT = torch.empty(0)  # what an input is, if there is no example
ASKS = "bool int float index eq ne gt ge lt le and rand or ror xor rxor add radd sub rsub mul rmul"


class Flag:
    """A module's ``training`` while its forward is read: False, and known again in the graph. Who
    branches on it, compares it, indexes or computes with it, has asked."""

    def __init__(self, name: str, asked: set[str]):
        self.name, self.asked = name, asked

    def __repr__(self) -> str:
        return "False"

    def __hash__(self) -> int:
        return hash(False)


def _asking(word: str):
    def asking(self, *args):
        self.asked.add(self.name)
        return getattr(False, word)(*args)

    return asking


for word in ASKS.split():
    setattr(Flag, f"__{word}__", _asking(f"__{word}__"))


class Known(fx.Proxy):
    """A proxy that answers what its value is, if that is no tensor and known."""

    def __getattr__(self, name: str):
        value = self.node.meta.get("value")
        if name == "_is_param" or name[:2] == "__" and isinstance(value, int | float):
            raise AttributeError(name)  # isinstance(x, nn.Parameter) asks, and NumPy
        if not hasattr(value, name) or callable(getattr(value, name)):
            return Attribute(self, name)
        if isinstance(word := getattr(value, name), str):  # of a device: autocast takes no proxy
            return word
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __setitem__(self, *_):
        raise TypeError("it assigns to a part of a tensor")

    def __len__(self) -> int:
        return len(self.node.meta["value"]) if "value" in self.node.meta else super().__len__()

    def __index__(self) -> int:
        return self.tracer.answer(self, int)

    def __float__(self) -> float:
        return float(self.tracer.answer(self, (int, float)))

    def __int__(self) -> int:
        return int(self.tracer.answer(self, (int, float)))

    def __round__(self, *digits: int):
        return round(self.tracer.answer(self, (int, float)), *digits)

    def __divmod__(self, other):
        return self // other, self % other

    def __rdivmod__(self, other):
        return other // self, other % self


for operator_ in OPERATORS:
    change = lambda self, other, f=operator_: self.tracer.create_proxy(
        "call_function", f, (self, other), {}
    )
    setattr(Known, f"__{operator_.__name__}__", change)


@contextmanager
def recording():
    """Meanwhile proxies are taken by what does not take them: factories (``torch.zeros(n)``),
    compiled functions, which are read as the Python that they were, foreign autograd.Functions,
    each one call. And what stands for a tensor is one to Python's ``isinstance``; not by
    ``__class__``, which C asks, too, and would look for the tensor's memory."""
    news = [
        (builtins, "isinstance", _is_instance),
        (torch.jit.ScriptFunction, "__call__", _interpreted),
        *((torch, name, _one_call(getattr(torch, name))) for name in FACTORIES),
        *((f, "forward", staticmethod(_one_call(f.forward, f.apply))) for f in _below(Function)),
        (CheckpointFunction, "forward", staticmethod(_checkpointed)),
    ]
    with ExitStack() as stack:
        for new in news:
            stack.enter_context(patch.object(*new))
        yield


def _is_instance(value, kinds, plain=isinstance) -> bool:
    if plain(value, kinds) or type(value) is not Known:
        return plain(value, kinds)
    known = value.node.meta.get("value", INPUT if value.node.op == "placeholder" else None)
    return plain(known, Tensor) and plain(known, kinds)


def _interpreted(function, *args, call=torch.jit.ScriptFunction.__call__, **kwargs):
    if not _proxies(args, kwargs):
        return call(function, *args, **kwargs)
    if (python := getattr(function, "_torchdynamo_inline", None)) is None:
        raise TraceError(f"it calls {function.name}, which is compiled")
    return python(*args, **kwargs)


def _one_call(original, function=None):
    """``original``; given proxies, a call in the graph: of ``original``, or of ``function``."""

    def call(*args, **kwargs):
        found = _proxies(args, kwargs)
        if not found:
            return original(*args, **kwargs)
        given = tuple(a for a in args if not isinstance(a, FunctionCtx))
        with torch.enable_grad():  # a Function's forward runs without
            called = ("call_function", function or original, given, kwargs)
            return found[0].tracer.create_proxy(*called)

    return call


@torch.enable_grad()
def _checkpointed(_, function, preserve, *args):
    return function(*args)


def _below(kind: type) -> list[type]:
    """The foreign classes that descend from one."""
    found = [c for child in kind.__subclasses__() for c in (child, *_below(child))]
    return [c for c in found if not c.__module__.startswith("torch.")]


def _proxies(*values) -> list[fx.Proxy]:
    return [v for v in tree_leaves(values) if isinstance(v, fx.Proxy)]
