"""Fit, what it is asked for, and evaluate: on one device, where data and augmentation are, too."""

import copy
import math
import os
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from .data import SPLITS, Data
from .files import digest
from .parallel import average, is_main, own, part_of, processes, share, summed, together
from .reading.fits import check_all, check_data, check_is_data, check_learns
from .reading.refuse import check_finite, in_eval
from .reading.taps import hold_idle_taps
from .refuse import COUNT, check_known, check_number, check_ranges
from .state import keep, take_up


class Score(NamedTuple):
    """Mean cross-entropy in nats and top-1 accuracy in percent."""

    loss: float
    accuracy: float


def like_of(model: nn.Module) -> Tensor:
    """A model's first parameter, whose device and type are its own (float32 on the CPU if none)."""
    return next(model.parameters(), torch.empty(0))


def best_device() -> torch.device:
    """CUDA if there is one (of several this process's own), else the CPU."""
    processes()  # where they have met, each has its GPU
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(device: torch.device | str | None = None) -> torch.dtype:
    """What :func:`fit` computes in on ``device`` (default: the best): bfloat16 where the device
    multiplies it natively (CUDA from Ampere on, CPUs with avx512_bf16 or AMX), else float32."""
    if torch.device(device or best_device()).type == "cuda":
        native = torch.cuda.get_device_capability()[0] >= 8
    else:
        can = getattr(torch.cpu, "get_capabilities", dict)()
        native = can.get("avx512_bf16", False) or can.get("amx_bf16", False)
    return torch.bfloat16 if native else torch.float32


def layout(model: nn.Module) -> torch.memory_format:
    """channels_last, faster on a CPU, too; but not of volumes, nor with a strided 1x1 convolution
    of fewer than 16 channels: its gradient is then wrong, or ends the process (oneDNN, 6035)."""
    narrow = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.in_channels < 16]
    broken = any(set(m.kernel_size) == {1} and max(m.stride) > 1 for m in narrow)
    broken |= any(p.ndim > 4 for p in model.parameters())
    return torch.contiguous_format if broken else torch.channels_last


def profile() -> str:
    """smoke, laptop or paper: TLC_PROFILE, else paper where CUDA is. ValueError for other names."""
    chosen = os.environ.get("TLC_PROFILE") or ("paper" if torch.cuda.is_available() else "laptop")
    if chosen not in ("smoke", "laptop", "paper"):
        raise ValueError(f"TLC_PROFILE is {chosen!r}; it may be smoke, laptop or paper.")
    return chosen


