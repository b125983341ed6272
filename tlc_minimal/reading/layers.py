"""The layers that others write by hand, as plain ones; and what kinds of layers there are."""

import torch
from torch import Tensor, nn

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
ACTIVATION = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish)
ACTIVATION += (nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.Mish, nn.Softplus, nn.Tanh, nn.Hardtanh)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Norm(nn.modules.batchnorm._BatchNorm):
    """A batch norm of any number of dimensions: what others wrote with F.batch_norm."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class Frozen(Norm):
    """One that keeps its running statistics in training, too (FrozenBatchNorm2d)."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


class ByMode(nn.Module):
    """Calls ``function`` with the module's own mode at the arguments ``places``, as
    ``F.dropout(x, training=self.training)`` does."""

    def __init__(self, function, places: list[int | str]):
        super().__init__()
        self.function, self.places = function, places

    def forward(self, *args, **kwargs):
        args = [self.training if i in self.places else a for i, a in enumerate(args)]
        kwargs |= {k: self.training for k in self.places if k in kwargs}
        return self.function(*args, **kwargs)


NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, Norm)


def passes(module: nn.Module | None) -> bool:
    """Whether a module gives back what it is given: dropout (and a foreign one without tensors,
    tried out) in eval mode."""
    if isinstance(module, nn.Identity):
        return True
    if module is None or module.training:
        return False
    if isinstance(module, DROPOUT):
        return True
    if type(module).__module__.startswith(("torch.", "tlc_minimal")) or any(module.state_dict()):
        return False
    x = torch.ones(1, 1, 1, 1)
    try:
        return module(x) is x
    except Exception:  # it wants something else
        return False
