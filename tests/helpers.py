"""What several test files need: small networks whose batch norms hide nothing, and comparisons."""

import errno
import importlib
import itertools
import json
import multiprocessing
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.__main__ import main
from tlc_minimal.gaussian import best_affine
from tlc_minimal.models import BasicBlock

CLOCK = ["seconds", "images_per_s"]  # the columns of a run that no seed decides


def randomize(model: nn.Module, seed: int = 0, dtype=torch.float64) -> nn.Module:
    """Random BN statistics and affine parameters (never the defaults 0 and 1), in eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like, low, high):
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.running_mean.copy_(draw(module.running_mean, -0.5, 0.5))
            module.running_var.copy_(draw(module.running_var, 0.5, 2.0))
            if module.weight is not None:
                module.weight.data.copy_(draw(module.weight, 0.3, 1.5))
                module.weight.data[::3] *= -1
                module.bias.data.copy_(draw(module.bias, -1.0, 1.0))
    return model.to(dtype).eval()


def drawn(make, *of, dtype=torch.float64, **how) -> nn.Module:
    """The network ``make(*of, **how)`` from seed 0, randomized."""
    torch.manual_seed(0)
    return randomize(make(*of, **how), dtype=dtype)


class Net(nn.Module):
    """``run(net, x)``, with these modules as attributes."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.run(self, x)


def relative_error(got, want) -> float:
    """Euclidean norm of the difference over that of the expected value."""
    return ((got - want).norm() / want.norm()).item()


def chain(count: int, seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    """So many 3x3 convolutions of four channels, each with batch norm and ReLU."""
    torch.manual_seed(seed)
    layers = []
    for before in (3, *[4] * (count - 1)):
        layers += [nn.Conv2d(before, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU()]
    end = (nn.Dropout(dropout), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))
    return randomize(nn.Sequential(*layers, *end), seed, torch.float32)


def residual(classes: int = 10, width: int = 4, stem: str = "strong") -> nn.Sequential:
    """Two blocks, five activations, for images of 16x16; the paper's stem halves them first."""
    blocks = BasicBlock(width, width, 1), BasicBlock(width, 2 * width, 2)
    conv = nn.Conv2d(3, width, 3, 1 if stem == "strong" else 2, 1, bias=False)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(), *blocks, *head)


def perceptron(biases=(0.0, 50.0, 0.0)) -> nn.Sequential:
    """Three hidden layers; with a bias of 50 all neurons of the second are always ON."""
    torch.manual_seed(1)
    layers = [nn.Flatten()]
    for before, bias in zip((192, 12, 12), biases):
        linear = nn.Linear(before, 12)
        linear.bias.data += bias
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(12, 10)).eval()


def make_folder(root, classes=("cat", "dog"), count=6, size=(32, 32), mode="RGB", kind="png"):
    """A folder of images whose pixels differ from file to file; returns its path."""
    rng = np.random.default_rng(0)
    for part, name in itertools.product(("train", "test"), classes):
        (root / part / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / part / name / f"{i}.{kind}")
    return root


def rows_of(folder, what: str) -> list[dict]:
    """Those of a record."""
    return json.loads((folder / f"{what}.json").read_text())["rows"]


def digits(images: int, size: int = 8) -> tlc.Data:
    return tlc.load_data("digits", size=size).subset(images)


def same(a: nn.Module | dict, b: nn.Module | dict) -> bool:
    """The same tensors, bit for bit."""
    a, b = (x.state_dict() if isinstance(x, nn.Module) else x for x in (a, b))
    return list(a) == list(b) and all(torch.equal(v, b[k]) for k, v in a.items())


def kept(model: nn.Module) -> dict[str, torch.Tensor]:
    """Its weights as they are now."""
    return {k: v.clone() for k, v in model.state_dict().items()}


@torch.no_grad()
def received(model: nn.Module, x, names) -> dict[str, torch.Tensor]:
    """{name: what the module of that name is given} when the model, in its mode, runs on ``x``."""
    seen, hooks = {}, []
    for name in names:  # copies, for what is given may be changed in place
        keep = lambda _, given, name=name: seen.update({name: given[0].clone()})
        hooks.append(model.get_submodule(name).register_forward_pre_hook(keep))
    model(x)
    for hook in hooks:
        hook.remove()
    return seen


def files(folder) -> dict[str, bytes | None]:
    """What is in a folder; None is a folder in it."""
    return {p.name: p.read_bytes() if p.is_file() else None for p in sorted(folder.iterdir())}


@contextmanager
def refused(kind: type[Exception], words: str, *folders):
    """An error of this kind, in one short line; and nothing in the folders changes."""
    before = [files(folder) for folder in folders]
    with pytest.raises(kind, match=words) as caught:
        yield
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300, caught.value
    assert [files(folder) for folder in folders] == before


@contextmanager
def interrupted(*steps, error=KeyboardInterrupt):
    """Ctrl-C before these steps of training, the first one being 1; yields those begun."""
    train, begun = importlib.import_module("tlc_minimal.train"), []
    loss = train._loss

    def stop(*args):
        begun.append(1)
        if len(begun) in steps:
            raise error
        return loss(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_loss", stop)
        yield begun


def full_disk(monkeypatch, name: str = ""):
    """From now on a file whose name begins so finds room for its first half only."""
    write = Path.write_bytes

    def refuse(path, content):
        if not path.name.startswith(name):
            return write(path, content)
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)


def untrained():
    """Nothing may be trained inside."""
    return interrupted(1, error=AssertionError("trained before all was checked"))


def apart(target, *args):
    """A process for ``target(*args)``, begun, that never trained: autograd is not to be forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tlc_minimal"])
    process = context.Process(target=target, args=args)
    process.start()
    return process


def gives_up(monkeypatch, *args) -> str | int:
    """What the command line ends with: its exit code, or a line of its own."""
    monkeypatch.setattr(sys, "argv", ["tlc_minimal", *map(str, args)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


class Replaced(nn.Module):
    """By hand: slope * z + shift in the place of an activation."""

    def __init__(self, slope, shift, dim=1):
        super().__init__()
        self.slope, self.shift, self.dim = slope, shift, dim

    def forward(self, z):
        z = z.movedim(self.dim, -1)
        return (z * self.slope.to(z) + self.shift.to(z)).movedim(-1, self.dim)


def maps(rule, g, f=torch.relu) -> list:
    """Slope and shift as lesson 02 has them; where all is OFF one channel may be kept."""
    slope, shift = best_affine(g.mean, g.std, f)
    on, one, zero = g.mean > 0, torch.ones_like(slope), torch.zeros_like(slope)
    if rule in ("affine", "identity"):
        found = [(slope, shift) if rule == "affine" else (one, zero)]
    else:
        a, b = (slope, shift) if rule == "on_off_affine" else (one, zero)
        constant = slope * g.mean + shift if rule == "on_off_affine" else zero
        found = [(torch.where(on, a, zero), torch.where(on, b, constant))]
        if not on.any():
            kept = torch.zeros_like(on)
            kept[(g.mean / g.std.clamp_min(1e-12)).argmax()] = True
            found.append((torch.where(kept, a, zero), torch.where(kept, b, constant)))
    return found
