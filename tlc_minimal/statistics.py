"""Mean and spread of every pre-activation: read from BN where it feeds it, measured elsewhere.

A batch norm knows: its output has mean beta and standard deviation |gamma| (TLC, arXiv 2412.15077,
section 3). After a residual sum, or without a batch norm, nobody knows before measuring.
"""

import torch
from torch import Tensor, fx, nn

from .channels import channel_dim
from .data import input_batches
from .gaussian import Gaussian
from .graph import find_shapes, trace
from .nodes import activation_nodes, find_nodes, looked_through, module_of
from .reading.fits import data_for
from .reading.layers import NORM
from .reading.refuse import check_finite, reason

CALIBRATION = 2048  # images; lesson 01 shows how the error falls with their number


def statistics(model: nn.Module, data, names=None) -> dict[str, Gaussian]:
    """{name: Gaussian(mean, std)} of every activation's input (``names``: of these activations
    only), in forward order, eval mode.

    ``data``: a tensor of inputs, a DataLoader or a Data (its first 2,048 training images are used).
    ValueError if the model cannot be traced or does not accept a batch, a name is unknown, an
    activation has no channels, or a weight or measured value is not finite.
    """
    traced = trace(model, share=True, example=data).eval()
    nodes = activation_nodes(traced) if names is None else find_nodes(traced, names)
    fed_by = {n: module_of(traced, looked_through(traced, a.args[0])) for n, a in nodes.items()}
    found = {n: from_batch_norm(m) for n, m in fed_by.items() if isinstance(m, NORM)}
    found |= measured(traced, data, [name for name in nodes if name not in found])
    return {name: found[name] for name in nodes}


def measured_statistics(model: nn.Module, data) -> dict[str, Gaussian]:
    """The same, but measured everywhere: the yardstick for what BN claims."""
    return measured(trace(model, share=True, example=data).eval(), data)


def from_batch_norm(norm: nn.Module) -> Gaussian:
    """Gaussian of a batch norm's output: mean beta, std |gamma| sqrt(var / (var + eps)).
    ValueError for one without running statistics."""
    if norm.running_var is None:
        raise ValueError("a batch norm without running statistics says nothing: measure instead.")
    var = norm.running_var.detach()
    shrink = (var / (var + norm.eps)).sqrt()
    gamma = torch.ones_like(var) if norm.weight is None else norm.weight.detach().abs()
    beta = torch.zeros_like(var) if norm.bias is None else norm.bias.detach().clone()
    return Gaussian(beta, gamma * shrink)


class Welford:
    """Mean and variance per channel in one pass, batch after batch (Chan, Golub, LeVeque 1983)."""

    def __init__(self, dim: int):
        self.dim, self.count, self.mean, self.squares = dim, 0, 0.0, 0.0

    def update(self, x: Tensor) -> None:
        """Take in a batch with channels along ``dim``."""
        x = x.detach().movedim(self.dim, 0).flatten(1).double()
        count, mean = x.shape[1], x.mean(1)
        total, delta = self.count + count, mean - self.mean
        self.squares += ((x - mean[:, None]) ** 2).sum(1) + delta**2 * self.count * count / total
        self.count, self.mean = total, self.mean + delta * count / total

    def result(self) -> Gaussian:
        """Mean and (population) standard deviation, float32, shape (channels,)."""
        return Gaussian(self.mean.float(), (self.squares / self.count).sqrt().float(), self.dim)


def measured(traced: fx.GraphModule, data, names=None, see=lambda z: z) -> dict[str, Gaussian]:
    """{name: Gaussian} of ``see(z)``, each (channels,), z what the activations ``names`` (None:
    all) of a network in eval mode receive. Errors as in :func:`statistics`."""
    check_finite(traced)
    data = data_for(traced, data)
    shapes = find_shapes(traced, data)  # refuses what is no example, though none may be needed
    nodes, tally = activation_nodes(traced), {}
    for name in nodes if names is None else names:
        if len(shapes[nodes[name]]) < 2:
            raise ValueError(f"{name} has no channels: a number an image is all that it takes.")
        tally[name] = Welford(channel_dim(traced, nodes[name]))
        see_in = lambda _, inputs, name=name: tally[name].update(see(inputs[0]))
        traced.get_submodule(name).register_forward_pre_hook(see_in)  # of a copy: it stays
    like = next(traced.parameters(), torch.empty(0))
    with torch.no_grad(), torch.random.fork_rng([]):
        for batch in input_batches(data, limit=CALIBRATION) if tally else ():
            try:
                traced(batch.to(like))
            except RuntimeError as error:
                what = f"the model does not accept a batch of shape {tuple(batch.shape)}"
                raise ValueError(f"{what}: {reason(error)}") from error
    found = {name: t.result() for name, t in tally.items()}
    if broken := [n for n, g in found.items() if not (g.mean + g.std).isfinite().all()]:
        raise ValueError(f"the input of {broken[0]} is not finite: the model or the data hold NaN.")
    return found
