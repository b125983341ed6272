"""The course's trained networks, one of them a ResNet-18 whose stages are one convolution each."""

import copy
import json
from pathlib import Path

from torch import nn

from ..files import load_weights, save_weights
from ..models import NETWORKS as PLAIN
from ..refuse import check_known
from ..results import find_folder


def six_layers(classes: int = 10, width: int = 64) -> nn.Sequential:
    """The network of the records headline_w64_project_22: stem with max-pool, one 3x3 convolution a
    stage, a linear layer; four activations. Input (N, 3, H, W), output (N, classes)."""
    model, before = nn.Sequential(), 3
    for i, (channels, stride) in enumerate([(1, 1), (1, 1), (2, 2), (4, 2), (8, 2)]):
        convolution = nn.Conv2d(before, width * channels, 3, stride, 1, bias=False)
        model.add_module(f"conv{i}", convolution)
        model.add_module(f"bn{i}", nn.BatchNorm2d(width * channels))
        if i < 4:
            model.add_module(f"relu{i}", nn.ReLU())
        if not i:
            model.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
        before = width * channels
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(before, classes))
    return model


NETWORKS = PLAIN | {"six_layers": six_layers}


def save_checkpoint(model: nn.Module, name: str, network: str, **options) -> None:
    """Keep a trained network (half precision, no pickle) as data/checkpoints/<name>.safetensors.

    ``network`` and ``options`` are the call that builds it: a key of ``NETWORKS``, its arguments.
    ValueError, and no file, if that builds another network, or a weight is too large.
    """
    check_known("network", network, NETWORKS)
    weights = copy.deepcopy(model).half().state_dict()
    try:
        NETWORKS[network](**options).load_state_dict(weights)
        options = json.dumps(options)
    except (RuntimeError, TypeError) as error:
        call = f"{network}({', '.join(f'{k}={v!r}' for k, v in options.items())})"
        raise ValueError(f"{call} is not this model: give the call that built it.") from error
    if large := [k for k, v in weights.items() if not v.isfinite().all()]:
        raise ValueError(f"{large[0]} is not finite in half precision: keep it by torch.save.")
    path = find_folder("data/checkpoints") / f"{name}.safetensors"
    save_weights(weights, path, network=network, options=options)


def load_checkpoint(name: str) -> nn.Module:
    """A trained network of the course by its name, or by the path of its file, in eval mode.

    FileNotFoundError names those there are; ValueError, naming the file, if it is damaged or no
    checkpoint.
    """
    path = Path(name)
    if path.suffix != ".safetensors":
        path = find_folder("data/checkpoints") / f"{name}.safetensors"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors")))
        raise FileNotFoundError(f"there is no checkpoint {name!r}; there are: {there or 'none'}.")
    _, made = load_weights(path)
    try:
        model = NETWORKS[made["network"]](**json.loads(made["options"]))
    except (KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is no checkpoint ({why}): see save_checkpoint.") from error
    load_weights(path, into=model)  # half precision becomes single again
    return model.eval()
