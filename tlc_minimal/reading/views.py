"""Views that put the last axes together are written as ``flatten``: no size stands in the way."""

import math
from contextlib import redirect_stderr
from io import StringIO

import torch
from torch import Tensor, fx

from ..edits import bypass
from .fits import example_of
from .refuse import in_eval


def flatten_views(traced: fx.GraphModule, example) -> None:
    """Write ``y.view(x.size(0), -1)``, ``y.view(-1, 288)`` and whatever else computes the same as
    ``y.flatten(1)`` in that way, in place; ``y.view(n, c, -1)`` as ``y.flatten(2)``.

    What a view computes is seen in batches of two and of three images: a size is a multiple of
    their number or does not depend on it, so that what holds for both holds for all.
    """
    views = [n for n in traced.graph.nodes if n.target in ("view", "reshape", torch.reshape)]
    if not views or example is None:
        return
    seen = []
    try:
        x, like = example_of(example, traced)[:1], next(traced.parameters(), torch.empty(0))
        for count in (2, 3):
            run = fx.Interpreter(traced, garbage_collect_values=False)
            with torch.no_grad(), in_eval(traced), redirect_stderr(StringIO()):
                run.run(torch.cat([x] * count).to(like.device, like.dtype))
            seen.append({n: v.shape for n, v in run.env.items() if isinstance(v, Tensor)})
    except Exception:  # what the model does not accept is said by those who need it
        return
    for node in views:
        source, joined = node.all_input_nodes[0], {_joined(node, shapes) for shapes in seen}
        if len(joined) == 1 and None not in joined:
            with traced.graph.inserting_before(node):
                new = traced.graph.call_function(torch.flatten, (source, *joined))
            new.meta = dict(node.meta)
            bypass(node, new)


def _joined(node: fx.Node, shapes: dict) -> int | None:
    """The axis, not the first, from which on a view joins all axes of its input; else None."""
    before, after = shapes.get(node.all_input_nodes[0], ()), shapes.get(node, ())
    axis = len(after) - 1
    joined = 0 < axis < len(before) and after == (*before[:axis], math.prod(before[axis:]))
    kinds = [v for v in (*node.args, *node.kwargs.values()) if isinstance(v, torch.dtype)]
    return axis if joined and not kinds else None
