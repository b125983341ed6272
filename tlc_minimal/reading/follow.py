"""A model becomes a graph, and the graph must compute what the model computes."""

import copy
import keyword
import re
import sys
import warnings
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from ..edits import finish
from .activations import name_activations
from .layers import ByMode, Frozen, unused
from .plain import read
from .refuse import in_eval, not_accepted, tensors_in, untraceable
from .tracer import copied
from .views import flatten_views

ALIKE = WeakKeyDictionary()  # the code of a copy that was tried; a warning, and where it was told
HIDE = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
OURS = __name__.partition(".")[0], "torch."
TAKEN = {"code", "graph", "meta", *keyword.kwlist}  # a GraphModule has these itself


@contextmanager
def untouched(model: nn.Module):
    """The random numbers to come, and what the model's classes hold (a cache), stay as they are."""
    classes = {c for m in model.modules() for c in type(m).__mro__}
    classes = [c for c in classes if not c.__module__.startswith("torch.")]
    held = [v for c in classes for v in vars(c).values() if type(v) in (dict, list)]
    before = [copy.copy(value) for value in held]
    gpus = {p.device for p in model.parameters() if p.is_cuda}
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        for value, was in zip(held, before):
            value.clear()
            value.update(was) if isinstance(value, dict) else value.extend(was)


def follow(model: nn.Module, share: bool, x: Tensor | None, data) -> fx.GraphModule:
    """The traced copy of a model. ``x``: an input; with it the forward may ask for shapes, and the
    copy is tried against the model. ``data``: what has or yields such inputs, or None. ValueError
    if the forward cannot be followed, or if the two differ."""
    with untouched(model):
        for example in [None] if x is None else [None, x]:
            try:
                with untouched(model):  # a cache would give a proxy to whoever runs it next
                    graph, root = read(model, share, example)
            except Exception as error:
                if example is not x:
                    continue
                refused = "" if x is None else not_accepted(model, x)
                raise ValueError(refused or untraceable(model, error, x)) from error
            traced = assemble(model, graph, root, data)
            code, warning, told = ALIKE.get(model, ("", "", set()))
            if x is not None and code != traced.code:
                if why := unlike(model, traced, x):
                    continue
                warning = "" if example is None else of_one_size(model, traced, x)
                warning, told = warning or of_hidden(traced), set()
                ALIKE[model] = traced.code, warning, told
            if warning:
                warn(warning, told)
            return traced
        raise ValueError(f"{type(model).__name__} cannot be followed: {why}")


def assemble(model: nn.Module, graph: fx.Graph, root: nn.Module, data) -> fx.GraphModule:
    """The graph with its modules, each in the mode it has in the model."""
    keep_blocks(model, graph)
    name_functions(graph, root)
    rename_taken(graph, root)
    traced = fx.GraphModule(root, graph, type(model).__name__)
    traced._non_persistent_buffers_set |= root._non_persistent_buffers_set  # torch 2.11 forgets
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in traced.named_modules():
        while name not in modes:
            name = name.rpartition(".")[0]
        module.training = modes[name] and not isinstance(module, Frozen)
    name_activations(traced)
    flatten_views(traced, data)
    return finish(traced)


def keep_blocks(model: nn.Module, graph: fx.Graph) -> None:
    """Copy from a traced model which modules its nodes are in: a second reading cannot see it. The
    n-th call of a thing is that of the first; fx may ask for a device, say, at another time."""
    what = lambda node: (node.op, str(node.target))
    graphs = (model.graph if isinstance(model, fx.GraphModule) else fx.Graph()), graph
    was, now = (sorted(g.nodes, key=what) for g in graphs)
    for old, node in zip(was, now) if [*map(what, was)] == [*map(what, now)] else ():
        node.meta["nn_module_stack"] = old.meta.get("nn_module_stack", {})


def name_functions(graph: fx.Graph, root: nn.Module) -> None:
    """Let a module call what has no name by which code could: an autograd.Function's ``apply``."""
    for node in graph.nodes:
        kind = getattr(node.target, "__self__", None)
        if isinstance(kind, type) and issubclass(kind, torch.autograd.Function):
            name = unused(root, kind.__name__)
            root.add_module(name, ByMode(node.target, []))
            node.op, node.target = "call_module", name