def _cosine(share: float, steps: int) -> float:
    warmup = max(steps // 10, min(5, steps // 2), 1)
    return min((share * steps + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * share))


def _steps(share: float, steps: int) -> float:
    return 0.1 ** ((share >= 0.5) + (share >= 0.75))


SCHEDULES = {"cosine": _cosine, "steps": _steps}  # share of the way, steps in all -> factor of lr


def check_recipe(data: Data, **recipe) -> None:
    """ValueError or TypeError, in one sentence, for what :func:`fit` cannot train with: what is no
    Data, a number out of its range, less data than two images."""
    check_is_data(data)
    check_known("schedule", recipe.pop("schedule", "cosine"), SCHEDULES)
    check_ranges(**recipe)
    if min(recipe.get("batch", 128), data.train.size) < max(2, processes()):
        raise ValueError("batch norm needs batches of at least two images, and each process one.")


def steps_of(data: Data, epochs: float, batch: int = 128) -> int:
    """How many steps of training these (fractions of) epochs are, to the nearest, at least one."""
    size = data.train.size
    return max(1, round(epochs * (size // min(batch, size))))


def fit(
    model: nn.Module, data: Data, epochs: float = 30, lr: float = 0.1, batch: int = 128,
    weight_decay: float = 5e-4, smoothing: float = 0.05, schedule: str = "cosine",
    teacher: nn.Module | None = None, seed: int = 0, progress: str | bool | None = "fit",
    state: str | Path | None = None,
) -> list[float]:  # fmt: skip
    """Train ``model`` in place by SGD with Nesterov momentum 0.9; returns the mean loss per epoch.

    ``schedule="cosine"``: the learning rate rises linearly over a tenth (or five steps, but at most
    half) and falls to zero; ``"steps"``: it falls tenfold after a half and after three quarters (80
    and 120 of TLC's 160 epochs). ``epochs`` may be a fraction. With a ``teacher`` the loss is
    the mean of the labels' cross-entropy and the teacher's (distillation at temperature 2, Hinton
    et al., arXiv 1503.02531). ``progress``: the bar's title, or whether there is one. Laid out by
    :func:`layout`, autocast to :func:`precision`. The same ``seed`` (of torch's own draws, too:
    they begin anew) gives the same weights on a CPU. Several processes:
    :mod:`tlc_minimal.parallel`. ``state``: a file that every epoch writes and that the same call
    takes up, to the same weights: a killed training loses an epoch at most. Delete it at the end.
    TypeError or ValueError for wrong arguments, a model that does not take the data, a ``state`` of
    another training; FloatingPointError when the loss is no longer finite: the model then holds the
    weights of the last good epoch.
    """
    recipe = {"epochs": epochs, "lr": lr, "batch": batch, "weight_decay": weight_decay}
    recipe |= {"smoothing": smoothing, "schedule": schedule, "seed": seed}
    check_recipe(data, **recipe)
    data = check_all((teacher or model, model), data)
    check_learns(model)
    device, size, like = best_device(), data.train.size, like_of(model).dtype
    compute = like if like is torch.float64 else precision(device)
    batch, data, many = min(batch, size), data.to(device), processes()
    torch.manual_seed(seed := int(seed))
    generator = torch.Generator(device).manual_seed(seed)
    for network in (teacher or model, model):
        network.to(device, memory_format=layout(model))
        share(network)
    # Decay also gamma and beta, as the paper does: a small gamma is what makes a neuron ON or OFF.
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    sgd = torch.optim.SGD(learning.values(), lr, 0.9, weight_decay=weight_decay, nesterov=True)
    steps, per_epoch, rate = steps_of(data, epochs, batch), size // batch, SCHEDULES[schedule]
    done, means = 0, []
    if state is not None:
        recipe |= {"data": data.identity, "precision": str(compute), "learning": [*learning]}
        recipe |= {"start": digest(model.state_dict())}
        recipe |= {"teacher": digest(teacher.state_dict()) if teacher is not None else ""}
        state = own(Path(state))
        if state.exists():
            done, means = take_up(state, recipe, model, sgd, generator)
        else:  # a file that cannot be written is said before an epoch is trained
            keep(state, recipe, model, sgd, generator, 0, [])
    handles = hold_idle_taps(model, data.example[:2].to(device, like))
    losses, good = [], copy.deepcopy(model.state_dict())
    title = progress if isinstance(progress, str) else "fit"
    how = {"desc": title, "disable": not (progress and is_main()), "leave": False}
    bar = tqdm(total=steps, initial=done, mininterval=0.5, **how)
    try:
        for step in range(done, steps):
            model.train()
            if step % per_epoch == 0:
                order = torch.randperm(size, generator=generator, device=device)
            index = order[step % per_epoch * batch : (step % per_epoch + 1) * batch]
            sgd.param_groups[0]["lr"] = lr * rate(step / steps, steps)
            sgd.zero_grad()
            x, y = data.augment(data.train.images[index], generator), data.train.labels[index]
            x, y = part_of(x.to(like)), part_of(y)
            x = x.contiguous(memory_format=layout(model)) if x.ndim == 4 else x
            with together():
                with torch.autocast(device.type, torch.bfloat16, enabled=compute is torch.bfloat16):
                    loss = _loss(model(x), y, smoothing, teacher, x)
                loss = loss * (len(y) * many / batch)  # the mean of all is that of the batch
                loss.backward()
            average([p.grad for p in learning.values() if p.grad is not None])
            sgd.step()
            losses.append(summed(loss.detach()) / many)
            bar.update()
            if step + 1 == steps or (step + 1) % per_epoch == 0:
                # The loss was taken before the step: look at what the step has left, too.
                after = _score(model, data, "train", 500, batch).loss
                _check_finite([*losses, after], step + 1, model, good)
                means.append(torch.stack(losses).mean().item())
                losses, good = [], copy.deepcopy(model.state_dict())
                if state is not None:
                    keep(state, recipe, model, sgd, generator, step + 1, means)
    finally:
        bar.close()
        model.eval()
        for handle in handles:
            handle.remove()
    return means


def evaluate(model: nn.Module, data: Data, split: str = "val", batch: int = 500) -> Score:
    """Loss and accuracy on a split ("train", "val" or "test"), un-augmented, in eval mode.
    TypeError, ValueError for arguments out of range, for a model that does not take the data, and
    for one whose outputs are not finite."""
    data = check_data(model, data)
    check_known("split", split, SPLITS)
    check_number("batch", batch, *COUNT)
    if not getattr(data, split).size:
        raise ValueError(f"there are no images in {split}: choose another split.")
    score = _score(model, data, split, batch)
    if not math.isfinite(score.loss):
        check_finite(model)
        raise ValueError(f"the outputs on {split} are not finite: train the model again.")
    return score


@torch.no_grad()
def _score(model: nn.Module, data: Data, split: str, batch: int, limit: int | None = None) -> Score:
    like, loss, correct = like_of(model), 0.0, 0.0
    images, labels = (part[:limit] for part in getattr(data, split))
    with in_eval(model):
        for start in range(0, len(labels), batch):
            y = labels[start : start + batch].to(like.device)
            out = model(data.normalize(images[start : start + batch].to(like.device)).to(like))
            loss += F.cross_entropy(out.float(), y, reduction="sum")
            correct += (out.argmax(1) == y).sum()
    return Score(float(loss) / len(labels), 100 * float(correct) / len(labels))


def _loss(out: Tensor, labels: Tensor, smoothing: float, teacher, x: Tensor) -> Tensor:
    if not isinstance(out, Tensor):
        raise TypeError(f"in training mode the output is {type(out).__name__}: make it a tensor.")
    hard = F.cross_entropy(out.float(), labels, label_smoothing=smoothing)
    if teacher is None:
        return hard
    with torch.no_grad(), in_eval(teacher):
        target = (teacher(x.to(like_of(teacher))).float() / 2).softmax(1)
    return (hard + 4 * F.cross_entropy(out.float() / 2, target)) / 2


def _check_finite(losses: list, step: int, model: nn.Module, good: dict) -> None:
    bad = ~torch.stack([torch.as_tensor(loss, device="cpu") for loss in losses]).isfinite()
    if bad.any():
        first = step + 1 - len(losses) + int(bad.nonzero()[0])
        model.load_state_dict(good)
        text = f"the loss became NaN or infinite at step {first}: lower lr, or look for NaN in the"
        raise FloatingPointError(
            f"{text} data; the model holds the weights of the last good epoch."
        )
