"""LaCoOT's block dropping: a residual block that hardly moves its input's distribution goes."""

import torch
from torch import Tensor, fx, nn

from ..data import Data, input_batches
from ..edits import bypass, finish
from ..graph import trace
from ..nodes import activation_nodes, is_sum
from ..stages import Stage, Task
from ..train import like_of

IMAGES, DIRECTIONS = 512, 64


def lacoot_without_regulariser(task: Task) -> list[Stage]:
    """Quétu et al., "LaCoOT: Layer Collapse through Optimal Transport", arXiv 2406.08933, without
    its regulariser.

    Blocks relu(branch + shortcut) whose output is closest to their shortcut in max-sliced
    Wasserstein distance are replaced by it, all at once, with every activation inside.
    ValueError without residual blocks, or if whole blocks cannot make up ``remove``.

    What VGCQ/LaCoOT (train.py, check_removability.py) does and this does not: it trains from
    scratch with lambda times the mean distance as a penalty; of a ResNet-18 it drops only the
    second block of each stage (each alone, then the deepest two, three and four, whatever the
    distances; the first stage's first block, an identity as well, stays), and does not tune
    afterwards. Here the dense network is everybody's, distances choose, a strided block becomes its
    1x1, and the whole budget tunes.
    """

    def nearest(model):
        names = choose(distances(model, task.data, task.seed), task.remove)
        return {name: torch.empty(0) for name in names}

    if task.data is not None:  # else a finished run is read, and nothing to be refused
        nearest(task.model)
    return [Stage(nearest, drop, None)]


def blocks(traced: fx.GraphModule) -> dict[str, tuple[fx.Node, fx.Node]]:
    """{last activation: (its node, the node of the shortcut)} of the residual blocks."""
    ends = {n: a for n, a in activation_nodes(traced).items() if is_sum(a.args[0])}
    return {n: (a, branch_and_shortcut(a.args[0])[1]) for n, a in ends.items()}


def branch_and_shortcut(total: fx.Node) -> list[fx.Node]:
    """The two summands of a residual sum, the one with more nodes before it first."""
    return sorted(total.args, key=_ancestors, reverse=True)


def distances(model: nn.Module, data: Data, seed: int) -> dict[str, tuple[float, int]]:
    """{block: (distance of output and shortcut, activations inside)}, nearest first."""
    traced = trace(model, share=True).eval()
    found = blocks(traced)
    if not found:
        raise ValueError(
            "lacoot_without_regulariser drops residual blocks, and this model has none: "
            "method='easier' takes out single activations."
        )
    run = fx.Interpreter(traced, garbage_collect_values=False)
    with torch.no_grad():
        x = torch.cat(list(input_batches(data, IMAGES)))
        run.run(x.to(like_of(model)))
    there, values = len(activation_nodes(traced)), {}
    for name, (node, shortcut) in found.items():
        far = max_sliced(run.env[shortcut], run.env[node], seed)
        values[name] = far, there - len(activation_nodes(drop(traced, [name])))
    return dict(sorted(values.items(), key=lambda item: item[1]))


def max_sliced(x: Tensor, y: Tensor, seed: int) -> float:
    """Max-sliced Wasserstein-2 distance of two samples (N, ...), over DIRECTIONS random unit
    vectors: on a line, optimal transport pairs the smallest with the smallest."""
    x, y = x.flatten(1).double(), y.flatten(1).double()
    generator = torch.Generator().manual_seed(seed)
    rays = torch.randn(x.shape[1], DIRECTIONS, generator=generator, dtype=torch.float64)
    rays = (rays / rays.norm(dim=0)).to(x.device)
    gaps = (x @ rays).sort(0).values - (y @ rays).sort(0).values
    return float(gaps.square().mean(0).max().sqrt())


def choose(found: dict[str, tuple[float, int]], remove: int) -> list[str]:
    """Blocks in order until ``remove`` activations are gone; ValueError if that cannot be."""
    chosen, gone = [], 0
    for name, (_, inside) in found.items():
        if gone < remove:
            chosen, gone = [*chosen, name], gone + inside
    if gone != remove:
        raise ValueError(
            f"lacoot_without_regulariser drops whole blocks, which takes out {gone} activations "
            f"here, not {remove}: ask for {gone}, or method='easier' takes out any number."
        )
    return chosen


def drop(model: fx.GraphModule, names) -> fx.GraphModule:
    """A copy in which the blocks that end in the activations ``names`` are their shortcuts."""
    traced = trace(model)
    for name in names:
        bypass(*blocks(traced)[name])
        finish(traced)
    return traced


def _ancestors(node: fx.Node) -> int:
    seen, todo = set(), [node]
    while todo:
        for before in todo.pop().all_input_nodes:
            if before not in seen:
                seen.add(before)
                todo.append(before)
    return len(seen)
