"""Batch norms that keep their statistics for ever, whatever their class is called."""

import torch
import torch.nn.functional as F
from torch import nn

from .tracer import copied


def held_in_eval(model: nn.Module) -> list[str]:
    """The batch norms that a model's own ``train()`` leaves in eval mode, as a ``norm_eval``."""
    own = {c for m in model.modules() for c in type(m).__mro__ if "train" in vars(c)}
    if all(c.__module__.startswith(("torch.", "tlc_minimal.")) for c in own):
        return []
    modules = copied(model, False).train().named_modules()
    norm = nn.modules.batchnorm._NormBase
    return [n for n, m in modules if isinstance(m, norm) and not m.training]


@torch.no_grad()
def frozen_eps(module: nn.Module) -> float | None:
    """The epsilon of a foreign module that is a batch norm and never trains its statistics: it has
    their names, and per channel it computes what a batch norm in eval mode does. Else None."""
    if isinstance(module, nn.modules.batchnorm._NormBase) or module._modules:
        return None
    tensors = module._parameters | module._buffers
    mean, var = tensors.get("running_mean"), tensors.get("running_var")
    if mean is None or var is None or mean.ndim != 1 or "forward" in vars(module):
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
