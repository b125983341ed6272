"""A linear piece of a network is one layer: run it, and read the layer off.

Nothing here derives how batch norms, strides, dilations, groups, biases, shortcuts and sums
compose: a piece with one input is *run*, in float64. One of its output pixels, backpropagated, is
the kernel; what it makes of zeros is the bias. It is one convolution only if no zeros are put
between its layers, that is, if framing its input with zeros frames its output and changes nothing
within. RepVGG (arXiv 2101.03697) and DiverseBranchBlock (arXiv 2103.13425) derive the same kernels
case by case; lesson 03 does so on small tensors.
"""

import copy
import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .channels import MAP, aligned, slope_and_shift
from .modules import LEAVES
from .nodes import calls, is_sum, module_of, name_of
from .padding import left_padding, width
from .reading.axes import shape_of
from .reading.layers import CONV

MOST = 2**27  # numbers in one layer, or to run it once: a gigabyte in float64


class Piece(NamedTuple):
    """Linear ``nodes``, in forward order, into which only ``source`` leads and out of which only
    the last one leads; ``modules``: what they call (of :func:`extract` copies in float64)."""

    source: fx.Node
    nodes: tuple[fx.Node, ...]
    modules: dict[fx.Node, nn.Module]

    @property
    def layers(self) -> dict[fx.Node, nn.Module]:
        """Its convolutions or linear layers."""
        return {n: self.modules[n] for n in self.nodes if isinstance(self.modules.get(n), CONV)}

    @property
    def name(self) -> str:
        """That of the layer that has most layers in front of it within the piece."""
        depth = {self.source: 0}
        for node in self.nodes:
            depth[node] = max(depth[n] for n in node.all_input_nodes) + (node in self.layers)
        return str(max(self.layers, key=depth.get).target)

    @property
    def dims(self) -> int:
        """Number of spatial dimensions; 0 of linear layers."""
        return next(iter(self.layers.values())).weight.ndim - 2

    def __call__(self, x: Tensor) -> Tensor:
        """Run it; ValueError where branches of different sizes would be added."""
        values = {self.source: x}
        for node in self.nodes:
            inputs = [values[before] for before in node.all_input_nodes]
            if node in self.modules:
                values[node] = self.modules[node](*inputs)
            elif inputs[0].shape != inputs[1].shape:
                raise ValueError("branches of different sizes meet")
            else:
                values[node] = inputs[0] + inputs[1]
        return values[self.nodes[-1]]


def extract(traced: fx.GraphModule, source: fx.Node, nodes) -> Piece:
    """A piece with copies of its modules: nothing that is done to it reaches the network."""
    called = {n: module_of(traced, n) for n in nodes}
    fixed = lambda module: copy.deepcopy(module).double().requires_grad_(False)
    return Piece(source, tuple(nodes), {n: fixed(m) for n, m in called.items() if m is not None})


def grow(traced: fx.GraphModule, end: fx.Node) -> tuple[list[list[fx.Node]], str]:
    """The linear pieces that end in ``end``, in at most two layers one behind the other: each
    [source, *nodes], the smallest first; and why there is no larger one, unless that is because no
    linear map is in front. The graph's shapes are known (``find_shapes``)."""
    depth, frontier, found = {}, {end}, []
    while True:
        node = max(frontier)  # the last in forward order: no path from it leads to the others
        module, shapes = module_of(traced, node), {shape_of(n) for n in node.all_input_nodes}
        if not (isinstance(module, CONV + MAP) or is_sum(node) and shapes == {shape_of(node)}):
            layers = [n.target for n in sorted(depth) if isinstance(module_of(traced, n), CONV)]
            if isinstance(module, LEAVES):
                return found, f"{node.target} is in front, which no layer takes in"
            met = f"{' and '.join(layers)} meet at a sum, with different inputs"
            return found, met if len(layers) > 1 and len(frontier) > 1 else ""
        if depth and not node.users.keys() <= depth.keys():
            users = ", ".join(name_of(user) for user in node.users)
            return found, f"{name_of(node)} feeds {users}"
        if module and calls(traced, node) > 1:
            return found, f"{node.target} is called more than once"
        behind = max((depth[user] for user in node.users if user in depth), default=0)
        depth[node] = behind + isinstance(module, CONV)
        if depth[node] > 2:
            return found, ""
        frontier = (frontier - {node}).union(node.all_input_nodes)
        if len(frontier) == 1 < len(depth) and max(depth.values()):
            found.append([*frontier, *reversed(depth)])


