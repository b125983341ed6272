"""EGP: prune single weights where entropy is low, until a layer's neurons never change state."""

import torch
from torch import Tensor, fx, nn

from ..cut import producer
from ..data import Data
from ..gaussian import entropy
from ..graph import trace
from ..linearize import linearize
from ..nodes import activation_nodes, module_of
from ..stages import Stage, Task, as_gaussians, as_tensors
from ..statistics import measured_statistics
from .rankings import firing_rates

SHARE = 0.5  # of the weights that are left goes in a round


def egp(task: Task) -> list[Stage]:
    """Liao et al., "Can Unstructured Pruning Reduce the Depth in Deep Neural Networks?", arXiv
    2308.06619 (EGP).

    A round prunes half of the weights, the smallest of each layer first, shared out by
    :func:`budgets`; then comes the tuning, which keeps the zeros, and the next round. A layer of
    entropy 0, whose neurons are all always ON or always OFF, loses its activation (ON: identity,
    OFF: 0), which changes nothing. ValueError for more than the activations that can be emptied.

    As ZhuLIAO001/Unstructured_Relu_Pruning_Reduce_Depth (src/main.py), but: it goes through 9
    rounds of 160 epochs and leaves all activations where they are. Here each round takes one out
    (if half of the weights are too few for that, half of the rest goes, too). It prunes the second
    convolution of a residual block as well; but behind the sum the shortcut keeps neurons alive
    whatever is pruned, so that here only activations fed by one convolution alone take part. Its
    entropies are means over batches of augmented images. It leaves neurons that never change their
    state out of a layer's mean; here they count, as 0.
    """
    there = len(prunable(task.model))
    if task.remove > there:
        raise ValueError(
            f"egp can empty the {there} activations of this model that one convolution feeds, not "
            f"{task.remove}: method='easier' takes out any."
        )
    stage = Stage(lambda m: choose(m, task.data), empty, task.epochs / task.remove, keep_zeros)
    return [stage] * task.remove


def prunable(traced: fx.GraphModule) -> dict[str, nn.Module]:
    """{activation: the convolution or linear layer that alone feeds it}."""
    found = {n: producer(traced, a.args[0]) for n, a in activation_nodes(traced).items()}
    return {name: module_of(traced, node) for name, node in found.items() if node is not None}


def budgets(entropies: Tensor, magnitudes: Tensor, left: Tensor, total: int) -> Tensor:
    """How many of ``total`` weights each layer loses (src/main.py, lines 341 to 392), (layers,).

    Irrelevance I_l = H_l times the mean |weight| of what is ``left``, relevance R_l = sum of I /
    I_l, shares softmax(R). A layer that has less than its share gives all it has, and the others
    share what is missing by the same formula.
    """
    irrelevance = entropies.double() * magnitudes.double()
    given, open_ = left.clone(), torch.ones_like(left, dtype=torch.bool)
    while open_.any():
        rest = total - given[~open_].sum()
        relevance = irrelevance[open_].sum() / irrelevance[open_]
        given[open_] = (relevance.softmax(0) * rest).long()
        short = open_ & (given > left)
        if not short.any():
            break
        given[short], open_ = left[short], open_ & ~short
    if not given.any():  # each share is less than one weight
        given[irrelevance.argmin()] = 1
    return given


def choose(model: fx.GraphModule, data: Data) -> dict[str, Tensor]:
    """{activation: how many weights in front of it go} until a layer has entropy 0, and the
    Gaussian of that one."""
    model = trace(model)
    layers = prunable(model)
    before = {name: left_of(layer) for name, layer in layers.items()}
    while (bits := layer_entropies(model, data, layers)).all():
        prune_round(list(layers.values()), bits)
    name = list(layers)[int(bits.argmin())]
    counts = {n: torch.tensor(before[n] - left_of(layer)) for n, layer in layers.items()}
    return counts | as_tensors([{name: measured_statistics(model, data)[name]}])


def layer_entropies(model: fx.GraphModule, data: Data, names) -> Tensor:
    """Mean entropy in bits of the neurons' states, ON or OFF, as measured, (names,)."""
    rates = firing_rates(model, data)
    return torch.stack([entropy(rates[name]).mean() for name in names]).cpu()


def prune_round(layers: list[nn.Module], entropies: Tensor) -> None:
    """Prune SHARE of the weights that the layers have left, in place."""
    left = torch.tensor([left_of(layer) for layer in layers])
    sizes = torch.tensor([float(layer.weight.detach().abs().sum()) for layer in layers])
    total = max(1, int(SHARE * left.sum()))
    for layer, n in zip(layers, budgets(entropies, sizes / left, left, total)):
        prune(layer.weight.data, int(n))


def left_of(layer: nn.Module) -> int:
    """How many weights of a layer are not 0."""
    return int(layer.weight.count_nonzero())


def prune(weight: Tensor, n: int) -> None:
    """Set the ``n`` smallest weights that are not 0 yet to 0, in place."""
    size = torch.where(weight == 0, torch.inf, weight.abs()).flatten()
    smallest = size.argsort()[:n]
    weight.put_(smallest, weight.new_zeros(len(smallest)))


def empty(model: fx.GraphModule, decision: dict[str, Tensor]) -> fx.GraphModule:
    """A copy with so many weights less, and without the activation that has a Gaussian."""
    smaller = trace(model)
    for name, layer in prunable(smaller).items():
        prune(layer.weight.data, int(decision[name]))
    (emptied,) = as_gaussians(decision)
    return linearize(smaller, list(emptied), emptied, "on_off")


def keep_zeros(model: nn.Module) -> list:
    """Hooks that let no gradient reach a pruned weight; decay and momentum leave a 0 at 0, too."""
    masks = {p: p.detach() != 0 for p in model.parameters() if p.ndim > 1 and p.requires_grad}
    return [p.register_hook(lambda g, mask=mask: g * mask.to(g)) for p, mask in masks.items()]
