"""Taking an activation out little by little: while tuning, it fades into the line it becomes.

The same idea as Layer Folding's slopes (Dror et al., arXiv 2106.09309), but on a schedule: in
front is relu(z), at the end slope * z + shift, and no step changes the network by much.
"""

import torch
from torch import Tensor, fx, nn

from .gaussian import Gaussian
from .graph import find_node, trace
from .linearize import RULES, rule_at
from .nodes import channel_dim, module_of, put_module


class Fading(nn.Module):
    """(1 - t) f(z) + t (slope * z + shift), per channel; each training step raises t by 1/steps,
    up to 1."""

    def __init__(self, f: nn.Module, slope: Tensor, shift: Tensor, dim: int, steps: int):
        super().__init__()
        self.f, self.dim, self.steps = f, dim, steps
        for name, value in (("slope", slope), ("shift", shift), ("t", torch.zeros(()))):
            self.register_buffer(name, value.clone())

    def forward(self, z: Tensor) -> Tensor:
        if self.training:
            self.t.add_(1 / self.steps).clamp_(max=1)
        shape = [1] * z.ndim
        shape[self.dim] = -1
        line = self.slope.reshape(shape) * z + self.shift.reshape(shape)
        return torch.lerp(self.f(z), line.to(z.dtype), self.t.to(z.dtype))


def fade(model: nn.Module, name: str, g: Gaussian, rule: str, steps: int) -> fx.GraphModule:
    """A copy of ``model`` in which the activation ``name`` becomes, within ``steps`` training
    steps, the line that ``linearize`` would put there; :func:`faded` takes the fading out again.

    ValueError for an unknown name.
    """
    traced = trace(model)
    node, like = find_node(traced, name), next(traced.parameters())
    f = module_of(traced, node)
    line = RULES[rule_at(traced, node, rule)](g, torch.relu if isinstance(f, nn.ReLU) else f)
    slope, shift = (v.to(like) for v in line)
    put_module(traced, name, Fading(f, slope, shift, channel_dim(traced, node), steps))
    return traced


def faded(model: fx.GraphModule, name: str) -> fx.GraphModule:
    """The network of :func:`fade`, with its weights as they are now and the activation back."""
    put_module(model, name, model.get_submodule(name).f)
    return model