def rename_taken(graph: fx.Graph, root: nn.Module) -> None:
    """Give the children, parameters and buffers whose names a GraphModule needs itself (an
    autoencoder's ``code``) other ones."""
    holders = root._modules, root._parameters, root._buffers
    for holder, name in [(h, n) for h in holders for n in TAKEN.intersection(h)]:
        free = lambda path, name=name: re.sub(rf"^{name}(?=\.|$)", f"{name}_", path)
        holder[f"{name}_"] = holder.pop(name)
        for node in graph.nodes:
            if node.op in ("call_module", "get_attr"):
                node.target = free(node.target)
            stack = node.meta.get("nn_module_stack") or {}
            node.meta["nn_module_stack"] = {k: (free(p), kind) for k, (p, kind) in stack.items()}


@torch.no_grad()
def unlike(model: nn.Module, traced: fx.GraphModule, x: Tensor) -> str:
    """How the copy differs from its model in eval mode, on some images, on one more and on one;
    empty if it does not, or if the model does not take so many, or is random."""
    twin = copied(model, share=False)
    for batch in (x, torch.cat([x, x[:1]]), x[:1]):
        if not differs_on(twin, traced, batch):
            continue
        if batch is x:
            return (
                "its copy computes something else; the forward may change a tensor in place, "
                "compare self.training, use autocast or ask what its input is: write that another "
                "way."
            )
        return (
            f"for {len(batch)} images its copy does something else than for {len(x)}, the forward "
            "makes a number of the batch size or branches on it: use x.shape[0], not len(x), and "
            "neither loop nor branch."
        )
    return ""


@torch.no_grad()
def differs_on(twin: nn.Module, traced: fx.GraphModule, x: Tensor) -> bool:
    """Whether a copy does something else; not if the model takes no such input, or is random."""
    try:
        want = _run(twin, x)
    except Exception:  # whatever it is that the model cannot
        return False
    if any(t.is_meta for t in want):
        return False
    try:
        with redirect_stderr(StringIO()):  # fx prints an error, too
            got = _run(traced, x)
    except Exception:
        return True
    if [t.shape for t in got] != [t.shape for t in want]:
        return True
    return not _close(got, want) and _close(_run(twin, x, seed=1), want)


def of_one_size(model: nn.Module, traced: fx.GraphModule, x: Tensor) -> str:
    """What to say if the copy of a forward that asked for shapes differs on other sizes: a multiple
    of this one, one that is no multiple of what this one may be a multiple of, smaller ones, and
    each axis on its own."""
    one = x[:1]
    larger = one.repeat(1, 1, *(max(2, -(-32 // side)) for side in x.shape[2:]))
    odd = larger[(..., *[slice(0, -3)] * (x.ndim - 2))]
    sizes = [larger, odd, *(one[(..., *[slice(s // n) for s in x.shape[2:]])] for n in (2, 4))]
    for axis in range(1, x.ndim):
        sizes += [torch.cat([one, one], axis), one.narrow(axis, 0, x.shape[axis] // 2)]
    twin = copied(model, share=False)
    if not any(differs_on(twin, traced, some) for some in sizes):
        return ""
    return (
        f"the copy of {type(model).__name__} holds for inputs of {tuple(x.shape[1:])} only, as its "
        "forward makes a number of their size, branches on it or loops over it: give an example of "
        "the size that you need."
    )


def of_hidden(traced: fx.GraphModule) -> str:
    """What to say if a module that is read as one step holds activations and layers."""
    if hidden := [type(m).__name__ for m in traced.modules() if isinstance(m, HIDE)]:
        return (
            f"nn.{hidden[0]} is read as one step: neither its activations nor its layers are seen. "
            "Write it out of nn.MultiheadAttention, nn.LayerNorm, nn.Linear and an activation."
        )
    return ""


def warn(text: str, told: set) -> None:
    """Once a line of those who call the library, however often it reads the model meanwhile."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(OURS):
        frame, level = frame.f_back, level + 1
    if (line := (frame.f_code.co_filename, frame.f_lineno)) not in told:
        told.add(line)
        warnings.warn(text, stacklevel=level)


def _run(network: nn.Module, x: Tensor, seed: int = 0) -> list[Tensor]:
    with in_eval(network), torch.random.fork_rng():
        torch.manual_seed(seed)
        return [t.detach().double() for t in tensors_in(network(x.clone()))]


def _close(got: list[Tensor], want: list[Tensor]) -> bool:
    """Equal but for rounding, NaN where the other is NaN."""
    pairs = [(a.nan_to_num(), b.nan_to_num()) for a, b in zip(got, want)]
    return all((a - b).norm() <= 1e-3 * b.norm().clamp_min(1e-12) for a, b in pairs)
