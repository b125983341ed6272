"""What stands for a value while a forward is read: a proxy that knows it, and a module's mode."""

from torch import Tensor, fx
from torch.fx.proxy import Attribute

from .inplace import OPERATORS


class Flag(int):
    """A module's ``training`` while its forward is read: False, and known again in the graph. Who
    branches on it, compares it or computes with it, has asked."""

    def __new__(cls, name: str, asked: set[str]):
        flag = super().__new__(cls, 0)
        flag.name, flag.asked = name, asked
        return flag

    def __hash__(self) -> int:
        return 0


def _asking(word: str):
    def asking(self, *args):
        self.asked.add(self.name)
        return getattr(int, word)(self, *args)

    return asking


for word in ("bool", "int", "float", "eq", "ne", "add", "radd", "sub", "rsub", "mul", "rmul"):
    setattr(Flag, f"__{word}__", _asking(f"__{word}__"))


class Known(fx.Proxy):
    """A proxy that answers what its value is, if that is no tensor and known."""

    def __getattr__(self, name: str):
        value = self.node.meta.get("value")
        if name == "_is_param":  # asked by isinstance(x, nn.Parameter)
            raise AttributeError(name)
        if not hasattr(value, name) or callable(getattr(value, name)):
            return Attribute(self, name)
        if isinstance(word := getattr(value, name), str):  # of a device: autocast takes no proxy
            return word
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __len__(self) -> int:
        return len(self.node.meta["value"]) if "value" in self.node.meta else super().__len__()

    def __index__(self) -> int:
        return self.tracer.answer(self, int)

    def __float__(self) -> float:
        return float(self.tracer.answer(self, (int, float)))

    @property
    def __class__(self):
        return Tensor if isinstance(self.node.meta.get("value"), Tensor) else Known


for operator_ in OPERATORS:
    change = lambda self, other, f=operator_: self.tracer.create_proxy(
        "call_function", f, (self, other), {}
    )
    setattr(Known, f"__{operator_.__name__}__", change)