def obstacle(f: Piece) -> str:
    """Why no single layer computes ``f``; empty if one does. Cheap next to reading it off."""
    layers = f.layers
    if len({isinstance(layer, nn.Linear) for layer in layers.values()}) > 1:
        return "one is a convolution, the other a linear layer"
    for node, layer in layers.items() if f.dims else ():
        if layer.padding_mode != "zeros":
            return f"{node.target} pads with {layer.padding_mode}, and only zero padding composes"
        if layer.padding == "same" and any(w % 2 for w in width(layer)):
            return f"{node.target} pads one side more than the other; an odd kernel would not"
    like = next(iter(layers.values()))
    if not all(aligned(node, f.modules[node], like) for node in f.modules):
        return "a batch norm between them works along another axis"
    inputs, far, taps = inputs_of(f), extent(f), max(m.weight[0].numel() for m in layers.values())
    pairs = len([*layers.values()][-1].weight) * inputs[0].shape[1]
    size = pairs * math.prod(r for r, *_ in far), taps * math.prod(r + 2 * s for r, s, _ in far)
    if max(size) > MOST:
        return "as one they would have {:,} weights, and a run takes {:,} numbers".format(*size)
    frame = [n for _, stride, _ in reversed(far) for n in (stride, stride)]
    try:
        for x in inputs:
            y = f(x)
            within = (..., *[slice(1, n + 1) for n in y.shape[2:]])
            if not same(f(F.pad(x, frame))[within], y):
                return "zeros are put between them"
    except ValueError as error:
        return str(error)
    return ""


