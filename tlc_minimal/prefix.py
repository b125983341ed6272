"""Many variants of one model in one pass: what they have in common is computed, and kept, once.

The graphs of all variants become branches of one graph. A branch leaves the base where the first
difference is: ranking n activations costs about n / 2 passes instead of n.
"""

from collections.abc import Iterable
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from tqdm.auto import tqdm

from .data import Data
from .graph import trace
from .train import device_of


def side_by_side(model: nn.Module, variants: Iterable[fx.GraphModule]) -> fx.GraphModule:
    """One model, in eval mode, that returns a tuple: what ``model`` and each of its ``variants``
    (from ``linearize``, which are used up) return, each (N, classes) for inputs (N, ...).

    It holds the tensors of ``model`` itself and of a variant only what differs: run it, do not
    train it. Only nodes named as in ``trace(model)`` are found to be the same. ValueError if the
    model cannot be traced.
    """
    base = trace(model, share=True).eval()
    graph, copies, known = fx.Graph(), {}, parts(base)
    outputs, everything = [graph.graph_copy(base.graph, copies)], dict(known)
    place = {node: i for i, node in enumerate(base.graph.nodes)}
    for i, variant in enumerate(variants):
        share(variant.eval(), base)
        own, same = parts(variant), unchanged(variant, base)
        border = [node for node in same if node.users.keys() - same.keys()]
        last = max((same[node] for node in border), key=place.get)
        new = {node: copies[twin] for node, twin in same.items()}
        # Not at the end: code that fx generates drops a value after its last use.
        with graph.inserting_before(copies[last].next):
            new |= {node: graph.call_function(_fresh, (new[node],)) for node in border}
            outputs.append(graph.graph_copy(variant.graph, new))
        for node in new.keys() - same.keys():
            if node.target in own and not equal(own[node.target], known.get(node.target)):
                new[node].target = f"{node.target}@{i}"
                everything[new[node].target] = own[node.target]
    graph.output(tuple(outputs))
    return fx.GraphModule(everything, graph).eval()


@torch.no_grad()
def losses(joint: fx.GraphModule, data: Data, progress: bool = False) -> list[float]:
    """The mean cross-entropy on the validation split, as ``evaluate`` takes it, of every output of
    :func:`side_by_side`; ``progress`` shows a bar over the batches."""
    device, (images, labels), total = device_of(joint), data.val, 0.0
    dtype = next((p.dtype for p in joint.parameters()), torch.float32)
    batches = list(zip(images.split(500), labels.split(500)))
    for x, y in tqdm(batches, desc="validate", disable=not progress, leave=False):
        outputs, y = joint(data.normalize(x.to(device)).to(dtype)), y.to(device)
        each = [F.cross_entropy(out.float(), y, reduction="sum") for out in outputs]
        total = total + torch.stack(each)
    return [loss / len(labels) for loss in total.tolist()]


def share(variant: fx.GraphModule, base: fx.GraphModule) -> None:
    """Let ``variant`` hold the very tensors of ``base`` wherever its own of that name are equal."""
    known = dict([*base.named_parameters(), *base.named_buffers()])
    for name, tensor in [*variant.named_parameters(), *variant.named_buffers()]:
        if equal(tensor, known.get(name)):
            owner, _, last = name.rpartition(".")
            setattr(variant.get_submodule(owner), last, known[name])


def unchanged(variant: fx.GraphModule, base: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """{node of ``variant``: the node of ``base`` that has the same name and the same value}."""
    twins = {node.name: node for node in base.graph.nodes if node.op != "output"}
    own, known, same = parts(variant), parts(base), {}
    for node in variant.graph.nodes:
        twin = twins.get(node.name)
        inputs = fx.map_arg((node.args, node.kwargs), lambda n: same.get(n, n))
        alike = twin is not None and (twin.op, twin.target) == (node.op, node.target)
        alike = alike and (twin.args, twin.kwargs) == inputs
        if alike and equal(own.get(node.target), known.get(node.target)):
            same[node] = twin
    return same


def parts(traced: fx.GraphModule) -> dict[str, nn.Module | Tensor]:
    """{target: module or tensor} of everything that the nodes of a traced model call or read."""
    nodes = [node for node in traced.graph.nodes if node.op in ("call_module", "get_attr")]
    return {node.target: attrgetter(node.target)(traced) for node in nodes}


def equal(a, b) -> bool:
    """Whether two modules (or tensors) agree in type, settings and, bit for bit, every tensor."""
    if a is b or type(a) is not type(b):
        return a is b
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    settings = [{k: v for k, v in vars(m).items() if not k.startswith("_")} for m in (a, b)]
    inner = [m._parameters | m._buffers | m._modules for m in (a, b)]
    alike = settings[0] == settings[1] and inner[0].keys() == inner[1].keys()
    return alike and all(equal(v, inner[1][k]) for k, v in inner[0].items())


def _fresh(value):
    # A copy: what follows may write into it (``x += y``), and the others read it, too.
    return value.clone() if isinstance(value, Tensor) else value
