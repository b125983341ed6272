"""Layer Folding: every rectifier learns a slope for z < 0; those nearest to 1 are linear."""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..collapse import Run
from ..data import Data
from ..graph import trace
from ..linearize import linearize
from ..nodes import activation_nodes, module_of, put_module
from .stages import Stage, Task, in_stages

PUSH = 0.25  # lambda of the published code


class Slope(nn.LeakyReLU):
    """z where z > 0, else slope * z, with one learned slope >= 0 a layer, at first 0: a ReLU."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            self.slope.clamp_(min=0)
        return F.prelu(z, self.slope)


def layer_folding(model: nn.Module, data: Data, task: Task) -> Run:
    """Ben Dror et al., "Layer Folding", arXiv 2106.09309.

    Half of the budget trains with slopes and the loss L + lambda * sum over l of |1 - slope_l²|;
    then the ``remove`` largest slopes become 1, the others stay as they are, and the other half
    tunes. (The paper folds what has passed 0.9 and steers the number by lambda.)
    ValueError for activations other than ReLU.
    """
    traced = trace(model, share=True)
    other = [n for n in activation_nodes(traced) if type(traced.get_submodule(n)) is not nn.ReLU]
    if other:
        kind = type(traced.get_submodule(other[0])).__name__
        raise ValueError(
            f"layer_folding learns slopes of rectifiers, and {other[0]} is {kind}: "
            "method='easier' takes out any activation."
        )
    half = task.epochs / 2
    stages = [Stage(with_slopes, half, push), Stage(lambda m: fold(m, data, task.remove), half)]
    return in_stages(model, data, task, "layer_folding", stages)


def with_slopes(model: fx.GraphModule) -> fx.GraphModule:
    """A copy in which every rectifier has a slope to learn."""
    sloped = trace(model)
    like = next(sloped.parameters())
    for name in activation_nodes(sloped):
        put_module(sloped, name, Slope().to(like))
    return sloped


def push(model: nn.Module) -> list:
    """Hooks that add the gradient of lambda * |1 - slope²| to each slope's own."""
    return [
        m.slope.register_hook(lambda gradient, slope=m.slope: gradient + penalty(slope.detach()))
        for m in model.modules()
        if isinstance(m, Slope)
    ]


def penalty(slope: Tensor) -> Tensor:
    """Derivative of PUSH * |1 - slope²|."""
    return -2 * PUSH * slope * torch.sign(1 - slope**2)


def fold(model: fx.GraphModule, data: Data, remove: int) -> fx.GraphModule:
    """A copy without the ``remove`` activations of largest slope; the other slopes are fixed."""
    folded = trace(model)
    slopes = {n: module_of(folded, a).slope.item() for n, a in activation_nodes(folded).items()}
    names = sorted(slopes, key=slopes.get, reverse=True)
    for name in names[remove:]:
        put_module(folded, name, nn.LeakyReLU(max(slopes[name], 0.0)))
    return linearize(folded, names[:remove], data, "identity")
