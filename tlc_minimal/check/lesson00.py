"""Checks of lesson 00, a tour."""

import torch

from .compare import compare


def _each(f, cases: list):
    """``f`` of every case as a list, or the first empty answer (None or dots) alone."""
    values = [f(*case) for case in cases]
    return next((v for v in values if v is None or v is ...), values)


def macs(f) -> None:
    """``f(kernel, c_in, c_out, height, width)``: multiply-accumulates of a square convolution."""
    cases = [(3, 3, 8, 32, 32), (5, 16, 4, 8, 6)]
    wrongs = {
        "the kernel is square: k² products, not k.": lambda k, i, o, h, w: k * i * o * h * w,
        "every input channel has products of its own.": lambda k, i, o, h, w: k * k * o * h * w,
        "one image has height x width output pixels.": lambda k, i, o, h, w: k * k * i * o,
        "a bias is no multiplication.": lambda k, i, o, h, w: (k * k * i + 1) * o * h * w,
    }
    mistakes = {cause: torch.tensor(_each(wrong, cases)) for cause, wrong in wrongs.items()}
    compare(_each(f, cases), [k * k * i * o * h * w for k, i, o, h, w in cases], mistakes)


def share_off(f) -> None:
    """``f(mean)``: the share in percent of channels that are OFF, their mean 0 or below."""
    mean = torch.tensor([-2.0, -0.5, 0.0, 0.1, 0.2, 0.3, 1.0, 3.0])
    mistakes = {
        "this is the share of ON channels.": torch.tensor(62.5),
        "a mean of exactly 0 counts as OFF.": torch.tensor(25.0),
        "this is a fraction: percent is 100 times that.": torch.tensor(0.375),
        "this is how many there are: divide by the number of channels.": torch.tensor(3.0),
    }
    compare(f(mean), torch.tensor(37.5), mistakes)


def two_linear_layers(f) -> None:
    """``f(w1, b1, w2, b2)``: weight and bias of the second linear layer after the first."""
    w1, w2 = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[2.0, -1.0], [1.0, 4.0]])
    b1, b2 = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 5.0])
    both = lambda weight, bias: torch.cat([weight, bias[:, None]], 1)
    mistakes = {
        "the order is swapped: w1 acts on x first.": both(w1 @ w2, w1 @ b2 + b1),
        "the weights are in the wrong order: w2 @ w1.": both(w1 @ w2, w2 @ b1 + b2),
        "the first bias is forgotten.": both(w2 @ w1, b2),
        "the first bias must pass through the second weight.": both(w2 @ w1, b1 + b2),
        "the second bias is forgotten.": both(w2 @ w1, w2 @ b1),
        "* multiplies entry by entry; a matrix product is @.": both(w2 * w1, w2 @ b1 + b2),
    }
    got = f(w1, b1, w2, b2)
    got = both(*got) if isinstance(got, tuple) else got
    compare(got, both(w2 @ w1, w2 @ b1 + b2), mistakes)
