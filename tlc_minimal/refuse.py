"""What is refused before anything is done: by name, in one sentence, with the way out."""

import os
import traceback
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .nodes import CONV, NORM


def check_plain(model: nn.Module) -> None:
    """ValueError, naming the module and the way out, for what a changed copy would silently lose:
    hooks and parametrizations, weights that two layers share, quantised or half-precision ones.
    TypeError for what is no model."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is an nn.Module, not {type(model).__name__}.")
    owners = {}
    for name, module in model.named_modules():
        where, kind = name or "the model", type(module).__module__
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if any(getattr(module, hook) for hook in hooks) or is_parametrized(module):
            raise ValueError(
                f"{where} carries a hook or a parametrization, which the changed copy would lose: "
                "call remove() on the hook's handle (or remove_parametrizations) first."
            )
        if "quantized" in kind or "quantizable" in kind:
            raise ValueError(
                f"{where} is quantised: give the float model, and quantise the result."
            )
        for key, tensor in module.named_parameters(recurse=False):
            if tensor.dtype in (torch.float16, torch.bfloat16) and tensor.device.type == "cpu":
                raise ValueError(
                    f"{where}.{key} is in half precision on a CPU, where sums lose too many "
                    "digits: call model.float() first."
                )
            other = owners.setdefault(id(tensor), where)
            if other != where and isinstance(module, CONV + NORM):
                raise ValueError(
                    f"{other} and {where} share their {key}, and only one of them may change: "
                    f"give {where} its own, {where}.{key} = nn.Parameter({where}.{key}.clone())."
                )


def check_alone() -> None:
    """RuntimeError under several processes (torchrun, accelerate launch): the batch norms of each
    would see its own part of a batch only, and all would write to one folder."""
    if (processes := int(os.environ.get("WORLD_SIZE") or 1)) > 1:
        raise RuntimeError(
            f"this is one of {processes} processes, and a collapse runs in one: start it without "
            "torchrun or accelerate launch; several collapses may run side by side, each with its "
            "own folder."
        )


def check_number(name: str, value, kind: type, allowed, words: str) -> None:
    """TypeError if ``value`` is no number of this kind, ValueError if it is not ``allowed``."""
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} is {words}, not {value!r}.")
    if not allowed(value):
        raise ValueError(f"{name} is {words}, not {value!r}.")


def line_of(error: Exception) -> str:
    """Where in the model's own code it happened."""
    library = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if not frame.filename.startswith(library)]
    return f"; {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
