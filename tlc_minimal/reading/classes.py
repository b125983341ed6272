"""Modules of foreign classes that compute what a layer of torch.nn computes get that layer's class:
when all is read, for a forward may ask for what its own classes have."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, fx, nn

from .by_hand import become, known_activation
from .frozen import frozen_eps
from .layers import Anew, Frozen, Norm, differs, plain_class

TENSORS = ("weight", "bias", "running_mean", "running_var")


def plain_modules(model: nn.Module) -> dict[nn.Module, Callable]:
    """{a module that computes what a layer of torch.nn computes: what gives it that class, in
    place}. Batch norms ask for no shape from now on."""
    turns = {}
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module._check_input_dim = lambda x: None  # it branches on the shape
        anew = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is None
        if isinstance(module, nn.SyncBatchNorm):
            if not differs(module):
                module.__class__ = Anew if anew else Norm
        elif anew and not differs(module):
            turns[module] = partial(setattr, module, "__class__", Anew)
        elif (base := plain_class(module)) and not differs(module):
            turns[module] = partial(setattr, module, "__class__", base)
        elif (eps := frozen_eps(module)) is not None:
            tensors = {key: getattr(module, key, None) for key in TENSORS}
            turns[module] = partial(configure, module, Frozen, tensors, {"eps": eps})
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


def configure(module: nn.Module, kind: type, tensors: dict[str, Tensor], options: dict) -> None:
    """Make a module the layer ``kind`` with these tensors and nothing else, in place; its children
    stay, and a batch norm's momentum of None (the mean of all batches). A parameter that was a
    buffer does not learn."""
    weight = tensors["weight"]
    if issubclass(kind, Norm):
        sizes, options = [len(tensors["running_mean"])], {"affine": weight is not None} | options
        if getattr(module, "momentum", 0.1) is None:
            options["momentum"] = None
    elif kind is nn.PReLU:
        sizes = [weight.numel()]
    elif kind is nn.Linear:
        sizes = weight.shape[::-1]
    else:
        out, per_group, *kernel = weight.shape
        sizes = per_group * options.get("groups", 1), out, tuple(kernel)
        single = {k: v for k, v in options.items() if isinstance(v, tuple | list) and len(v) == 1}
        options = options | {k: v[0] for k, v in single.items()}
    like, tensors = vars(kind(*sizes, **options, device="meta")), dict(tensors)
    if issubclass(kind, Norm):
        tensors["num_batches_tracked"] = module._buffers.get("num_batches_tracked")
    module._parameters.clear(), module._buffers.clear()
    for key, tensor in tensors.items():
        vars(module).pop(key, None)
        if key not in ("weight", "bias"):
            module.register_buffer(key, tensor)
        elif tensor is None or isinstance(tensor, nn.Parameter):
            module.register_parameter(key, tensor)
        else:
            module.register_parameter(key, nn.Parameter(tensor, requires_grad=False))
    vars(module).update((k, like[k]) for k in like.keys() - vars(nn.Module()).keys())
    module.__class__ = kind
