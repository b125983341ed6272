"""Modules of foreign classes that compute what a layer of torch.nn computes get that layer's class:
when all is read, for a forward may ask for what its own classes have."""

from collections.abc import Callable
from functools import partial

from torch import fx, nn

from .by_hand import become, known_activation
from .frozen import freeze, is_frozen_norm
from .layers import Norm, differs, plain_class


def plain_modules(model: nn.Module) -> dict[nn.Module, Callable]:
    """{a module that computes what a layer of torch.nn computes: what gives it that class, in
    place}. Batch norms ask for no shape from now on."""
    turns = {}
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module._check_input_dim = lambda x: None  # it branches on the shape
        if isinstance(module, nn.SyncBatchNorm):
            if not differs(module):
                module.__class__ = Norm
        elif (base := plain_class(module)) and not differs(module):
            turns[module] = partial(setattr, module, "__class__", base)
        elif is_frozen_norm(module):
            turns[module] = partial(freeze, module)
        elif known := known_activation(module):
            turns[module] = partial(become, module, known)
    turns.pop(model, None)  # its own forward is what is read
    return turns


def turn_plain(model: nn.Module, graph: fx.Graph, turns: dict[nn.Module, Callable]) -> None:
    """Do the ``turns``, but for modules with parts that the graph calls by themselves."""
    paths = [node.target.split(".") for node in graph.nodes if node.op == "call_module"]
    entered = {".".join(path[:i]) for path in paths for i in range(1, len(path))}
    for name, module in list(model.named_modules()):
        if module in turns and name not in entered:
            turns[module]()
