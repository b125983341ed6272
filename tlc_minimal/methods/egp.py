"""EGP: prune single weights where entropy is low, until a layer's neurons never change state."""

import torch
from torch import Tensor, fx, nn

from ..collapse import Run
from ..cut import producer
from ..data import Data
from ..gaussian import entropy
from ..graph import trace
from ..linearize import linearize
from ..nodes import activation_nodes, module_of
from ..statistics import firing_rates, measured_statistics
from .stages import Stage, Task, in_stages

ROUND = 0.1  # of the weights that are left and may go, in each round of pruning


def egp(model: nn.Module, data: Data, task: Task) -> Run:
    """Liao et al., "Can Unstructured Pruning Reduce the Depth in Deep Neural Networks?", arXiv
    2308.06619 (EGP), with the budgets of its successor NEPENTHE, arXiv 2404.16890.

    Before each removal weights are pruned in rounds (:func:`budgets`), the smallest of each layer
    first, until a layer has entropy 0: each of its neurons is then always ON or always OFF, and
    taking the activation out (ON: identity, OFF: 0) changes nothing. Tuning keeps the zeros.
    Behind a residual sum the shortcut keeps neurons alive whatever is pruned, so that only
    activations fed by one convolution can go. ValueError if that is too few.
    """
    there = len(prunable(trace(model, share=True)))
    if task.remove > there:
        raise ValueError(
            f"egp can empty the {there} activations of this model that one convolution feeds, not "
            f"{task.remove}: method='easier' takes out any."
        )
    stage = Stage(lambda m: empty_one(m, data), task.epochs / task.remove, keep_zeros)
    return in_stages(model, data, task, "egp", [stage] * task.remove)


def prunable(traced: fx.GraphModule) -> dict[str, nn.Module]:
    """{activation: the convolution or linear layer that alone feeds it}."""
    found = {n: producer(traced, a.args[0])[0] for n, a in activation_nodes(traced).items()}
    return {name: module_of(traced, node) for name, node in found.items() if node is not None}


def budgets(entropies: Tensor, magnitudes: Tensor, left: Tensor, total: int) -> Tensor:
    """How many of ``total`` weights each layer loses (NEPENTHE, section 3.3), integers (layers,).

    Irrelevance I_l = H_l times the mean |weight| of what is ``left``; relevance for pruning
    R_l = sum of I / I_l; shares exp(R_l - max R), normalised. What a layer does not have, the next
    in the order of R gives.
    """
    irrelevance = entropies.double() * magnitudes.double()
    relevance = irrelevance.sum() / irrelevance
    wanted = (relevance.softmax(0) * total).long()
    given = wanted.minimum(left)
    for l in relevance.argsort(descending=True):
        given[l] += min(int(left[l] - given[l]), total - int(given.sum()))
    return given


def empty_one(model: fx.GraphModule, data: Data) -> fx.GraphModule:
    """A copy of ``model``, pruned until an activation has entropy 0, and without that one."""
    pruned = trace(model)
    layers = prunable(pruned)
    while True:
        rates = firing_rates(pruned, data)
        entropies = torch.stack([entropy(rates[n]).mean() for n in layers]).cpu()
        if (entropies == 0).any():
            break
        weights = [m.weight.data for m in layers.values()]
        left = torch.tensor([int(w.count_nonzero()) for w in weights])
        magnitudes = torch.tensor([float(w.abs().sum() / w.count_nonzero()) for w in weights])
        total = max(1, int(ROUND * left.sum()))
        for w, n in zip(weights, budgets(entropies, magnitudes, left, total)):
            prune(w, int(n))
    name = list(layers)[int(entropies.argmin())]
    return linearize(pruned, name, {name: measured_statistics(pruned, data)[name]}, "on_off")


def prune(weight: Tensor, n: int) -> None:
    """Set the ``n`` smallest weights that are not 0 yet to 0, in place."""
    size = torch.where(weight == 0, torch.inf, weight.abs()).flatten()
    smallest = torch.zeros_like(size, dtype=torch.bool)
    smallest[size.argsort()[:n]] = True
    weight[smallest.view_as(weight)] = 0


def keep_zeros(model: nn.Module) -> list:
    """Hooks that let no gradient reach a pruned weight; decay and momentum leave a 0 at 0, too."""
    masks = {p: p.detach() != 0 for p in model.parameters() if p.ndim > 1 and p.requires_grad}
    return [p.register_hook(lambda g, mask=mask: g * mask) for p, mask in masks.items()]