def read(f: Piece) -> nn.Module:
    """The nn.Linear or nn.Conv1d/2d/3d that computes ``f``, in float64 and eval mode; groups that
    all its layers have it has, too. ValueError if there is none (see :func:`obstacle`)."""
    inputs, far = inputs_of(f), extent(f)
    bias = f(0 * inputs[0]).transpose(0, 1).flatten(1)[:, 0]
    padding = [(reach - 1 - lost) // 2 for reach, _, lost in far]
    one = write(response(f), bias, [stride for _, stride, _ in far], padding, f)
    if not all(same(one(x), f(x)) for x in inputs):
        raise ValueError("together they are no layer of this kind")
    return one


def response(f: Piece) -> Tensor:
    """What an output pixel far from the border sees: a kernel (out, in, *size). Backpropagated: the
    gradient of a convolution is a transposed convolution."""
    last = [*f.layers.values()][-1].weight
    seen = {f.nodes[-1]: torch.eye(len(last)).to(last)[(..., *[None] * f.dims)]}
    for node in reversed(f.nodes):
        rows, module = seen.pop(node), f.modules.get(node)
        if isinstance(module, nn.Linear):
            rows = rows @ module.weight
        elif isinstance(module, CONV):
            rows = transposed(rows, module)
        elif module is not None:
            rows = rows * slope_and_shift(module)[0].reshape(-1, *[1] * f.dims)
        for before in node.all_input_nodes:
            seen[before] = add(seen[before], rows) if before in seen else rows
    return seen[f.source]


def transposed(rows: Tensor, layer: nn.Module) -> Tensor:
    """The transposed convolution of ``rows`` by a layer's weight, a matrix product a tap: in
    float64 PyTorch's own takes several times as long."""
    dims = list(zip(rows.shape[2:], layer.kernel_size, layer.stride, layer.dilation))
    size = [(r - 1) * s + (k - 1) * d + 1 for r, k, s, d in dims]
    weight = layer.weight.unflatten(0, (layer.groups, -1))
    out = rows.new_zeros(len(rows), layer.groups, weight.shape[2], *size)
    rows = rows.unflatten(1, (layer.groups, -1))
    for tap in itertools.product(*map(range, layer.kernel_size)):
        at = [slice(t * d, t * d + (r - 1) * s + 1, s) for t, (r, _, s, d) in zip(tap, dims)]
        out[(..., *at)] += torch.einsum("ogc...,gci->ogi...", rows, weight[(..., *tap)])
    return out.flatten(1, 2)


def add(a: Tensor, b: Tensor) -> Tensor:
    """The sum of two kernels about the same pixel: branches whose outputs agree in size take as
    much off the map, so the larger kernel sees as many pixels more on one side as on the other."""
    more = [(n - m) // 2 for m, n in zip(a.shape[:1:-1], b.shape[:1:-1])]  # the last axis first
    frame = lambda sign: [max(0, sign * n) for n in more for _ in (0, 1)]
    return F.pad(a, frame(1)) + F.pad(b, frame(-1))


def write(kernel: Tensor, bias: Tensor, stride, padding, f: Piece) -> nn.Module:
    """The layer with this kernel (out, in, *size), in as many groups as divide those of all layers
    of ``f``: what lies between two such groups is 0, as norms and sums keep channels apart."""
    out, into, *size = kernel.shape
    if f.dims:
        groups = math.gcd(*[layer.groups for layer in f.layers.values()])
        blocks = kernel.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))
        kernel = blocks.diagonal(0, 0, 2).movedim(-1, 0).flatten(0, 1)
        one = CONV[f.dims - 1](into, out, size, stride, padding, groups=groups, device="meta")
    else:
        one = nn.Linear(into, out, device="meta")
    one.weight, one.bias = nn.Parameter(kernel.contiguous()), nn.Parameter(bias.clone())
    return one.eval()


def inputs_of(f: Piece) -> list[Tensor]:
    """Noise in all the sizes that make a difference at the borders: modulo the stride, and large
    enough that some output sees no border, whatever the padding."""
    first, module = next((n, m) for n, m in f.modules.items() if f.source in n.all_input_nodes)
    if first in f.layers:
        into = module.weight.shape[1] * getattr(module, "groups", 1)
    else:
        into = len(slope_and_shift(module)[0])
    known, noise = extent(f), torch.Generator().manual_seed(0)
    ways = max([stride for _, stride, _ in known], default=1)
    sizes = [[reach + stride + more for reach, stride, _ in known] for more in range(ways)]
    draws = [torch.randn(2, into, *size, generator=noise, dtype=torch.float64) for size in sizes]
    return [x.to(next(iter(f.layers.values())).weight) for x in draws]


def extent(f: Piece) -> list[tuple[int, int, int]]:
    """Along each spatial dimension: the pixels that one output pixel sees, the stride, and by how
    many pixels of the input the map is taken in: k - 1 - 2p of one layer."""
    known, layers = {f.source: [(1, 1, 0)] * f.dims}, f.layers if f.dims else {}
    for node in f.nodes:
        known[node] = [max(axis) for axis in zip(*(known[n] for n in node.all_input_nodes))]
        if layer := layers.get(node):
            far, pads = width(layer), left_padding(layer)
            off = [0 if layer.padding == "same" else w - 2 * p for w, p in zip(far, pads)]
            parts = zip(known[node], far, layer.stride, off)
            known[node] = [(r + s * w, s * t, o + s * more) for (r, s, o), w, t, more in parts]
    return known[f.nodes[-1]]


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree to 1e-11 of their norm."""
    return a.shape == b.shape and bool((a - b).norm() <= 1e-11 * b.norm())
