"""Which models are refused before anything is done: by name, in one sentence, with the way out."""

import traceback
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from .layers import ACTIVATION, CONV, NORM, plain_class

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
WRAPPERS = {  # what holds a model, and where
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
}


def check_model(model: nn.Module) -> None:
    """TypeError for what is no model; ValueError, naming the module, for what only wraps a model or
    a layer, is no longer one (compiled, exported), or is none yet (lazy)."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is an nn.Module, not {type(model).__name__}.")
    for name, module in model.named_modules():
        where, kind = name or "the model", type(module).__name__
        if kind in WRAPPERS:
            held = f"{name or 'model'}.{WRAPPERS[kind]}"
            raise ValueError(f"{kind} wraps {where}: pass {held} in its place.")
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{where} is compiled: pass the nn.Module that it was made from.")
        if any(map(is_lazy, [*module._parameters.values(), *module._buffers.values()])):
            raise ValueError(f"{where} has no shape yet ({kind}): run it once on an example first.")
    nodes = getattr(getattr(model, "graph", None), "nodes", ())
    if any(isinstance(getattr(n, "target", None), torch._ops.OpOverload) for n in nodes):
        raise ValueError(
            f"{type(model).__name__} comes from torch.export, which takes layers apart: pass the "
            "nn.Module that was exported."
        )


def check_loaded(model: nn.Module) -> None:
    """ValueError that names a weight of which there is a shape only."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise ValueError(f"{name} holds no numbers (device meta): load its weights first.")


def check_models(models) -> None:
    """TypeError for what is no dictionary of models, ValueError for an empty one."""
    if not isinstance(models, dict):
        raise TypeError(f"models are a dictionary, {{name: model}}, not {type(models).__name__}.")
    if not models:
        raise ValueError("there is no model to compare: give at least one.")
    for model in models.values():
        check_model(model)
        check_loaded(model)


def check_names(names) -> list[str]:
    """The names of activations: of one or several, each a name or a Layer; else TypeError."""
    one = isinstance(names, str) or hasattr(names, "name") or not isinstance(names, Iterable)
    found = [getattr(n, "name", n) for n in ([names] if one else names)]
    if not all(isinstance(n, str) for n in found):
        raise TypeError(
            "names are those of activations, one or several, as find_layers gives them, not "
            f"{quoted(names)}."
        )
    return found


def check_plain(model: nn.Module) -> None:
    """ValueError, naming the module and the way out, for what a changed copy would silently lose:
    hooks and parametrizations, weights that two layers share, quantised or half-precision ones;
    and for weights that are not finite. TypeError for what is no model."""
    check_model(model)
    owners = {}
    for name, module in model.named_modules():
        where, kind = name or "the model", type(module).__module__
        if any(getattr(module, hook) for hook in HOOKS) or is_parametrized(module):
            raise ValueError(
                f"{where} carries a hook or a parametrization, which the changed copy would lose: "
                f"call {way_out(module)} first."
            )
        if "forward" in vars(module) and (not name or not chooses(module)):
            raise ValueError(f"the forward of {where} was replaced: write a module of its own.")
        quantised = "quantized" in kind or "quantizable" in kind
        if quantised and type(module).__name__ != "FloatFunctional":
            raise ValueError(f"{where} is quantised: give the float model; quantise the result.")
        for key, tensor in module.named_parameters(recurse=False):
            if tensor.dtype in (torch.float16, torch.bfloat16) and tensor.device.type == "cpu":
                raise ValueError(
                    f"{where}.{key} is in half precision on a CPU, where sums lose too many "
                    "digits: call model.float() first."
                )
            other, own = owners.setdefault(id(tensor), (where, module))
            if own is not module and (isinstance(module, CONV + NORM) or isinstance(own, CONV)):
                raise ValueError(
                    f"{other} and {where} share their {key}, and only one of them may change: "
                    f"give {where} its own, {where}.{key} = nn.Parameter({where}.{key}.clone())."
                )
    check_finite(model)


def chooses(module: nn.Module) -> bool:
    """Whether a foreign module, none of torch.nn's layers, made one of its own methods its forward:
    then that is what is read."""
    own, kind = vars(module)["forward"], type(module)
    foreign = plain_class(module) is None and not kind.__module__.startswith("torch.")
    bound = getattr(own, "__self__", None) is module and hasattr(own, "__func__")
    return foreign and bound and getattr(kind, own.__name__, None) is own.__func__


