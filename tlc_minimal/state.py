"""The state of a training after an epoch: a killed one goes on from it, to the same weights."""

import json
from pathlib import Path

import torch
from torch import nn

from .files import load_weights, save_weights


def keep(
    path: Path, recipe: dict, model: nn.Module, sgd: torch.optim.SGD, generator: torch.Generator,
    step: int, means: list[float],
) -> None:  # fmt: skip
    """Write weights, momentum, random states and the mean losses so far to ``path``; ``recipe``:
    what the training was asked for."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    momenta = sgd.state_dict()["state"].items()
    tensors |= {f"momentum.{i}": known["momentum_buffer"] for i, known in momenta}
    tensors |= {"generator": generator.get_state(), "dice": torch.get_rng_state()}
    if generator.device.type == "cuda":
        tensors["dice.cuda"] = torch.cuda.get_rng_state()
    tensors |= {"means": torch.tensor(means, dtype=torch.float64), "step": torch.tensor(step)}
    save_weights(tensors, path, recipe=json.dumps(recipe, default=lambda n: n.item()))


def take_up(
    path: Path, recipe: dict, model: nn.Module, sgd: torch.optim.SGD, generator: torch.Generator
) -> tuple[int, list[float]]:
    """Steps done and the mean losses; model, optimizer and generators are as they were then.

    ValueError for a damaged file, or one of another ``recipe``.
    """
    tensors, about = load_weights(path)
    saved = json.loads(about.get("recipe", "{}"))
    if differing := [k for k in recipe if saved.get(k) != recipe[k]]:
        what = f"{path} holds the state of a training with different {', '.join(differing)}"
        raise ValueError(f"{what}: nothing was changed; delete it, or train as it was begun.")
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for i, p in enumerate(sgd.param_groups[0]["params"]):
        if f"momentum.{i}" in tensors:  # in the layout of its weights
            sgd.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(tensors[f"momentum.{i}"])
    generator.set_state(tensors["generator"])
    torch.set_rng_state(tensors["dice"])
    if "dice.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["dice.cuda"])
    return int(tensors["step"]), tensors["means"].tolist()
