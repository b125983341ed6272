"""Random networks from a grammar: linear is what it says, merged equals linear, whatever the graph.

``cases`` draws a small program, ``Network`` runs it. Instruction i writes register i + 1, register
0 is the input, the last register is the output; ``print(case)`` shows a program that fails.
"""

import copy
import itertools
import operator
import random
from collections import Counter
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import Replaced, maps, randomize, relative_error
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.channels import channel_dim
from tlc_minimal.gaussian import Gaussian
from tlc_minimal.graph import activation_nodes, find_shapes, trace
from tlc_minimal.linearize import RULES

# ---- the words: what an instruction can be ----


@dataclass
class Op:
    """One instruction: what it does, to which registers, with which options."""

    kind: str
    sources: tuple
    options: dict

    def __repr__(self):
        options = "".join(f", {k}={v!r}" for k, v in self.options.items())
        return f"op({self.kind!r}, {self.sources}{options})"

    def __deepcopy__(self, memo):
        return self  # a word does not change once it is written, and networks are copied often


def op(kind, sources=(), **options):
    return Op(kind, tuple(sources), options)


class Call(nn.Module):
    """A function where a module is wanted; torch.fx sees through it."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *values):
        return self.function(*values)


ACTS = {
    "ReLU": "relu", "ReLU6": "relu6", "GELU": "gelu", "SiLU": "silu", "LeakyReLU": "leaky_relu",
    "Hardswish": "hardswish",
}  # fmt: skip
SUMS = {
    "+": operator.add, "+=": operator.iadd, "torch.add": torch.add,
    "alpha": lambda a, b: torch.add(a, b, alpha=2), "*": lambda a, b: a * torch.sigmoid(b),
}  # fmt: skip
CALLS = SUMS | {
    "torch.relu": torch.relu, "x.relu": lambda x: x.relu(), "x.relu_": lambda x: x.relu_(),
    "torch.flatten": lambda x: torch.flatten(x, 1), "x.flatten": lambda x: x.flatten(1),
    "x.mean": lambda x, dim, keepdim: x.mean(dim, keepdim=keepdim),
    "torch.cat": lambda *values: torch.cat(values, 1),
}  # fmt: skip
VIEWS = ("Drop", "Identity", "latten", "again", "sequential")  # may give back what they were given


def make(op: Op, memory: dict) -> nn.Module:
    """The module of one instruction, which is a class of ``nn``, a function of ``F`` or one of
    CALLS, with its options; ``memory`` holds what several instructions share."""
    if op.kind == "again":
        return memory[op.options["register"]]
    if op.kind == "shared":
        return memory.setdefault(op.options["of"].kind, make(op.options["of"], memory))
    if op.kind == "sequential":
        return nn.Sequential(*[make(inner, memory) for inner in op.options["inner"]])
    if op.kind.startswith("F."):
        return Call(partial(getattr(F, op.kind[2:]), **op.options))
    if op.kind in CALLS:
        return Call(partial(CALLS[op.kind], **op.options))
    return getattr(nn, op.kind)(**op.options)


class Network(nn.Module):
    """Runs a program; random weights, random BN statistics, eval mode."""

    def __init__(self, ops: list[Op], seed: int, dtype=torch.float64):
        super().__init__()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed asks for every kind of device
        self.ops, memory = ops, {}
        for register, instruction in enumerate(ops, 1):
            memory[register] = make(instruction, memory)
            self.add_module(f"at{register}", memory[register])
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            elif getattr(module, "running_mean", None) is not None:
                randomize(module, torch.randint(1000, ()).item())
        self.to(dtype).eval()

    def forward(self, x):
        values = [x]
        for register, instruction in enumerate(self.ops, 1):
            given = [values[source] for source in instruction.sources]
            values.append(getattr(self, f"at{register}")(*given))
        return values[-1]


# ---- the grammar: which programs there are ----


class Draft:
    """A program while it is drawn; keeps the shape of every register (at batch 2)."""

    def __init__(self, draw, shape):
        self.draw, self.ops, self.shapes, self.memory = draw, [], [shape], {}
        self.fresh = set()  # registers that own their memory and may be written in place
        self.gone = set()  # those that have been: Python would no longer have the old value

    def pick(self, *options):
        return self.draw(st.sampled_from(options))

    def number(self, low, high):
        return self.draw(st.integers(low, high))

    def rarely(self) -> bool:
        return self.pick(*[False] * 7, True)

    @torch.no_grad()
    def infer(self, op, *shapes):
        """The module and the shape of its result, which is None where it does not fit."""
        try:
            module = make(op, dict(self.memory)).eval()
            shape = tuple(module(*[torch.zeros(shape) for shape in shapes]).shape)
        except (RuntimeError, ValueError, IndexError, AssertionError):
            return None, None
        return module, shape if all(shape) and 1 < len(shape) < 6 else None

    def emit(self, op, *sources) -> int:
        """Write an instruction; the new register, or the first source if it does not fit."""
        op.sources = sources
        module, shape = self.infer(op, *[self.shapes[source] for source in sources])
        if shape is None:
            return sources[0]
        self.memory[len(self.shapes)] = module
        self.ops.append(op)
        self.shapes.append(shape)
        new = len(self.shapes) - 1
        if any(word in op.kind for word in VIEWS):
            self.fresh -= {*sources, new}  # the same memory under two names
        else:
            self.fresh.add(new)
        if op.options.get("inplace") or op.kind.endswith("_"):
            self.fresh -= {*sources}
        if op.kind == "+=":
            self.gone.add(sources[0])
        return new

    def chain(self, source, *steps) -> int:
        """Unary instructions one after the other, now and then inside one nn.Sequential."""
        if not (len(steps) > 1 and self.rarely()):
            for step in steps:
                source = self.emit(step(self.shapes[source], source in self.fresh), source)
            return source
        shape, inner = self.shapes[source], []
        for step in steps:
            op = step(shape, False)
            if (after := self.infer(op, shape)[1]) is not None:
                shape = after
                inner.append(op)
        return self.emit(Op("sequential", (), {"inner": inner}), source) if inner else source

    # -- single words; each is a function of the shape it meets and of whether it may overwrite

    def conv(self, same=False, stride=None, out=None, kernel=None, groups=None):
        """A convolution, or a linear layer where there is no space; ``same`` keeps the size."""

        def step(shape, _):
            width, bias = out or self.number(1, 6), self.pick(True, False)
            if len(shape) == 2 or self.tokens:
                return op("Linear", in_features=shape[-1], out_features=width, bias=bias)
            dims, into = len(shape) - 2, shape[1]
            far = dims < 3  # what sees far in three dimensions takes minutes
            sizes = (3, 1, 5, 7) if same else (3, 1, 2, 3, 4, 7)[: 6 if far else 4]
            k = tuple(kernel or self.pick(*sizes) for _ in range(dims))
            k = k if self.rarely() else k[:1] * dims
            s = (stride or (1 if same else self.pick(1, 1, 1, 2, 2, *(3, 4) * far)),) * dims
            s = tuple(self.pick(1, v) for v in s) if self.rarely() and not same else s
            d = (self.pick(2, 3) if self.rarely() else 1,) * dims
            split = groups or 1
            if not groups and self.pick(*[False] * 4, True):
                split = self.pick(*[g for g in (2, 3, into) if into % g == 0] or [1])
                width = out or split * self.pick(1, 2)
                split = split if width % split == 0 else 1
            half = tuple(e * (n - 1) // 2 for e, n in zip(d, k))
            some = tuple(min(self.number(0, 3), e * (n - 1)) for e, n in zip(d, k))
            padding = half if same else self.pick(half, 0, some, half, "valid")
            if self.rarely() and s == (1,) * dims and (same or self.rarely()):
                padding = "same"
            mode = self.pick("reflect", "circular") if self.rarely() and self.rarely() else "zeros"
            return op(
                f"Conv{dims}d", in_channels=into, out_channels=width, kernel_size=k, stride=s,
                padding=padding, dilation=d, groups=split, bias=bias, padding_mode=mode,
            )  # fmt: skip

        return step

    def norm(self, shape, _):
        if self.tokens and not self.rarely():
            return op("LayerNorm", normalized_shape=shape[-1])
        settings = {"eps": self.pick(1e-5, 1e-3, 0.3), "affine": not self.rarely()}
        settings["track_running_stats"] = not (self.rarely() and self.rarely())
        return op(f"BatchNorm{max(len(shape) - 2, 1)}d", num_features=shape[1], **settings)

    def act(self, _, fresh):
        name = self.pick("ReLU", "ReLU", "ReLU", *ACTS)
        slope = {"negative_slope": 0.2} if name == "LeakyReLU" else {}
        module = op(name, **slope)
        ways = [module, op("shared", of=module), op(f"F.{ACTS[name]}", **slope)]
        if name == "ReLU":
            ways += [op("torch.relu"), op("x.relu")]
        if name == "ReLU" and fresh:
            ways += [op("F.relu", inplace=True), op("x.relu_"), op("F.relu_")]
        if name != "GELU" and fresh:  # which has no such option
            ways += 2 * [op(name, **slope, inplace=True)]
        return self.pick(*ways)

    def pool(self, shape, _):
        dims, name = max(len(shape) - 2, 1), self.pick("Max", "Avg")
        settings = {"kernel_size": self.pick(2, 3), "stride": self.pick(2, 1)}
        rare = {"padding": 1, "ceil_mode": True}
        if name == "Avg":
            rare |= {"count_include_pad": False} | ({"divisor_override": 3} if dims > 1 else {})
        settings |= {key: value for key, value in rare.items() if self.rarely()}
        kind = self.pick(f"F.{name.lower()}_pool{dims}d", f"{name}Pool{dims}d")
        return op(kind, **settings)

    def mean(self, shape, style):
        dims = len(shape) - 2
        if style == "module":
            return op(f"AdaptiveAvgPool{dims}d", output_size=1)
        return op("x.mean", dim=list(range(2, dims + 2)), keepdim=style == "keepdim")

    def drop(self, shape, _):
        return op(self.pick("Dropout", "Identity", f"Dropout{max(len(shape) - 2, 1)}d"))

    def maybe(self, *steps) -> list:
        return list(steps) if self.pick(True, False) else []

    # -- phrases; each takes a register and gives the next one

    def plain(self, x) -> int:
        order = [self.conv(), *self.maybe(self.norm), self.act]
        between = [self.pick(self.pool, self.drop)] if self.rarely() else []
        return self.chain(x, *order, *between)

    def residual(self, x) -> int:
        """A sum of two or three branches: convolutions, identity, 1x1, an affine map."""
        stride = self.pick(1, 1, 1, 2)
        shape = self.shapes[x]
        out = shape[-1 if self.tokens else 1] if stride == 1 else self.number(1, 6)

        def branch():
            before = [self.norm, self.act] if self.rarely() else []
            first = [self.conv(True, stride), *self.maybe(self.norm), self.act]
            last = [self.conv(True, out=out), *self.maybe(self.norm)]
            return self.chain(x, *before, *first, *self.maybe(self.act, *last), *last)

        point = lambda: self.conv(True, stride, out, kernel=1)
        shortcut = lambda: self.chain(x, point(), *self.maybe(self.norm))
        affine, identity = lambda: self.chain(x, self.norm), lambda: x
        main = branch()
        for _ in range(self.pick(1, 1, 2)):
            other = self.pick(identity, shortcut, identity, affine, branch)()
            main = self.add(main, other)
        return self.chain(main, *self.maybe(self.act))

    def depthwise(self, x) -> int:
        """Wider by a 1x1, then each channel on its own, then a 1x1 again; or a sum around it."""
        shape = self.shapes[x]
        if len(shape) == 2 or self.tokens:
            return self.plain(x)
        wide, out = self.number(2, 6), self.pick(shape[1], 3)
        alone = self.conv(True, self.pick(1, 1, 2), wide, groups=wide)
        steps = [self.conv(True, out=wide, kernel=1), *self.maybe(self.norm), self.act]
        steps += [alone, *self.maybe(self.norm), self.act, self.conv(True, out=out, kernel=1)]
        return self.add(self.chain(x, *steps, *self.maybe(self.norm)), x)

    def add(self, a, b) -> int:
        if self.shapes[a] != self.shapes[b] or a == b or {a, b} & self.gone:
            return a
        style = self.pick("+", "+=", "torch.add", "+", "alpha" if self.rarely() else "+")
        if style == "+=" and a not in self.fresh:
            style = "+"
        a, b = (a, b) if self.pick(True, False) or style == "+=" else (b, a)
        return self.emit(op(style), a, b)

    def skip(self, x) -> int:
        """A sum with any earlier value of the same shape."""
        others = {*range(len(self.shapes))} - {x} - self.gone
        same = [r for r in sorted(others) if self.shapes[r] == self.shapes[x]]
        if not same:
            return self.plain(x)
        return self.chain(self.add(x, self.pick(*same)), *self.maybe(self.act))

    def concatenated(self, x) -> int:
        parts = [x] if self.pick(True, False) else []
        for _ in range(2):
            steps = [self.conv(True), *self.maybe(self.norm), *self.maybe(self.act)]
            parts.append(self.chain(x, *steps))
        parts = [p for p in parts if p not in self.gone]
        joined = self.emit(op("torch.cat"), *parts)
        return self.chain(joined, *self.maybe(self.norm), *self.maybe(self.act))

    def gated(self, x) -> int:
        """Squeeze and excite, or a sum that broadcasts over the picture."""
        if len(self.shapes[x]) == 2 or self.tokens:
            return self.plain(x)
        channels = self.shapes[x][1]
        pooled = self.emit(self.mean(self.shapes[x], self.pick("module", "keepdim")), x)
        one = lambda out: self.conv(True, 1, out, kernel=1)
        gate = self.chain(pooled, one(self.number(1, 4)), self.act, one(channels))
        if self.rarely():
            wide = self.chain(x, self.conv(True, 1), self.act, self.conv(True, 1, channels))
            return self.emit(op("+"), pooled, wide)
        return self.emit(op(self.pick("*", "+")), x, gate)

    def again(self, x) -> int:
        """A layer that is there is called once more."""
        layers = ("Conv", "Linear", "BatchNorm")
        old = [r for r, o in enumerate(self.ops, 1) if o.kind.startswith(layers)]
        again = self.emit(op("again", register=self.pick(*old)), x) if old else x
        return self.chain(again, self.act)

    def across(self, x) -> int:
        """Layers that work along another axis than the one before them."""
        shape = self.shapes[x]
        if len(shape) == 2:
            return self.plain(x)
        if self.tokens:
            conv = op("Conv1d", in_channels=shape[1], out_channels=7, kernel_size=1)
            return self.chain(self.emit(conv, x), self.act)
        middle = op("Flatten", start_dim=1, end_dim=2)  # joins channels and rows, not columns
        before = self.emit(middle, x) if self.pick(True, False) else x
        into, out = self.shapes[before][-1], self.number(1, 5)
        linear = op("Linear", in_features=into, out_features=out)
        return self.chain(self.emit(linear, before), *self.maybe(self.norm), self.act)

    def head(self, x) -> int:
        shape = self.shapes[x]
        if len(shape) > 2 and not self.tokens and self.pick(True, False):
            x = self.emit(self.mean(shape, self.pick("module", "mean", "keepdim")), x)
        if len(self.shapes[x]) > 2:
            x = self.emit(op(self.pick("Flatten", "torch.flatten", "x.flatten")), x)
        self.tokens = False
        steps = self.maybe(self.conv(), *self.maybe(self.norm), self.act)
        return self.chain(x, *steps, self.conv())


@dataclass
class Case:
    """A program, which activations go (by number, in this order) and how."""

    ops: list
    shape: tuple
    removed: list
    rule: str = "on_off_affine"
    padding: str = "as_trained"
    states: str = "mixed"
    one_by_one: bool = False
    seed: int = 0
    dtype: torch.dtype = torch.float64


@st.composite
def cases(draw):
    pick = lambda *options: draw(st.sampled_from(options))
    dims = pick(2, 2, 2, 1, 1, 3, 0, "tokens")
    sizes = st.integers(6, 13) if dims in (1, 2) else st.integers(4, 7)
    sizes = st.integers(7, 9) if dims == "tokens" else sizes  # never as many as features
    size = draw(st.tuples(*[sizes] * {"tokens": 1}.get(dims, dims)))
    channels = draw(st.integers(1, 6))
    draft = Draft(draw, (2, *size, channels) if dims == "tokens" else (2, channels, *size))
    draft.tokens = dims == "tokens"
    x = 0 if draft.rarely() else draft.plain(0)
    phrases = [draft.plain] * 4 + [draft.residual] * 6 + [draft.skip, draft.skip]
    phrases += [draft.depthwise] * 2 + [draft.concatenated, draft.gated]
    phrases += [lambda x: draft.chain(x, draft.pool), draft.again, draft.across]
    for _ in range(draw(st.integers(1, 3))):
        x = pick(*phrases)(x)
        x = x if x not in draft.gone else len(draft.ops)
    x = draft.head(x) if pick(True, False) else draft.chain(x, draft.act, draft.conv())
    removed = draw(st.lists(st.integers(0, 11), min_size=1, unique=True))
    return Case(
        draft.ops[:x], draft.shapes[0][1:], removed,
        rule=pick("on_off_affine", *RULES), padding=pick("as_trained", "first"),
        states=pick("mixed", "mixed", "off", "one on", "on", "far", "measured"),
        one_by_one=pick(False, False, True), seed=draw(st.integers(0, 99)),
        dtype=pick(torch.float64, torch.float64, torch.float32),
    )  # fmt: skip


# ---- what must hold ----


def by_hand(traced, gaussians, rule):
    """What the linearised network must equal one of: the traced one, changed again and again."""
    for node in traced.graph.nodes:
        node.meta.pop("tensor_meta", None)  # linearize has not seen the shapes, either
    nodes = activation_nodes(traced)
    options = []
    for name, g in gaussians.items():
        module = traced.get_submodule(name)
        f = torch.relu if isinstance(module, nn.ReLU) else module
        dim = channel_dim(traced, nodes[name])
        options.append([(name, Replaced(a, b, dim)) for a, b in maps(rule, g, f)])
    for choice in itertools.product(*options):
        for name, module in choice:
            traced.add_submodule(name, module)
        yield traced


def draw_gaussian(channels, states, generator, dtype) -> Gaussian:
    """Ready statistics in which ON and OFF occur as ``states`` wants it."""
    size = torch.rand(channels, generator=generator, dtype=torch.float64) * 1.5 + 0.1
    std = torch.rand(channels, generator=generator, dtype=torch.float64) + 0.3
    share = {"on": 2, "one on": 0, "off": 0}.get(states, 0.5)
    on = torch.rand(channels, generator=generator) < share
    if states != "off":
        on[torch.randint(channels, (), generator=generator)] = True
    if states == "far":
        size[::2], std[1::3] = 40.0, 0.0
    return Gaussian(torch.where(on, size, -size).to(dtype), std.to(dtype))


def close(got, want, dtype) -> bool:
    assert got.shape == want.shape
    if not want.norm() > 1e-9:
        return got.norm() < 1e-8
    return relative_error(got, want) <= (1e-10 if dtype == torch.float64 else 1e-5)


def shaken(linear, x, want) -> torch.Tensor:
    """How far rounding carries float32 on this network: from the same in float64, and from weights
    that are each moved by about one rounding. A LayerNorm of two features is nearly a step."""
    moved, generator = copy.deepcopy(linear), torch.Generator().manual_seed(0)
    for weight in moved.parameters():
        rounding = torch.finfo(weight.dtype).eps * torch.randn(weight.shape, generator=generator)
        weight.mul_(1 + rounding)
    double = copy.deepcopy(linear).double()(x.double())
    return max((moved(x.clone()) - want).norm(), (double - want).norm())


def inputs(case: Case, model):
    """Pictures of this size, and of one and two pixels more, if the model takes them."""
    dice = torch.Generator().manual_seed(case.seed)
    for batch, more in ((7, 0), (1, 1), (2, 2)):
        shape = (case.shape[0], *[n + more for n in case.shape[1:]])
        x = torch.randn(batch, *shape, dtype=case.dtype, generator=dice)
        try:
            want = model(x.clone())
        except (RuntimeError, ValueError):
            return
        if want.numel():
            yield x, want


def words(ops):
    for o in ops:
        yield o
        yield from o.options.get("inner", ())


def convs(ops):
    return [o.options for o in words(ops) if o.kind.startswith("Conv")]


def refused(case: Case, error: ValueError) -> Counter:
    """A refusal is right where the program gives the reason that its words name."""
    reasons = {
        "more than once": any(o.kind == "again" for o in case.ops),
        "take the statistics of this model": case.one_by_one,  # it had channels that are cut
        "there is no activation": case.one_by_one and case.states != "on",  # gone with its branch
    }
    for reason, right in reasons.items():
        if reason in str(error):
            assert right
            return Counter({f"refused: {reason}": 1})
    raise error


@torch.no_grad()
def contract(case: Case) -> Counter:
    """Linear is what it says, and merged equals linear; what happened on the way is counted."""
    model = Network(case.ops, case.seed, case.dtype)
    traced = trace(model, share=True)
    x = torch.randn(2, *case.shape, dtype=case.dtype)
    names = list(activation_nodes(traced))
    chosen = [names[i] for i in case.removed if i < len(names)] or names[:1]
    assert torch.equal(traced(x.clone()), model(x.clone())), "the trace is another network"
    generator = torch.Generator().manual_seed(case.seed)
    if case.states == "measured":
        measured = tlc.statistics(model, x)
        gaussians = {name: measured[name] for name in chosen}
    else:
        shapes, nodes, gaussians = find_shapes(traced, x), activation_nodes(traced), {}
        for name in chosen:
            channels = shapes[nodes[name]][channel_dim(traced, nodes[name])]
            gaussians[name] = draw_gaussian(channels, case.states, generator, case.dtype)
    try:
        linear = model
        for part in [[name] for name in chosen] if case.one_by_one else [chosen]:
            linear = tlc.linearize(linear, part, gaussians, case.rule, case.padding)
        merged = tlc.merge(linear, x, keep="all")
    except ValueError as error:
        return refused(case, error)

    padded = {o.get("padding", 0) for o in convs(case.ops)} - {0, "valid"}
    exact = case.dtype == torch.float64 and (case.padding == "as_trained" or not padded)
    pairs = []
    for x, dense in inputs(case, model):
        want, got = linear(x.clone()), merged(x.clone())
        assert want.shape == dense.shape
        if not close(got, want, case.dtype):
            limit = 10 * shaken(linear, x, want) if case.dtype == torch.float32 else 0
            assert (got - want).norm() <= limit, "merged is not linear"
        pairs.append((x, want))
    if exact:
        hands = by_hand(traced, gaussians, case.rule)
        right = (all(close(y, hand(x.clone()), case.dtype) for x, y in pairs) for hand in hands)
        assert any(right), "not affine"
    return happened(case, traced, linear, merged)


def happened(case, traced, linear, merged) -> Counter:
    before, after = dict(traced.named_parameters()), dict(linear.named_parameters())
    rows = [r for r in merged.meta["merges"] if r["verdict"] == "merged into one"]
    pads = lambda m: {n: c.padding for n, c in m.named_modules() if hasattr(c, "dilation")}
    old, new = pads(traced), pads(linear)
    facts = dict.fromkeys((case.rule, case.padding, str(case.dtype)), True) | {
        "a sum": any(o.kind in SUMS for o in case.ops),
        "channels cut": any(after[n].shape != before[n].shape for n in before if n in after),
        "a branch gone": any(name.endswith("_constant") for name, _ in linear.named_modules()),
        "an affine map left": any(name.endswith("_affine") for name, _ in linear.named_modules()),
        "padding moved": any(old[n] != new[n] for n in new if n in old),
        "merged": bool(rows),
        "merged twice": len(rows) > 1,
        "left in two": len(rows) < len(merged.meta["merges"]),
        "grouped": any(o.options.get("groups", 1) > 1 for o in words(case.ops)),
        "strided": any(max(o.get("stride", (1,))) > 1 for o in convs(case.ops)),
        "nested": any(o.kind == "sequential" for o in case.ops),
    }
    return Counter({fact: int(true) for fact, true in facts.items()})


def test_any_network_stays_what_it_is():
    """Linearised is the affine map by hand, merged is linearised; and the draw is not vacuous.
    Every run draws other networks; a case that fails belongs below from then on."""
    seen, number = contract(FOUND["a branch gone"]), random.SystemRandom().randrange(2**32)
    print(f"seed {number}")

    @seed(number)
    @settings(max_examples=500, deadline=None, database=None)
    @given(cases())
    def holds(case):
        seen.update(contract(case))

    holds()
    rare = {fact for fact, n in seen.items() if n < 2 and not fact.startswith("refused")}
    assert rare <= {"a branch gone"} and seen["a branch gone"] and len(seen) >= 19, seen


def conv(at, into, out, kernel=1, groups=1):
    sizes = dict(in_channels=into, out_channels=out, kernel_size=kernel)
    return op("Conv2d", (at,), **sizes, groups=groups)


def linear(at, into, out, bias=True):
    return op("Linear", (at,), in_features=into, out_features=out, bias=bias)


def act(at, name="ReLU", **options):
    return op(name, (at,), **options)


def pool(at):
    return op("MaxPool2d", (at,), kernel_size=2)


branch = [conv(0, 3, 4), conv(1, 4, 2), act(2), conv(3, 2, 2), act(4), conv(5, 2, 4),
          op("+", (6, 1))]  # fmt: skip
FOUND = {
    "two affine maps in a row, in front of a layer": Case(
        [conv(0, 3, 4, 3), pool(1), act(2), act(3, "LeakyReLU", negative_slope=0.2),
         conv(4, 4, 5, 3)], shape=(3, 13, 13), removed=[0, 1], rule="affine"),
    "statistics of a network that had more channels": Case(
        [conv(0, 3, 4), act(1, "ReLU6"), conv(2, 4, 4, groups=4), act(3, "SiLU"), conv(4, 4, 2)],
        shape=(3, 6, 6), removed=[1, 0], one_by_one=True, seed=1),
    "statistics of more channels, behind what became linear": Case(
        [linear(0, 1, 6), act(1), act(2), act(3), linear(4, 6, 1)],
        shape=(1,), removed=[0, 2, 1], one_by_one=True),
    "a branch gone": Case(branch, shape=(3, 6, 6), removed=[1, 0], states="off"),
    "an activation that went with its branch": Case(
        branch, shape=(3, 6, 6), removed=[1, 0], states="off", one_by_one=True),
    "as many tokens as features, and a norm of the tokens": Case(
        [linear(0, 1, 4), op("BatchNorm1d", (1,), num_features=4), act(2), linear(3, 4, 1),
         op("Flatten", (4,)), linear(5, 4, 1)],
        shape=(4, 1), removed=[0]),
    "stale statistics behind a sum": Case(
        [conv(0, 3, 4), act(1), op("+", (2, 2)), act(3), act(4), conv(5, 4, 2)],
        shape=(3, 6, 6), removed=[0, 2, 1], one_by_one=True, rule="on_off"),
    "a sum with a factor is no plain one": Case(
        [conv(0, 3, 6), act(1), conv(2, 6, 3), op("alpha", (0, 3))],
        shape=(3, 6, 6), removed=[0], states="off", rule="on_off"),
    "no weights": Case([pool(0), act(1)], shape=(3, 6, 6), removed=[0]),
    "in place by hand, and its input read again": Case(
        [linear(0, 1, 2), op("F.relu", (1,), inplace=True), op("+", (2, 1)), linear(3, 2, 1)],
        shape=(1,), removed=[0]),
    "a sum of tokens and of features": Case(
        [op("BatchNorm1d", (0,), num_features=4), linear(0, 2, 2, bias=False), op("+", (1, 2)),
         act(3), linear(4, 2, 3)],
        shape=(4, 2), removed=[0], rule="affine"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_was_wrong_once(name):
    contract(FOUND[name])
