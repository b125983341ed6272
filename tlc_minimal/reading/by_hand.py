"""Activations that others write by hand (a Swish, a Mish) become those of torch.nn, by trial."""

import copy
from functools import partial

import torch
from torch import Tensor, fx, nn

from .inplace import word
from .layers import ACTIVATION, QuickGELU
from .refuse import in_mode

KNOWN = [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Mish(), nn.GELU(), nn.GELU("tanh"), nn.Hardswish()]
KNOWN += [nn.Tanh(), nn.Softplus(), nn.ELU(), nn.SELU(), *map(nn.LeakyReLU, (0.01, 0.1, 0.2))]
KNOWN += [QuickGELU()]

# What an activation that is written where it is used may be made of: maps of single numbers.
PARTS = {"add", "sub", "mul", "multiply", "div", "truediv", "neg", "pow", "square", "sqrt"}
PARTS |= {"abs", "sign", "exp", "expm1", "log", "log1p", "logaddexp", "erf", "sigmoid"}
PARTS |= {"logsigmoid", "hardsigmoid", "tanh", "softplus", "relu", "relu6", "hardtanh", "elu"}
PARTS |= {"clamp", "clamp_min", "clamp_max", "maximum", "max", "minimum", "min", "where", "gt"}
PARTS |= {"ge", "lt", "le", "heaviside", "masked_fill", "zeros_like", "full_like"}
COMPARED = {"gt", "ge", "lt", "le"}


def known_activation(module: nn.Module) -> nn.Module | None:
    """The activation of torch.nn that a foreign module without tensors computes, number by number,
    in both modes (no dropout, no noise); None if there is none, or if its forward is that one call,
    which is read as such."""
    known = isinstance(module, ACTIVATION) or any(module.state_dict())
    known = known or type(module).__module__.startswith(("torch.", "tlc_minimal."))
    if known or module._forward_hooks or module._forward_pre_hooks:
        return None
    found = computed_in(module, False)
    same = found and repr(found) == repr(computed_in(module, True))
    return found if same and not is_one_call(module) else None


def computed_in(module: nn.Module, training: bool) -> nn.Module | None:
    with in_mode(module, training):
        return computed_by(module)


@torch.inference_mode(False)
@torch.enable_grad()
def computed_by(function) -> nn.Module | None:
    """The activation of torch.nn with this function's values and slopes, tried out; None if there
    is none."""
    near, far = torch.linspace(-9, 9, 96), torch.logspace(-3, 12, 16)
    x = torch.cat([near, far, -far]).reshape(2, 4, 4, 4).requires_grad_()
    given = x.clone()
    try:
        y, turned = function(given), function(x.flip(0, 1, 2, 3))
        (slope,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        same = turned.allclose(y.flip(0, 1, 2, 3), 0, 0, equal_nan=True)
        if (y.shape, y.dtype) != (x.shape, x.dtype) or not same:
            return None
    except Exception:  # it wants something else
        return None
    told = y.isfinite() & slope.isfinite() | (x.abs() < 10)  # exp of much is inf
    for known in KNOWN:
        z = known(x)
        pairs = (z, y), (torch.autograd.grad(z.sum(), x)[0], slope)
        zeros = (y.abs() < 1e-12)[told & (z == 0)].all()  # else it keeps numbers above a small one
        if zeros and all(torch.allclose(a[told], b[told], 1e-5, 1e-6) for a, b in pairs):
            found = copy.deepcopy(known)
            if torch.equal(given, x):
                return found
            found.inplace = True  # what reads its input later reads its output
            return found if torch.equal(given, y) and hasattr(known, "inplace") else None
    return None


def inline_activations(traced: fx.GraphModule) -> dict[fx.Node, tuple[fx.Node, nn.Module]]:
    """{the last node of what computes an activation, as ``x * torch.sigmoid(x)`` does: (its input,
    the activation of torch.nn that it is)}."""
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    runner, found, taken = fx.Interpreter(traced, False), {}, set()
    for end in reversed(order):
        piece, front, cuts = [], {end}, []
        while front and len(piece) < 12 and end not in taken:
            node = max(front, key=order.get)
            if not is_part(traced, node):
                break
            piece.append(node)
            front = front - {node} | {*node.all_input_nodes}
            if len(front) == 1:
                (source,) = front
                known = try_out(runner, piece, source)
                # What follows an activation, and does nothing to what comes out of it, is no part.
                inner = (repr(try_out(runner, piece[n:], source)) for n in cuts)
                if known and repr(known) not in inner:
                    taken.update(piece)
                    if len(piece) > 1:  # else it is one call, which is read as such
                        found[end] = source, known
                cuts.append(len(piece))
    return found


def try_out(runner: fx.Interpreter, piece: list[fx.Node], source: fx.Node) -> nn.Module | None:
    """The activation of torch.nn that nodes behind ``source`` compute, the last one first."""
    return computed_by(partial(run, runner, piece[::-1], source))


def is_part(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node may be part of an activation: a function of numbers that passes gradients."""
    if node.op == "call_module":
        module = traced.get_submodule(node.target)
        plain = type(module).__module__ == "torch.nn.modules.activation"
        return plain and not any(module.state_dict())
    if node.op == "get_attr":  # fx's name for a tensor that the forward makes of a number
        return node.target.startswith("_tensor_constant")
    number = getattr(node.target, "__module__", "") == "math"
    if number or not node.op.startswith("call") or node.meta.get("no_grad"):
        return False
    if word(node) in ("float", "to", "type_as"):  # of a mask only: else a type is chosen
        return word(node.all_input_nodes[0]) in COMPARED
    return word(node) in PARTS


def run(runner: fx.Interpreter, nodes: list[fx.Node], source: fx.Node, x: Tensor) -> Tensor:
    """What the last of ``nodes`` makes of the value ``x`` of ``source``."""
    runner.env = {source: x}
    for node in nodes:
        runner.env[node] = runner.run_node(node)
    return runner.env[nodes[-1]]


def is_one_call(module: nn.Module) -> bool:
    """Whether a forward is a single call; not if torch.fx cannot follow it."""
    try:
        nodes = fx.symbolic_trace(module).graph.nodes
    except Exception:
        return False
    return sum(node.op.startswith("call") for node in nodes) == 1


def become(module: nn.Module, known: nn.Module) -> None:
    """Make a module that one, in place, in its own mode."""
    module.__class__ = type(known)
    module.__dict__ = vars(known) | {"training": module.training}
