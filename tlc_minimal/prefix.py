"""The validation loss without each of many parts, one at a time: what is in front runs once."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from tqdm.auto import tqdm

from .data import Data
from .train import like_of


class Swap(NamedTuple):
    """What takes the place of all that lies between two nodes: a map of ``entry``'s value."""

    entry: fx.Node
    end: fx.Node
    map: Callable[[Tensor], Tensor]


class Without(fx.Interpreter):
    """Runs a network; wherever one of ``swaps`` ends also the rest of it, with the swap made, whose
    output is then in ``outputs``: n swaps cost about n / 2 passes, not n."""

    def __init__(self, traced: fx.GraphModule, swaps: dict[Hashable, Swap]):
        super().__init__(traced)
        self.swaps, self.rest, self.outputs = swaps, fx.Interpreter(traced), {}
        entries = {swap.entry for swap in swaps.values()}
        for dropped in self.user_to_last_uses.values():
            dropped[:] = [node for node in dropped if node not in entries]

    def run_node(self, node: fx.Node):
        for key, swap in self.swaps.items():
            if swap.end is node:
                done = dict.fromkeys(n for n in node.graph.nodes if n < node)
                new = swap.map(self.env[swap.entry])
                self.outputs[key] = self.rest.run(initial_env=done | self.env | {node: new})
        return super().run_node(node)


@torch.no_grad()
def swapped_losses(
    traced: fx.GraphModule, swaps: dict[Hashable, Swap], data: Data, images: int,
    title: str, progress: bool,
) -> dict[Hashable, float]:  # fmt: skip
    """{key: mean cross-entropy in nats on the first ``images`` of the validation split with that
    swap made}, and under "" that of the network itself; it is in eval mode."""
    run, like = Without(traced, swaps), like_of(traced)
    total, (xs, ys) = {}, (part[:images].split(250) for part in data.val)
    for x, y in tqdm(list(zip(xs, ys)), title, disable=not progress, leave=False):
        run.outputs[""] = run.run(data.normalize(x.to(like.device)).to(like))
        for key, out in run.outputs.items():
            loss = F.cross_entropy(out.float(), y.to(like.device), reduction="sum")
            total[key] = total.get(key, 0.0) + loss
    return {key: float(loss) / min(images, len(data.val.labels)) for key, loss in total.items()}
