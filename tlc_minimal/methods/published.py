"""TLC as its authors released it: OFF filters are masked for good, and nothing is cut.

Source: TLC_ResNet18.py in github.com/ZhuLIAO001/TLC, to whose lines the numbers here refer.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..channels import normalizes
from ..cut import cut, cut_branch, replace_branch
from ..data import Data
from ..edits import bypass, finish, insert_after
from ..gaussian import Gaussian
from ..graph import trace
from ..nodes import activation_nodes, calls, is_private, is_sum, module_of
from ..reading.layers import NORM
from ..stages import Stage, Task, as_gaussians, as_tensors
from ..statistics import from_batch_norm
from ..train import like_of
from .easier import still_to_go
from .lacoot import branch_and_shortcut
from .rankings import last_norm

BATCH = 128
# Of 160 epochs a round (lines 202 to 208).
SCHEDULE = {"lr": 0.1, "schedule": "steps", "weight_decay": 1e-4, "smoothing": 0.0}


def published(task: Task, set_rule: bool = True) -> list[Stage]:
    """Liao et al., "Till the Layers Collapse", arXiv 2412.15077, as released for ResNet-18.

    Each round takes out one activation, or with ``set_rule`` a set (:func:`select`), by the loss on
    128 randomly augmented validation images (:func:`losses`). A channel is OFF where β of the
    paired batch norm is <= 0 (:func:`pairs`); where it is exactly 0 they keep γ (line 590). Nobody
    teaches. A set is no larger than what is left to remove. The tuning is everybody's:
    ``**SCHEDULE`` is the code's own, whose momentum is not Nesterov's.
    ValueError for an activation that no batch norm can be paired with.
    """
    pairs(task.model)

    def choose(model):
        known = assumed(model)
        loss = losses(model, task.data, known, seed=1000 * task.seed + len(known))
        names = select(list(known), loss, set_rule)[: still_to_go(task, model)]
        return as_tensors([{name: known[name] for name in names}])

    def change(model, decision):
        return mask(model, *as_gaussians(decision))

    return [Stage(choose, change, task.epochs / task.remove)] * task.remove


def pairs(traced: fx.GraphModule) -> dict[str, tuple[nn.Module, nn.Module]]:
    """{activation: its convolution and its batch norm}: behind a residual sum those that end the
    branch (conv2 and bn2, lines 446 to 452), whatever the shortcut adds."""
    found = {}
    for name, node in activation_nodes(traced).items():
        end = branch_and_shortcut(node.args[0])[0] if is_sum(node.args[0]) else node.args[0]
        if not _is_normalised(traced, end):
            raise ValueError(
                f"{name} follows no convolution that feeds a batch norm alone, whose β the "
                "published code reads: method='one_by_one' measures instead."
            )
        found[name] = module_of(traced, end.args[0]), module_of(traced, end)
    return found


def published_statistics(model: nn.Module) -> dict[str, Gaussian]:
    """What the published code uses: gamma and beta of the last batch norm before the activation,
    also behind a residual sum, where it is the branch's, and misses the mean of the shortcut.

    {name: Gaussian} as in :func:`statistics`; ValueError for an activation without a batch norm.
    """
    traced = trace(model, share=True)
    nodes = activation_nodes(traced)
    return {name: from_batch_norm(last_norm(traced, node)) for name, node in nodes.items()}


def assumed(model: fx.GraphModule) -> dict[str, Gaussian]:
    """{activation: β and |γ| of its batch norm, as if its input were that alone}."""
    return {name: from_batch_norm(norm) for name, (_, norm) in pairs(model).items()}


def select(names: list[str], loss: Callable[[list[str]], float], set_rule: bool) -> list[str]:
    """Which activations go, by the ``loss`` of the network without a list of them.

    The one without which the loss is lowest; if it lowers the loss, the set grows in the order of
    the single losses, until the loss exceeds what it was, and all of that set goes, the last one
    included. If it never does, up to all but one, one goes (lines 506 to 559).
    """
    before = loss([])
    alone = {name: loss([name]) - before for name in names}
    order = sorted(names, key=alone.get)
    if set_rule and alone[order[0]] < 0:
        for size in range(2, len(order)):
            if loss(order[:size]) > before:
                return order[:size]
    return order[:1]


def losses(
    model: fx.GraphModule, data: Data, known: dict[str, Gaussian], seed: int
) -> Callable[[list[str]], float]:
    """The loss without a list of activations: cross-entropy on the first 128 validation images,
    which are augmented anew each time it is asked for (lines 114 to 134, 210 to 220)."""
    device = like_of(model).device
    images, labels = (part[:BATCH].to(device) for part in data.val)
    data, generator = data.to(device), torch.Generator(device).manual_seed(seed)

    @torch.no_grad()
    def loss(names: list[str]) -> float:
        candidate = mask(model, {name: known[name] for name in names}).eval()
        x = data.augment(images, generator).to(like_of(model))
        return float(F.cross_entropy(candidate(x).float(), labels))

    return loss


def reference(model, data, names, replacement, seed) -> dict[str, float]:
    """The published code's ranking as a rule for :func:`tlc_minimal.rank`: the rise of its loss."""
    traced = trace(model, share=True)
    loss = losses(traced, data, assumed(traced), seed)
    before = loss([])
    return {name: loss([name]) - before for name in names}


