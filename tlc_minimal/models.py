"""Networks of the course. torchvision's models work with the library unchanged."""

from torch import Tensor, nn

from .refuse import check_known, check_ranges


def simple_cnn(classes: int = 10, width: int = 16) -> nn.Sequential:
    """Six 3x3 convolutions with batch norm and ReLU, global average, one linear layer.

    Input (N, 3, H, W), output (N, classes). Strides instead of pooling, so that linear stretches
    can be merged end to end. ValueError for a width below 1.
    """
    check_ranges(width=width)
    model, before = nn.Sequential(), 3
    for i, channels in enumerate([width, width, 2 * width, 2 * width, 4 * width, 4 * width], 1):
        stride = 1 if i % 2 else 2
        model.add_module(f"conv{i}", nn.Conv2d(before, channels, 3, stride, 1, bias=False))
        model.add_module(f"bn{i}", nn.BatchNorm2d(channels))
        model.add_module(f"relu{i}", nn.ReLU())
        before = channels
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(before, classes))
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
            self.shortcut.append(nn.Conv2d(before, channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 with 17 activations; input (N, 3, H, W), output (N, classes).

    ``stem="paper"``: 3x3 stride-1 convolution and a max-pool, as in TLC (140.2 M MACs on 32x32 at
    width 64); ``"strong"``: without the pool (four times as many). ValueError for another stem, or
    a width below 1.
    """

    def __init__(self, classes: int = 10, width: int = 64, stem: str = "paper"):
        super().__init__()
        check_known("stem", stem, ("paper", "strong"))
        check_ranges(width=width)
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "paper" else nn.Identity()
        before = width
        for stage in range(4):
            channels = width * 2**stage
            first = BasicBlock(before, channels, 2 if stage else 1)
            second = BasicBlock(channels, channels, 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, second))
            before = channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


resnet18 = ResNet18  # by torchvision's name
NETWORKS = {"resnet18": resnet18, "simple_cnn": simple_cnn}
