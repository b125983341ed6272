"""The validation loss without each activation, one at a time: what is in front of it runs once."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from tqdm.auto import tqdm

from .data import Data
from .graph import trace
from .train import device_of


class Without(fx.Interpreter):
    """Runs a network; at every activation in ``lines`` also the rest of it, with the line in its
    place, whose output is then in ``outputs``: n activations cost about n / 2 passes, not n."""

    def __init__(self, traced: fx.GraphModule, lines: dict[str, Callable[[Tensor], Tensor]]):
        super().__init__(traced)
        self.lines, self.rest, self.outputs = lines, fx.Interpreter(traced), {}

    def run_node(self, node: fx.Node):
        if node.target in self.lines:
            # What was dropped because nobody needs it again need only be known as done.
            done = dict.fromkeys(n for n in node.graph.nodes if n < node)
            line = self.lines[node.target](self.env[node.args[0]])
            # A copy, because the rest may work in place.
            known = dict(zip(self.env, copy.deepcopy(list(self.env.values()))))
            self.outputs[node.target] = self.rest.run(initial_env=done | known | {node: line})
        return super().run_node(node)


@torch.no_grad()
def losses(
    model: nn.Module, lines: dict[str, Callable], data: Data, progress: bool = False
) -> dict[str, float]:
    """{activation: mean cross-entropy in nats on the validation split with ``lines[activation]`` in
    its place}, and under "" that of the model itself, in eval mode, as ``evaluate`` takes it."""
    run, device = Without(trace(model, share=True).eval(), lines), device_of(model)
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    total, batches = {}, list(zip(data.val.images.split(500), data.val.labels.split(500)))
    for x, y in tqdm(batches, desc="rank", disable=not progress, leave=False):
        run.outputs[""] = run.run(data.normalize(x.to(device)).to(dtype))
        for name, out in run.outputs.items():
            loss = F.cross_entropy(out.float(), y.to(device), reduction="sum")
            total[name] = total.get(name, 0.0) + loss
    return {name: float(loss) / len(data.val.labels) for name, loss in total.items()}
