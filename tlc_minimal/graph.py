"""Reads any model through torch.fx: which activations there are, what feeds them, what they feed.

``trace`` turns a model into a ``GraphModule`` (an ordinary nn.Module that also carries its graph)
in which every call of an activation is a module of its own with a stable name: a ReLU called twice
as ``layer1.0.relu`` becomes ``layer1.0.relu1`` and ``layer1.0.relu2``, a functional ``F.relu``
becomes a module beside it. Everything else in the library works on that graph, never on names.
"""

from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from .channels import channel_dim
from .nodes import activation_nodes, is_sum, looked_through, module_of
from .reading.axes import shape_of
from .reading.fits import at_hand, example_of
from .reading.follow import follow
from .reading.layers import NORM
from .reading.refuse import check_model, check_plain, check_read_once, in_eval, reason
from .reading.tracer import first_input


@dataclass(frozen=True)
class Layer:
    """One removable activation.

    ``name`` in the traced model, ``kind`` ("ReLU"), number of ``channels``, ``norm``: the batch
    norm it follows directly (or None), ``after_sum``: whether it follows a residual sum.
    """

    name: str
    kind: str
    channels: int
    norm: str | None
    after_sum: bool


def trace(model: nn.Module, share: bool = False, example=None) -> fx.GraphModule:
    """A traced deep copy of ``model``, every activation call a module of its own, none in place.

    ``share``: all but the tensors is copied; for those who only read them. ``example``: an input
    (tensor, DataLoader or Data), needed where the forward asks for shapes; the copy is tried on it
    (not on a stream's) against the model. ValueError if torch.fx cannot follow the forward, or the
    copy computes something else; TypeError for what is no model.
    """
    check_model(model)
    first_input(model)
    if (x := at_hand(example, model)) is None:  # a stream is drawn on only where need be
        try:
            return follow(model, share, None, example)
        except ValueError:
            if example is None:
                raise
        x = example_of(example, model)
    return follow(model, share, x[:2].to(next(model.parameters(), x)), example)


def editable(model: nn.Module, example=None) -> fx.GraphModule:
    """:func:`trace` for those who change layers; ValueError also for what
    :func:`reading.refuse.check_plain` refuses, and for weights that are read twice."""
    check_plain(model)
    traced = trace(model, example=example)
    check_read_once(traced)
    return traced


def find_layers(model: nn.Module, example) -> list[Layer]:
    """The removable activations of ``model`` in forward order.

    ``example``: an input batch, or anything that has or yields one (Data, DataLoader).
    TypeError or ValueError if the model or the example cannot be used.
    """
    traced = trace(model, share=True, example=example).eval()
    shapes = find_shapes(traced, example)
    layers = []
    for node in activation_nodes(traced).values():
        before, kind = looked_through(traced, node.args[0]), type(module_of(traced, node)).__name__
        norm = before.target if isinstance(module_of(traced, before), NORM) else None
        channels = shapes[node][channel_dim(traced, node)] if len(shapes[node]) > 1 else 1
        layers.append(Layer(node.target, kind, channels, norm, after_sum=is_sum(before)))
    return layers


def find_shapes(traced: fx.GraphModule, example) -> dict[fx.Node, tuple[int, ...]]:
    """The shape of every tensor-valued node when the traced model runs (in eval) on ``example``."""
    x = example_of(example, traced)
    quiet = redirect_stderr(StringIO())  # its errors
    try:
        with torch.no_grad(), in_eval(traced), quiet, torch.random.fork_rng([]):
            ShapeProp(traced).propagate(x.to(next(traced.parameters(), x)))
    except RuntimeError as error:
        what = f"the model does not accept an example of shape {tuple(x.shape)}"
        raise ValueError(f"{what}: {reason(error.__cause__ or error)}") from error
    return {node: s for node in traced.graph.nodes if (s := shape_of(node)) is not None}
