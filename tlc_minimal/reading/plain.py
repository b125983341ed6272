"""Foreign layers become plain ones: what a layer is, is what it computes, not its class's name."""

import operator
import warnings
from collections import Counter
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from ..edits import bypass
from .classes import configure, plain_modules, turn_plain
from .frozen import held_in_eval
from .layers import DROPOUT, ByMode, Frozen, Norm, unused
from .proxies import FACTORIES
from .tracer import Flag, Reader, Rereader, copied

ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
CALLS = {  # functions that are layers if their tensors are a module's own; names of the arguments
    F.linear: (nn.Linear, ARGUMENTS[:3]),
    F.conv1d: (nn.Conv1d, ARGUMENTS),
    F.conv2d: (nn.Conv2d, ARGUMENTS),
    F.conv3d: (nn.Conv3d, ARGUMENTS),
    F.prelu: (nn.PReLU, ARGUMENTS[:2]),
    F.batch_norm: (
        Norm,
        ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    ),
    torch.batch_norm: (
        Norm,
        ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
    ),
}
DROPOUTS = {getattr(F, kind.__name__.lower()): kind for kind in DROPOUT}


def read(model: nn.Module, share: bool, example: Tensor | None = None):
    """The graph of a model's forward, and the copy of the model that it belongs to."""
    root = copied(model, share)
    turns = plain_modules(root)
    for norm in map(root.get_submodule, [] if share else held_in_eval(model)):
        norm.__class__ = Frozen
        turns.pop(norm, None)
    reader = Reader(example, turns)
    graph, asked = reader.trace(root), frozenset(reader.asked)
    made = [getattr(torch, name) for name in FACTORIES]
    beyond = any(n.target in made or isinstance(n.target, type) for n in graph.nodes)
    graph._tracer_cls = Rereader if beyond else fx.Tracer  # what reads a pickled copy
    for module in root.modules():
        module.__dict__.pop("_check_input_dim", None)
        module.training = False
    turn_plain(root, graph, turns)
    norm = nn.modules.batchnorm._NormBase
    lost = [n for n in sorted(asked) if not isinstance(model.get_submodule(n), norm)]
    if lost and not share:
        warnings.warn(
            f"the forward of {lost[0] or 'the model'} branches on its mode: the copy does in both "
            "what it does in eval mode. Make what it does in training a module of its own.",
            stacklevel=4,
        )
    plain_calls(root, graph, asked)
    return graph, root


def plain_calls(model: nn.Module, graph: fx.Graph, asked: set[str]) -> None:
    """Make modules of the functions that are layers, and of those that ask for the mode; drop what
    passes everything; what ran under ``no_grad`` gives no gradient. ``asked``: the modules whose
    forward branches on its mode."""
    ask_apart(model, graph)
    reads = Counter(n.target for n in graph.nodes if n.op == "get_attr" for _ in n.users)
    called = {n.target for n in graph.nodes if n.op == "call_module"}
    for node in list(graph.nodes):
        if node.op == "call_module" and not node.args and "input" in node.kwargs:
            node.args, node.kwargs = (node.kwargs["input"],), {}
        if node.op == "call_module" and type(model.get_submodule(node.target)) is nn.Identity:
            bypass(node, node.all_input_nodes[0])
        elif node.target is torch._assert:
            graph.erase_node(node)  # a user of what it asks about, although it computes nothing
        elif node.target in (operator.add, torch.add) and 0 in node.args and not node.kwargs:
            other = [a for a in node.args if isinstance(a, fx.Node)]
            if len(other) == 1:
                bypass(node, other[0])  # sum([a, b]) begins with 0
        elif node.op == "call_function" and node.target in CALLS:
            as_layer(model, node, reads, called, asked)
        if node.op == "call_function":
            follow_mode(model, node)
    for node in [n for n in graph.nodes if n.meta.get("no_grad") and n.op != "get_attr"]:
        outside = [u for u in node.users if not u.meta.get("no_grad")]
        if outside:
            with graph.inserting_after(node):
                cut = graph.call_function(detached, (node,))
            cut.meta |= node.meta
            cut.meta["is_wrapped"] = True  # else torch looks into it when it reads a pickled copy
            node.replace_all_uses_with(cut, lambda user, outside=outside: user in outside)


