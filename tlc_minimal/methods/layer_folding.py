"""Layer Folding: every rectifier learns a slope for z < 0; those nearest to 1 are linear."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..edits import put_module
from ..graph import trace
from ..nodes import activation_nodes, module_of
from ..stages import Stage, Task
from .easier import without

PUSH = 0.25  # lambda of the published code


class Slope(nn.LeakyReLU):
    """z where z > 0, else slope * z, with one learned slope >= 0 a layer, at first 0: a ReLU."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            self.slope.clamp_(min=0)
        return F.prelu(z, self.slope.to(z.dtype))


def layer_folding(task: Task) -> list[Stage]:
    """Ben Dror et al., "Layer Folding", arXiv 2106.09309.

    Half of the budget trains with slopes and the loss L + lambda * sum over l of |1 - slope_l²|;
    then the ``remove`` largest slopes become 1, the others stay as they are, and the other half
    tunes. ValueError for activations other than ReLU.

    As LayerFolding/Layer-Folding (ResNet_Cifar10_prefold.py and _postfold.py), but: it folds what
    has passed 0.9 and steers the number by lambda; the stem's rectifier has no slope there; it
    tunes 100 + 100 epochs at a learning rate of 0.001, without decay or teacher; between the two it
    merges folded pairs into 5x5 and 7x7, exact inside the map only, and here merging comes last.
    """
    kinds = {n: type(module_of(task.model, a)) for n, a in activation_nodes(task.model).items()}
    other = [name for name, kind in kinds.items() if kind is not nn.ReLU]
    if other:
        raise ValueError(
            f"layer_folding learns slopes of rectifiers, and {other[0]} is "
            f"{kinds[other[0]].__name__}: method='easier' takes out any activation."
        )
    half = task.epochs / 2
    learn = Stage(lambda model: {}, with_slopes, half, push)
    return [learn, Stage(lambda m: largest(m, task.remove), fold, half / task.remove)]


def with_slopes(model: fx.GraphModule, decision: dict[str, Tensor]) -> fx.GraphModule:
    """A copy in which every rectifier has a slope to learn; there is nothing to decide."""
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


def largest(model: fx.GraphModule, remove: int) -> dict[str, Tensor]:
    """{activation: slope} of the ``remove`` largest slopes."""
    slopes = {n: module_of(model, a).slope.detach() for n, a in activation_nodes(model).items()}
    return {n: slopes[n] for n in sorted(slopes, key=slopes.get, reverse=True)[:remove]}


def fold(model: fx.GraphModule, names: dict[str, Tensor]) -> fx.GraphModule:
    """A copy without the activations ``names`` (the keys); the other slopes are fixed."""
    folded = copy.deepcopy(model)  # traced it is; read again, a Slope would be no layer
    for name, node in activation_nodes(folded).items():
        slope = module_of(folded, node).slope.item()
        put_module(folded, name, nn.LeakyReLU(max(slope, 0.0)))
    return without(folded, names)
