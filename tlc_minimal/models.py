"""Networks of the course. torchvision's models work with the library unchanged."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .results import find_folder


def simple_cnn(classes: int = 10, width: int = 16) -> nn.Sequential:
    """Six 3x3 convolutions with batch norm and ReLU, global average, one linear layer.

    Input (N, 3, H, W), output (N, classes). Strides instead of pooling, so that linear stretches
    can be merged end to end.
    """
    layers, before = [], 3
    for i, (channels, stride) in enumerate(
        [(width, 1), (width, 2), (2 * width, 1), (2 * width, 2), (4 * width, 1), (4 * width, 2)], 1
    ):
        layers += [
            (f"conv{i}", nn.Conv2d(before, channels, 3, stride, 1, bias=False)),
            (f"bn{i}", nn.BatchNorm2d(channels)),
            (f"relu{i}", nn.ReLU()),
        ]
        before = channels
    layers += [
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(before, classes)),
    ]
    model = nn.Sequential()
    for name, layer in layers:
        model.add_module(name, layer)
    return model


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., arXiv 1512.03385, figure 2)."""

    def __init__(self, before: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride > 1 or before != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small images; see :func:`resnet18`."""

    def __init__(self, classes: int, width: int, stem: str):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "paper" else nn.Identity()
        before = width
        for stage in range(4):
            channels = width * 2**stage
            blocks = [
                BasicBlock(before, channels, 2 if stage else 1),
                BasicBlock(channels, channels, 1),
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            before = channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def resnet18(classes: int = 10, width: int = 64, stem: str = "paper") -> ResNet18:
    """ResNet-18 with 17 activations; input (N, 3, H, W), output (N, classes).

    ``stem="paper"``: 3x3 stride-1 convolution and a max-pool, as in TLC (140.2 M MACs on 32x32 at
    width 64); ``"strong"``: without the pool (four times as many). ValueError for another stem.
    """
    if stem not in ("paper", "strong"):
        raise ValueError(f"stem is 'paper' or 'strong', not {stem!r}.")
    return ResNet18(classes, width, stem)


NETWORKS = {"resnet18": resnet18, "simple_cnn": simple_cnn}


def save_checkpoint(model: nn.Module, name: str, network: str, **options) -> None:
    """Keep a trained network (half precision, no pickle) as data/checkpoints/<name>.safetensors.

    ``network`` and ``options`` are the call that builds it: a key of ``NETWORKS``, its arguments.
    """
    half = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    tensors = {k: v.cpu().contiguous() for k, v in half.items()}
    metadata = {"network": network, "options": json.dumps(options)}
    save_file(tensors, find_folder("data/checkpoints") / f"{name}.safetensors", metadata)


def load_checkpoint(name: str) -> nn.Module:
    """A trained network of the course, in eval mode; FileNotFoundError names those there are."""
    folder = find_folder("data/checkpoints")
    path = folder / f"{name}.safetensors"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.safetensors")))
        raise FileNotFoundError(f"there is no checkpoint {name!r}; there are: {there or 'none'}.")
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    model = NETWORKS[metadata["network"]](**json.loads(metadata["options"]))
    model.load_state_dict(
        {k: v.float() if v.dtype == torch.half else v for k, v in tensors.items()}
    )
    return model.eval()
