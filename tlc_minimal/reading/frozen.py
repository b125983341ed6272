"""Batch norms that keep their statistics for ever, whatever their class is called."""

import torch
import torch.nn.functional as F
from torch import nn

from .layers import Frozen
from .tracer import copied


def is_frozen_norm(module: nn.Module) -> bool:
    """Whether a foreign module is a batch norm that never trains its statistics: it has their
    names, and per channel it computes what a batch norm in eval mode does."""
    tensors = module._parameters | module._buffers
    held = module._modules or "forward" in vars(module)
    if isinstance(module, nn.modules.batchnorm._NormBase) or held:
        return False
    return {"running_mean", "running_var"} <= tensors.keys() and eps_of(module) is not None


def held_in_eval(model: nn.Module) -> list[str]:
    """The batch norms that a model's own ``train()`` leaves in eval mode, as a ``norm_eval``."""
    own = {c for m in model.modules() for c in type(m).__mro__ if "train" in vars(c)}
    if all(c.__module__.startswith(("torch.", "tlc_minimal.")) for c in own):
        return []
    modules = copied(model, False).train().named_modules()
    norm = nn.modules.batchnorm._NormBase
    return [n for n, m in modules if isinstance(m, norm) and not m.training]


@torch.no_grad()
def eps_of(module: nn.Module) -> float | None:
    """The epsilon with which a module is a batch norm on its running statistics; None if none."""
    mean, var = module.running_mean.detach(), module.running_var.detach()
    if mean is None or mean.ndim != 1:
        return None
    x = torch.randn(2, len(mean), 3, 3, generator=torch.Generator().manual_seed(0)).to(mean)
    gain = [getattr(module, key, None) for key in ("weight", "bias")]
    try:
        probes = copied(module, False), copied(module, False)
        for probe, mode in zip(probes, (True, False)):
            probe.train(mode)
        y, other = [probe(x) for probe in probes]
        if not torch.equal(y, other) or not all(same_tensors(module, p) for p in probes):
            return None
        for eps in (getattr(module, "eps", 1e-5), 1e-5, 1e-3, 0.0):
            if torch.allclose(F.batch_norm(x, mean, var, *gain, False, 0.0, eps), y, 1e-5, 1e-6):
                return eps
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return None


def same_tensors(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def freeze(module: nn.Module) -> None:
    """Make a frozen batch norm, whatever its class, a :class:`Frozen`, in place."""
    eps = eps_of(module)
    tensors = {k: getattr(module, k, None) for k in ("weight", "bias")}
    stats = {k: getattr(module, k) for k in ("running_mean", "running_var")}
    replace_tensors(module, tensors, stats)
    module.__class__, module.eps, module.momentum = Frozen, eps, 0.0
    module.num_features = len(module.running_mean)
    module.affine, module.track_running_stats = module.weight is not None, True


def replace_tensors(module: nn.Module, parameters: dict, buffers: dict) -> None:
    """Let a module hold these, and nothing else; a parameter that was a buffer does not learn."""
    counter = module._buffers.get("num_batches_tracked")
    module._parameters.clear(), module._buffers.clear()
    for key, tensor in parameters.items():
        module.__dict__.pop(key, None)
        if tensor is not None and not isinstance(tensor, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=False)
        module.register_parameter(key, tensor)
    for key, tensor in buffers.items():
        module.register_buffer(key, tensor)
    if counter is not None:
        module.register_buffer("num_batches_tracked", counter)