def check_finite(model: nn.Module) -> None:
    """ValueError that names a weight or statistic that is NaN or infinite, or not loaded."""
    check_loaded(model)
    masks = {n for n, _ in model.named_buffers() if "running_" not in n}  # may be infinite
    for name, tensor in model.state_dict().items():
        floats = isinstance(tensor, Tensor) and tensor.is_floating_point()
        if floats and (tensor.isnan() if name in masks else ~tensor.isfinite()).any():
            raise ValueError(f"{name} holds NaN or inf: train the model again, or load it anew.")


def way_out(module: nn.Module) -> str:
    """The call that takes a module's hook or parametrization away."""
    hooks = [h for hook in HOOKS for h in getattr(module, hook).values()]
    kinds = {type(hook).__module__.rpartition(".")[2] for hook in hooks}
    if "prune" in kinds:
        return "torch.nn.utils.prune.remove(module, 'weight')"
    for kind in ("weight_norm", "spectral_norm"):
        if kind in kinds:
            return f"torch.nn.utils.remove_{kind}(module)"
    if is_parametrized(module):
        return "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"
    return "remove() on the hook's handle"


def check_read_once(traced: fx.GraphModule) -> None:
    """ValueError that names a weight that its layer owns and the forward reads once more: cutting
    or folding the layer would change what is read."""
    nodes = [n for n in traced.graph.nodes if n.op == "call_module"]
    owners = {n.target: traced.get_submodule(n.target) for n in nodes}
    layers = {n: m for n, m in owners.items() if isinstance(m, CONV + NORM)}
    tensors = {id(t): (n, k) for n, m in layers.items() for k, t in m.named_parameters()}
    tensors |= {id(t): (n, k) for n, m in layers.items() for k, t in m.named_buffers()}
    for node in [n for n in traced.graph.nodes if n.op == "get_attr"]:
        found = tensors.get(id(attrgetter(node.target)(traced)))
        if found:
            owner, key = found
            raise ValueError(
                f"the forward reads {owner}.{key} once more, beside {owner} itself, and would see "
                "it changed: give the second use a parameter of its own (a clone)."
            )


def not_accepted(model: nn.Module, x: Tensor) -> str:
    """Why a model does not take an input; empty if it does."""
    try:
        with torch.no_grad(), in_eval(model):
            model(x)
    except Exception as error:
        return f"the model does not accept an example of shape {tuple(x.shape)}: {reason(error)}"
    return ""


@contextmanager
def in_mode(model: nn.Module, training: bool):
    """Every module in this mode; afterwards each as it was."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:  # not eval(): a foreign one may merge weights
            module.training = training
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


in_eval = partial(in_mode, training=False)


def untraceable(model: nn.Module, error: Exception, example=None) -> str:
    """Why a forward cannot be followed, in one sentence."""
    why = f"{type(model).__name__} cannot be traced ({reason(error)}{line_of(error)})"
    if example is None and "on the shape or" in str(error):
        return f"{why}: give an example, an input whose shapes its forward can ask for."
    way = "its forward must not branch or loop on the values of tensors; move that part outside "
    way += "the model or wrap it with torch.fx.wrap"
    parts = "assigns to a part" in str(error)
    return f"{why}: {'put it together with torch.cat or torch.where' if parts else way}."


def there_are() -> str:
    """The activations that can be removed, in words."""
    return f"those of these kinds can: {', '.join(kind.__name__ for kind in ACTIVATION)}"


def tensors_in(out) -> list[Tensor]:
    """The tensors of an output, whatever holds them."""
    leaves = [vars(leaf) if is_dataclass(leaf) else leaf for leaf in tree_leaves(out)]
    return [leaf for leaf in tree_leaves(leaves) if isinstance(leaf, Tensor)]


def reason(error: BaseException) -> str:
    """The first line of what was said, cut to 140 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shortened(lines[0], 140)


def quoted(value) -> str:
    """A value as Python writes it, in one line, cut to 60 characters."""
    return shortened(" ".join(repr(value).split()), 60)


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def line_of(error: Exception) -> str:
    """Where in the model's own code it happened."""
    ours = str(Path(torch.__file__).parent), str(Path(__file__).parents[1])
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if not frame.filename.startswith(ours)]
    return f"; {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


def check_input(x) -> Tensor:
    """A batch of inputs as it is; TypeError if it is none of floats, ValueError if it is empty or
    not finite."""
    if not isinstance(x, Tensor):
        raise TypeError(f"inputs are a tensor of floats, not {type(x).__name__}.")
    if not x.is_floating_point():
        raise TypeError(
            f"inputs are floats, not {x.dtype}: normalise images, give them without labels; of a "
            "model that takes token ids, give the part behind the embedding."
        )
    if not x.numel():
        raise ValueError("There are no inputs: give at least one image.")
    if not (x.is_meta or x.isfinite().all()):
        raise ValueError("the inputs hold NaN or inf: look for what is not finite in the data.")
    return x.detach()