def ask_apart(model: nn.Module, graph: fx.Graph) -> None:
    """Let an empty buffer say where a weight lies and of what type it is, so that the weight itself
    is read by its layer only."""
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        asks = [u for u in node.users if u.target is getattr and u.args[1] in ("device", "dtype")]
        weight = attrgetter(node.target)(model).detach()
        if asks and weight.numel():
            name = unused(model, "like")
            model.register_buffer(name, weight.new_empty(0), persistent=False)
            with graph.inserting_before(node):
                like = graph.get_attr(name)
            for ask in asks:
                ask.replace_input_with(node, like)
            if not node.users:
                graph.erase_node(node)


def detached(value):
    """What a forward computed under ``no_grad``."""
    return value.detach() if isinstance(value, Tensor) else value


def as_layer(model: nn.Module, node: fx.Node, reads: Counter, called: set, asked: set) -> None:
    """Turn a call of F.conv2d and the like into one of a module, if its tensors are parameters (or
    buffers) that nothing else reads."""
    kind, names = CALLS[node.target]
    given = dict(zip(names, node.args)) | node.kwargs
    keys = [k for k in ("weight", "bias", "running_mean", "running_var") if k in names]
    read = {k: given[k] for k in keys if given.get(k) is not None}
    plain = all(isinstance(n, fx.Node) and n.op == "get_attr" for n in read.values())
    needed = {"running_mean", "running_var"} if kind is Norm else {"weight"}
    if not plain or not needed <= read.keys() or any(reads[n.target] > 1 for n in read.values()):
        return
    if kind not in (Norm, nn.PReLU) and attrgetter(read["weight"].target)(model).ndim < 2:
        return  # F.linear takes a vector, too
    options = {k: given[k] for k in names if k in given and k not in (*keys, "input")}
    if any(isinstance(a, fx.Node) for v in options.values() for a in tree_leaves(v)):
        return
    owners = {n.target.rpartition(".")[0] for n in read.values()}
    owner = min(owners)
    if owner in called:
        return
    tensors = {k: attrgetter(read[k].target)(model) if k in read else None for k in keys}
    module = model.get_submodule(owner)
    own = owner and isinstance(module, nn.modules.batchnorm._BatchNorm if kind is Norm else kind)
    own = own and {*module._parameters, *module._buffers} <= {*keys, "num_batches_tracked"}
    if kind is Norm and not isinstance(mode := options.pop("training", False), Flag):
        if mode:
            return
        kind = kind if own and owner in asked else Frozen  # F.batch_norm(…, training=False)
    alone = own and len(owners) == 1
    name = owner if alone else unused(model, f"{owner}.{kind.__name__.lower()}")
    if name != owner:
        module = nn.Module()
        model.set_submodule(name, module)
    configure(module, kind, tensors, options)
    called.add(name)
    node.op, node.target, node.args, node.kwargs = "call_module", name, (given["input"],), {}


def follow_mode(model: nn.Module, node: fx.Node) -> None:
    """Make a module of a function that was given ``self.training``: it follows the mode."""
    given = tree_leaves((node.args, node.kwargs))
    if (flag := next((a for a in given if isinstance(a, Flag)), None)) is None:
        return
    if node.target in DROPOUTS:
        given = dict(zip(("input", "p", "training", "inplace"), node.args)) | node.kwargs
        options = {k: given[k] for k in ("p", "inplace") if k in given}
        module, args, kwargs = DROPOUTS[node.target](**options), (given["input"],), {}
    else:
        places = [i for i, a in enumerate(node.args) if isinstance(a, Flag)]
        places += [k for k, a in node.kwargs.items() if isinstance(a, Flag)]
        module = ByMode(node.target, places)
        args, kwargs = map_aggregate(
            (node.args, node.kwargs), lambda v: False if isinstance(v, Flag) else v
        )
    name = unused(model, f"{flag.name}.{getattr(node.target, '__name__', 'function')}")
    model.set_submodule(name, module)
    node.op, node.target, node.args, node.kwargs = "call_module", name, args, kwargs
