"""What several test files need: networks whose batch norms hide nothing."""

import torch
from torch import nn


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


def relative_error(got, want) -> float:
    """Euclidean norm of the difference over that of the expected value."""
    return ((got - want).norm() / want.norm()).item()
