"""Fit and evaluate, on one device or many (Accelerate), data on the device, augmentation there."""

import math
import os
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from .data import Data


class Score(NamedTuple):
    """Mean cross-entropy in nats and top-1 accuracy in percent."""

    loss: float
    accuracy: float


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter (the CPU if it has none)."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def best_device() -> torch.device:
    """CUDA if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def profile() -> str:
    """How large the notebooks and experiments run: TLC_PROFILE (smoke, laptop, paper) if it is set,
    else "paper" with a CUDA GPU and "laptop" without. ValueError for any other name."""
    chosen = os.environ.get("TLC_PROFILE") or ("paper" if torch.cuda.is_available() else "laptop")
    if chosen not in ("smoke", "laptop", "paper"):
        raise ValueError(f"TLC_PROFILE is {chosen!r}; it may be smoke, laptop or paper.")
    return chosen


def _cosine(share: float, steps: int) -> float:
    warmup = max(1, steps // 10)
    return min((share * steps + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * share))


def _steps(share: float, steps: int) -> float:
    return 0.1 ** ((share >= 0.5) + (share >= 0.75))


SCHEDULES = {"cosine": _cosine, "steps": _steps}  # share of the way, steps in all -> factor of lr


def fit(
    model: nn.Module,
    data: Data,
    epochs: float = 30,
    lr: float = 0.1,
    batch: int = 128,
    weight_decay: float = 5e-4,
    smoothing: float = 0.05,
    schedule: str = "cosine",
    teacher: nn.Module | None = None,
    seed: int = 0,
    progress: str | None = "fit",
) -> list[float]:
    """Train ``model`` in place by SGD with Nesterov momentum 0.9; returns the mean loss per epoch.

    ``schedule="cosine"``: the learning rate rises linearly over the first tenth and falls to zero;
    ``"steps"``: it falls tenfold after a half and after three quarters (80 and 120 of TLC's 160
    epochs). ``epochs`` may be a fraction. With a ``teacher`` the loss is the mean of the labels'
    cross-entropy and the teacher's (distillation at temperature 2, Hinton et al., arXiv
    1503.02531). channels_last everywhere (the faster layout on a CPU, too), bf16 on CUDA from
    Ampere on. The same seed gives the same weights on a CPU. Out of memory: the batch is halved
    once, with a warning, and the gradients of the halves are added up.
    ValueError for a batch of one image or an unknown schedule, MemoryError if half the batch does
    not fit, either, FloatingPointError when the loss is no longer finite: the model then holds the
    weights of the last good epoch.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"there is no schedule {schedule!r}; there are: {', '.join(SCHEDULES)}.")
    size, batch = data.train.size, min(batch, data.train.size)
    if batch < 2:
        raise ValueError("batch norm needs batches of at least two images.")
    # Turing (a free T4) has no bf16 units: it would be emulated, slowly.
    bf16 = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    accelerator = Accelerator(mixed_precision="no")  # its bf16 would replace model.forward for good
    device = accelerator.device
    data = data.to(device)
    torch.manual_seed(seed)
    model.to(device, memory_format=torch.channels_last).train()
    steps = steps_of(data, epochs, batch)
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Decay also gamma and beta, as the paper does: a small gamma is what makes a neuron ON or OFF.
    optimizer = torch.optim.SGD(
        parameters, lr=lr, momentum=0.9, weight_decay=weight_decay, nesterov=True
    )
    rate = SCHEDULES[schedule]
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: rate(i / steps, steps))
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    if teacher is not None:
        teacher = teacher.to(device, memory_format=torch.channels_last).eval()
    generator = torch.Generator(device).manual_seed(seed)
    losses, good, order, parts = [], _snapshot(model), None, 1

    def backward(index: Tensor) -> Tensor:
        """The gradients of one batch, taken in ``parts``; returns its loss."""
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        for part in index.chunk(parts):
            x = data.augment(data.train.images[part], generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = _loss(wrapped(x), data.train.labels[part], smoothing, teacher, x)
            loss = loss * (len(part) / len(index))
            accelerator.backward(loss)
            total += loss.detach()
        return total

    per_epoch, means = size // batch, []
    for step in tqdm(
        range(steps), desc=progress, disable=progress is None, leave=False, mininterval=0.5
    ):
        if step % per_epoch == 0:
            order = torch.randperm(size, generator=generator, device=device)
        index = order[step % per_epoch * batch : (step % per_epoch + 1) * batch]
        index = index[accelerator.process_index :: accelerator.num_processes]
        loss = None
        while loss is None:
            try:
                loss = backward(index)
            except torch.OutOfMemoryError as error:
                if parts > 1:
                    raise MemoryError(
                        f"half a batch of {batch} does not fit into memory, either: lower batch."
                    ) from error
                parts = 2
                torch.cuda.empty_cache()
                warnings.warn(
                    f"a batch of {batch} does not fit into memory: taken in two halves from here "
                    "on, one step for both; only batch norm sees the halves.",
                    stacklevel=2,
                )
        optimizer.step()
        falling.step()
        losses.append(loss)
        last = step + 1 == steps or (step + 1) % per_epoch == 0
        if last:  # the loss was taken before the step: look at what the step has left, too
            with torch.no_grad():
                model.eval()
                part = index.chunk(parts)[0]
                x = data.normalize(data.train.images[part])
                after = F.cross_entropy(model(x).float(), data.train.labels[part])
                model.train()
            _check_finite([*losses, after], step + 1, model, good)
        if last:
            means.append(torch.stack(losses[-(step % per_epoch + 1) :]).mean().item())
            losses, good = [], _snapshot(model)
    model.eval()
    return means


def steps_of(data: Data, epochs: float, batch: int = 128) -> int:
    """How many steps of training these (fractions of) epochs are."""
    size = data.train.size
    return max(1, int(epochs * (size // min(batch, size))))


@torch.no_grad()
def evaluate(model: nn.Module, data: Data, split: str = "val", batch: int = 500) -> Score:
    """Loss and accuracy on a split ("train", "val" or "test"), un-augmented, in eval mode."""
    device, mode = device_of(model), model.training
    images, labels = getattr(data, split)
    model.eval()
    loss = correct = 0.0
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    for start in range(0, len(labels), batch):
        y = labels[start : start + batch].to(device)
        out = model(data.normalize(images[start : start + batch].to(device)).to(dtype))
        loss += F.cross_entropy(out.float(), y, reduction="sum")
        correct += (out.argmax(1) == y).sum()
    model.train(mode)
    return Score(float(loss) / len(labels), 100 * float(correct) / len(labels))


def _loss(out: Tensor, labels: Tensor, smoothing: float, teacher, x: Tensor) -> Tensor:
    hard = F.cross_entropy(out.float(), labels, label_smoothing=smoothing)
    if teacher is None:
        return hard
    with torch.no_grad():
        target = (teacher(x).float() / 2).softmax(1)
    return (hard + 4 * F.cross_entropy(out.float() / 2, target)) / 2


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def _check_finite(losses: list[Tensor], step: int, model: nn.Module, good: dict) -> None:
    bad = ~torch.stack(losses).isfinite()
    if bad.any():
        first = step + 1 - len(losses) + int(bad.nonzero()[0])
        model.load_state_dict(good)
        model.eval()
        raise FloatingPointError(
            f"the loss became NaN or infinite at step {first}: lower lr, or look for NaN in the "
            "data; the model holds the weights of the last good epoch."
        )
