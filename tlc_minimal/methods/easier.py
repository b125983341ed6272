"""EASIER: the activation whose neurons change their state least becomes the identity."""

import torch
from torch import Tensor, fx

from ..edits import bypass, finish
from ..graph import trace
from ..nodes import activation_nodes
from ..rank import rank
from ..stages import Stage, Task


def easier(task: Task) -> list[Stage]:
    """Quétu, Liao, Tartaglione, "The Simpler The Better", arXiv 2404.18949 (EASIER).

    p_i: share of the training images' pixels at which neuron i is ON; entropy of a layer
    H_l = mean over i of -p_i log2 p_i - (1 - p_i) log2(1 - p_i). argmin over l of H_l becomes the
    identity (ON or OFF, all channels), and with it all others of entropy 0; then comes the tuning.

    As VGCQ/EASIER (main.py), but: entropies are of images as they are, in eval mode (theirs: means
    over the batches of the last epoch of training); zero is OFF (utils.py: ON); the tuning is
    everybody's (theirs: 160 epochs).
    """

    def choose(model):
        entropies = rank(model, task.data, "entropy", "identity")
        names = [n for n, h in entropies.items() if h == 0] or list(entropies)[:1]
        return {n: torch.empty(0) for n in names[: still_to_go(task, model)]}

    return [Stage(choose, without, task.epochs / task.remove)] * task.remove


def still_to_go(task: Task, model: fx.GraphModule) -> int:
    """How many activations ``model`` has to lose, until it has lost what the task asks for."""
    return task.remove - len(activation_nodes(task.model)) + len(activation_nodes(model))


def without(model: fx.GraphModule, names: dict[str, Tensor]) -> fx.GraphModule:
    """A copy in which the activations ``names`` (the keys) are the identity."""
    traced = trace(model)
    nodes = activation_nodes(traced)
    for name in names:
        bypass(nodes[name], nodes[name].args[0])
    return finish(traced)
