"""Several processes, one training: each takes a part of every batch, and all hold the same network.

They are started from outside, by torchrun or accelerate launch, and all run the same program. Only
the main one chooses, writes and prints. A process that was not started so is alone: the main one.
"""

import atexit
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def processes() -> int:
    """How many processes train together. RuntimeError if they were announced and do not meet."""
    many = os.environ.get("WORLD_SIZE", "")
    return 1 if many in ("", "0", "1") else _joined(many).size()


@cache
def _joined(many: str) -> dist.ProcessGroup:
    """Join the others; returns the group in which objects travel, on the CPU."""
    gpu, patience = torch.cuda.is_available(), timedelta(days=7)  # while the main one chooses
    try:
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group("nccl" if gpu else "gloo", timeout=patience)
    except (KeyError, ValueError, RuntimeError) as error:
        what = f"WORLD_SIZE is {many[:9]!r}, but the processes do not meet ({str(error)[:150]})"
        way_out = "start them with torchrun or accelerate launch, or unset WORLD_SIZE"
        raise RuntimeError(f"{what}: {way_out}.") from error
    return dist.new_group(backend="gloo", timeout=patience)


def is_main() -> bool:
    """Is this the process that chooses, writes and prints?"""
    return processes() == 1 or dist.get_rank() == 0


def from_main(make: Callable):
    """What ``make()`` gives on the main process, for all; the others wait, and do not call it."""
    if processes() == 1:
        return make()
    box = [make() if is_main() else None]
    _talk(dist.broadcast_object_list, box, 0, _joined(os.environ["WORLD_SIZE"]), "cpu")
    return box[0]


def _talk(together: Callable, *what) -> None:
    try:
        together(*what)
    except RuntimeError as error:
        raise ConnectionError("another process has stopped: start all of them again.") from error


def own(path: Path) -> Path:
    """The path itself on the main process; on another one a copy of the file or folder that the
    main one has there, if it has: what it writes is in nobody's way, and goes when Python ends."""
    if processes() == 1:
        return path
    name = lambda file: str(file.relative_to(path.parent))
    read = lambda: {name(f): f.read_bytes() for f in (path, *path.glob("*")) if f.is_file()}
    files = from_main(read)
    if is_main():
        return path
    home = Path(mkdtemp(prefix="tlc-"))
    atexit.register(rmtree, home, ignore_errors=True)
    for name, content in files.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(content)
    return home / path.name


def share(model: nn.Module) -> None:
    """Let all processes' ``model`` have the main one's weights and buffers."""
    if processes() > 1:
        weights = from_main(lambda: {k: v.cpu() for k, v in model.state_dict().items()})
        model.load_state_dict(weights)


def part_of(batch: Tensor) -> Tensor:
    """The part of a whole batch that this process computes."""
    return batch if processes() == 1 else batch.tensor_split(processes())[dist.get_rank()]


def summed(x: Tensor) -> Tensor:
    """The sum of all processes' ``x``, of any shape; no gradient goes through it. ConnectionError
    if another process has stopped."""
    if processes() > 1:
        x = x.clone(memory_format=torch.contiguous_format)
        _talk(dist.all_reduce, x)
    return x


def average(gradients: list[Tensor]) -> None:
    """Put the mean of all processes' in the place of each gradient; they travel as one."""
    if processes() > 1 and gradients:
        total = summed(torch.cat([g.flatten() for g in gradients])) / processes()
        for g, mean in zip(gradients, total.split([g.numel() for g in gradients])):
            g.copy_(mean.view(g.shape))


def together() -> AbstractContextManager:
    """Inside this block batch norms in training mode see the whole batch, all processes' parts."""
    return nullcontext() if processes() == 1 else _Together()


class _Together(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.batch_norm:
            x, weight, bias, mean, var, training, momentum, eps = args[:8]
            return batch_norm(x, mean, var, weight, bias, training, momentum, eps)
        func = batch_norm if func is F.batch_norm else func
        return func(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """As :func:`torch.nn.functional.batch_norm`, in training mode over all processes' parts
    (torch's SyncBatchNorm refuses CPUs): ``x`` (N, C, ...), all else (C,). arXiv 1502.03167."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    like = torch.promote_types(x.dtype, torch.float32)
    weight = x.new_ones(x.shape[1], dtype=like) if weight is None else weight
    bias = torch.zeros_like(weight) if bias is None else bias
    with torch.no_grad():
        _, mean, rstd = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        m, r = mean.double(), rstd.double()  # else the difference of squares would lose digits
        moments = torch.stack([torch.ones_like(m), m, r**-2 - eps + m**2])
        n, m, square = summed(x[:, 0].numel() * moments)
        n, mean, var = n[0].to(mean), (m / n).to(mean), (square / n - (m / n) ** 2).to(mean)
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((var * n / (n - 1)).to(running_var), momentum)
    return _BatchNorm.apply(x, weight, bias, mean, var, n, eps)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, n, eps):
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), n)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, rstd, n = ctx.saved_tensors
        of_part = torch.ops.aten.native_batch_norm_backward
        about = (weight, None, None, mean, rstd, True, ctx.eps, [True] * 3)
        dx, dweight, dbias = of_part(gradient, x, *about)
        # It takes away the part's means of the gradient and of its product with x; here all's.
        sums = torch.cat([dbias, dweight])
        flat, steep = (summed(sums) / n - sums / x[:, 0].numel()).chunk(2)
        per_channel = lambda v: v.view(-1, *[1] * (x.ndim - 2)).to(x)
        steep = steep * rstd
        dx = torch.addcmul(dx, x, per_channel(-weight * rstd * steep))
        return dx - per_channel(weight * rstd * (flat - mean * steep)), dweight, dbias, *[None] * 4
