"""The layers that others write by hand, as plain ones; and what kinds of layers there are."""

import dis
import inspect
import math

import torch
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x): what CLIP has in the place of GELU, and torch.nn has not."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)  # what "layer" means everywhere
ACTIVATION = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish)
ACTIVATION += (nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.Mish, nn.Softplus, nn.Tanh, nn.Hardtanh)
ACTIVATION += (QuickGELU,)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Norm(nn.modules.batchnorm._BatchNorm):
    """A batch norm of any number of dimensions: what others wrote with F.batch_norm."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class Frozen(Norm):
    """One that keeps its running statistics in training, too (FrozenBatchNorm2d)."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


class Anew(nn.modules.batchnorm._BatchNorm):
    """One without running statistics: it normalises by the batch in eval mode, too, and is no map
    of single numbers (so it is none of ``NORM``)."""

    _check_input_dim = Norm._check_input_dim


class ByMode(nn.Module):
    """Calls ``function`` with the module's own mode at the arguments ``places``, as
    ``F.dropout(x, training=self.training)`` does."""

    def __init__(self, function, places: list[int | str]):
        super().__init__()
        self.function, self.places = function, places

    def forward(self, *args, **kwargs):
        args = [self.training if i in self.places else a for i, a in enumerate(args)]
        kwargs |= {k: self.training for k in self.places if k in kwargs}
        return self.function(*args, **kwargs)


NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, Norm)
WHOLE = (Norm, Anew, ByMode)  # tracing does not look into them


def passes(module: nn.Module | None) -> bool:
    """Whether a module gives back what it is given: dropout (and a foreign one without tensors,
    tried out) in eval mode."""
    if isinstance(module, nn.Identity):
        return True
    if module is None or module.training:
        return False
    if isinstance(module, DROPOUT):
        return True
    if type(module).__module__.startswith(("torch.", "tlc_minimal")) or any(module.state_dict()):
        return False
    tried = [passes_shape(module, shape) for shape in ((1, 1, 1, 1), (2, 3, 8, 8), (2, 5, 6))]
    return True in tried and False not in tried


def passes_shape(module: nn.Module, shape: tuple[int, ...]) -> bool | None:
    """Whether a module gives back an input of this shape, unchanged; None if it takes none."""
    x = torch.linspace(-99, 99, math.prod(shape)).reshape(shape)
    before = x.clone()
    try:
        return module(x) is x and torch.equal(x, before)
    except Exception:  # it wants something else
        return None


def plain_class(module: nn.Module) -> type | None:
    """The layer of torch.nn that a foreign class descends from; None if there is none."""
    base = next(c for c in type(module).__mro__ if c.__module__.startswith("torch.nn."))
    containers = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return None if base in containers or base is type(module) else base


def differs(module: nn.Module) -> set[str]:
    """What a class and its parents outside torch.nn define anew of what the layer of torch.nn has,
    as far as that can matter to what it computes."""
    if (base := plain_class(module)) is None:
        return set()
    before = type(module).__mro__[: type(module).__mro__.index(base)]
    known = {*dir(base), *module._parameters, *module._buffers}
    for parent in base.__mro__:  # what an instance has: weight, stride
        known |= inspect.get_annotations(parent).keys()
    return {k for c in before for k in vars(c)} & known - HARMLESS


HARMLESS = {"__init__", "__module__", "__doc__", "__annotations__", "__annotate__", "__repr__"}
HARMLESS |= {"extra_repr", "__dict__", "__constants__", "__static_attributes__", "__weakref__"}
HARMLESS |= {"__firstlineno__", "__setstate__", "__qualname__", "__parameters__", "_version"}
HARMLESS |= {"__orig_bases__", "_load_from_state_dict", "reset_parameters"}


def asks_for_mode(module: nn.Module) -> bool:
    """Whether a module without tensors or modules of its own asks whether it is in training: then
    it is called as it is (DropPath, noise). Not layers of torch.nn with another forward."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    asks = code is not None and "training" in code.co_names
    bare = not module._modules and not module._parameters and not module._buffers
    return asks and bare and type(module).__mro__[1] is nn.Module


def asks_by_is(module: nn.Module) -> bool:
    """Whether a foreign forward says ``self.training is True``, which no :class:`Flag` hears."""
    if type(module).__module__.startswith("torch."):
        return False
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    steps = [*dis.get_instructions(code)] if code else []
    asked = [i for i, step in enumerate(steps) if step.argval == "training"]
    return any(step.opname == "IS_OP" for i in asked for step in steps[i : i + 4])


def is_elementwise(module: nn.Module) -> bool:
    """Whether a foreign activation (a subclass of ReLU, say, with another forward) maps every
    number on its own: then it is an activation, with its own function."""
    if not isinstance(module, ACTIVATION) or module._modules or module._parameters:
        return False
    x = torch.linspace(-3, 3, 24).reshape(2, 3, 4)
    try:
        whole, turned = module(x.clone()), module(x.clone().flip(0, 1, 2).flatten())
    except Exception:  # it wants something else
        return False
    return whole.shape == x.shape and torch.equal(turned, whole.flip(0, 1, 2).flatten())


def unused(model: nn.Module, name: str) -> str:
    """``name``, with a number behind it if something in the model has it; ".relu" is "relu"."""
    free, number = (name := name.lstrip(".")), 1
    owner = model.get_submodule(name.rpartition(".")[0])
    while hasattr(owner, free.rpartition(".")[2]):
        number += 1
        free = f"{name}{number}"
    return free
