"""Activations that others write by hand (a Swish, a Mish) become those of torch.nn, by trial."""

import copy

import torch
from torch import fx, nn

from .layers import ACTIVATION

KNOWN = [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Mish(), nn.GELU(), nn.GELU("tanh"), nn.Hardswish()]
KNOWN += [nn.Tanh(), nn.Softplus(), nn.ELU(), nn.SELU(), *map(nn.LeakyReLU, (0.01, 0.1, 0.2))]


def known_activation(module: nn.Module) -> nn.Module | None:
    """The activation of torch.nn that a foreign module without tensors computes, number by number;
    None if there is none, or if its forward is that one call, which is read as such."""
    known = isinstance(module, ACTIVATION) or any(module.state_dict())
    known = known or type(module).__module__.startswith(("torch.", "tlc_minimal."))
    if known or module._forward_hooks or module._forward_pre_hooks:
        return None
    x, mode = torch.linspace(-9, 9, 96).reshape(2, 4, 3, 4), module.training
    module.training = False
    given = x.clone()
    try:
        y, turned = module(given), module(x.flip(0, 1, 2, 3))
        same = [k for k in KNOWN if torch.allclose(k(x), y, 1e-5, 1e-6)]
        if not same or not torch.equal(turned, y.flip(0, 1, 2, 3)) or is_one_call(module):
            return None
    except Exception:  # it wants something else
        return None
    finally:
        module.training = mode
    found = copy.deepcopy(same[0])
    if torch.equal(given, x):
        return found
    found.inplace = True  # what reads its input later reads its output
    return found if torch.equal(given, y) and hasattr(same[0], "inplace") else None


def is_one_call(module: nn.Module) -> bool:
    """Whether a forward is a single call; not if torch.fx cannot follow it."""
    try:
        nodes = fx.symbolic_trace(module).graph.nodes
    except Exception:
        return False
    return sum(node.op.startswith("call") for node in nodes) == 1


def become(module: nn.Module, known: nn.Module) -> None:
    """Make a module that one, in place, in its own mode."""
    mode = module.training
    module.__class__, module.__dict__ = type(known), vars(known)
    module.training = mode
