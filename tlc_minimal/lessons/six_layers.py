"""What is left of a ResNet-18 when each stage becomes one convolution: eighteen layers, now six."""

from torch import nn


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