def mask(model: fx.GraphModule, known: dict[str, Gaussian]) -> fx.GraphModule:
    """A copy without the activations whose β and γ are ``known``; filter, γ and β of the channels
    that are OFF are 0 (lines 562 to 597). Bias and running mean are our addition: γ hides
    both, what it scales is then 0, neither filter nor γ gets a gradient, no tuning moves them."""
    traced = trace(model)
    found, there = pairs(traced), activation_nodes(traced)
    for name, g in known.items():
        conv, norm = found[name]
        for tensor in (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean):
            if tensor is not None:
                tensor.data[~g.on] = 0
        bypass(there[name], there[name].args[0])
    return finish(traced)


def masked(traced: fx.GraphModule) -> Iterator[tuple[fx.Node, Tensor]]:
    """The batch norms with masked channels: (node, which), as they are when asked for."""
    for node in list(traced.graph.nodes):
        if _is_normalised(traced, node):
            filters, norm = module_of(traced, node.args[0]).weight, module_of(traced, node)
            off = (filters.flatten(1) == 0).all(1) & (norm.weight == 0)
            if off.any():
                yield node, off


def cut_constants(model: fx.GraphModule) -> fx.GraphModule:
    """A copy without the masked channels that can be cut, the network as it could be shipped: the
    same function in eval mode.

    Such a channel is the constant β, which moves into the bias of the layers that read it (in front
    of zero padding it is a map, which a channel of ones carries). On a residual stream none can be
    cut, but a branch that is constant altogether goes.
    """
    traced = trace(model)
    for norm, off in masked(traced):
        conv, keep, shift = norm.args[0], ~off, module_of(traced, norm).bias.detach()
        nothing = off.new_zeros(module_of(traced, conv).weight.shape[1])
        if off.all() and replace_branch(traced, conv, nothing):
            continue
        here = insert_after(traced, norm, f"{norm.target}_constants", nn.Identity())
        if not (off.all() and cut_branch(traced, here, shift)):
            keep[0] |= off.all()  # a layer keeps one channel, if only to be there
            cut(traced, here, keep, shift)
        bypass(here, norm)
    return finish(traced)


def _is_normalised(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a batch norm with γ and β, called once, behind a convolution of its own."""
    norm, conv = module_of(traced, node), node.args[0] if node.args else None
    if not isinstance(norm, NORM) or norm.weight is None or calls(traced, node) > 1:
        return False
    return is_private(traced, conv) and normalizes(traced, node, conv)
