"""Checks of lesson 03, linear merging."""

import torch
from torch import Tensor

from .compare import compare


def folded_batch_norm(fold) -> None:
    """fold(weight, bias, norm) -> (weight, bias) of norm(conv(x)); ValueError in training mode."""
    weight, bias, norm = _conv_and_norm()
    mistakes = {
        "eps is forgotten: it is added to the variance.": _folded(weight, bias, norm, eps=0.0),
        "the root is forgotten: running_var is a variance.": _folded(weight, bias, norm, power=1),
        "the convolution's own bias is forgotten.": _folded(weight, 0 * bias, norm),
        "the running mean is forgotten.": _folded(weight, bias, norm, mean=0.0),
    }
    compare(_flat(fold(weight, bias, norm.eval())), _folded(weight, bias, norm), mistakes)
    _refuses(lambda: fold(weight, bias, norm.train()))


def composed_kernel(compose) -> None:
    """compose(w1, w2, s1) -> the kernel of the second after the first (1-D, one channel)."""
    w1, w2 = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, -1.0, 5.0])
    mistakes = {
        "swapped order: the first stride spreads the second kernel.": _taps(w2, w1, 2),
        "one kernel is flipped: deep learning's convolution does not flip.": _taps(
            w1, w2.flip(0), 2
        ),
        "the first stride is ignored: tap j of the second lands on s1 j.": _to(_taps(w1, w2, 1), 7),
    }
    compare(_to(compose(w1, w2, 2), 7), _taps(w1, w2, 2), mistakes)


def composed_bias(bias) -> None:
    """bias(b1, w2, b2) -> the bias of the second after the first; w2 (out, in, k, k)."""
    dice = torch.Generator().manual_seed(3)
    b1, b2 = torch.randn(3, generator=dice), torch.randn(3, generator=dice)
    w2 = torch.randn(3, 3, 3, 3, generator=dice)
    mistakes = {
        "the first bias is forgotten.": b2,
        "the second bias is forgotten.": w2.sum((2, 3)) @ b1,
        "only the middle tap is counted: b1 meets every tap.": w2[:, :, 1, 1] @ b1 + b2,
        "swapped order: w2 is (out, in), and b1 belongs to in.": b1 @ w2.sum((2, 3)) + b2,
    }
    compare(bias(b1, w2, b2), w2.sum((2, 3)) @ b1 + b2, mistakes)


def composed_geometry(geometry) -> None:
    """geometry(k1, s1, p1, k2, s2, p2) -> (kernel, stride, padding) of second after first."""
    k1, s1, p1, k2, s2, p2 = case = (7, 2, 3, 5, 3, 1)
    want = [k1 + s1 * (k2 - 1), s1 * s2, p1 + s1 * p2]
    mistakes = {
        "the second padding is ignored.": [*want[:2], p1],
        "the paddings are just added: one pixel between is s1 outside.": [*want[:2], p1 + p2],
        "the kernel ignores the first stride.": [k1 + k2 - 1, *want[1:]],
        "both ignore the first stride.": [k1 + k2 - 1, s1 * s2, p1 + p2],
        "swapped order.": [k2 + s2 * (k1 - 1), s1 * s2, p2 + s2 * p1],
    }
    compare(geometry(*case), want, mistakes)


def merged_inside(inside) -> None:
    """inside(n, k1, s1, p1, k2, s2, p2) -> (low, high): one kernel can compute the outputs low to
    high - 1 of a padded pair, for they see no zero of the second padding."""
    cases = (20, 5, 2, 3, 4, 2, 1), (9, 3, 1, 1, 3, 1, 1)
    wrong = {
        "the first stride is ignored: the row in between is shorter than n.": (
            lambda n, k, s, p, m, t, q: _inside(n, k, 1, p, m, t, q)
        ),
        "the second stride is ignored: output i begins at s2 i - p2.": (
            lambda n, k, s, p, m, t, q: _inside(n, k, s, p, m, 1, q)
        ),
        "the border is one pixel off: high is the first output behind the inside.": (
            lambda *case: (_inside(*case)[0], _inside(*case)[1] - 1)
        ),
        "swapped order: the first layer comes first.": (
            lambda n, k, s, p, m, t, q: _inside(n, m, t, q, k, s, p)
        ),
        "the first padding is ignored: it makes the row in between longer.": (
            lambda n, k, s, p, m, t, q: _inside(n, k, s, 0, m, t, q)
        ),
        "zeros of the first padding count, too; but one kernel pads with the same zeros.": (
            lambda n, k, s, p, m, t, q: _inside(n, 1, 1, 0, k + s * (m - 1), s * t, p + s * q)
        ),
        "p2 / s2 is rounded down: an output that sees any zero is on the border.": (
            lambda n, k, s, p, m, t, q: (q // t, _inside(n, k, s, p, m, t, q)[1])
        ),
        "the border is as wide behind as in front; with strides it need not be.": _symmetric,
        "as if nothing were padded in between: all outputs are inside.": (
            lambda *case: (0, _outputs(*case))
        ),
    }
    answers = [inside(*case) for case in cases]
    given = all(isinstance(answer, tuple | list | Tensor) for answer in answers)
    mistakes = {cause: torch.tensor([f(*case) for case in cases]) for cause, f in wrong.items()}
    want = torch.tensor([_inside(*case) for case in cases])
    compare(answers if given else answers[0], want, mistakes)


def dirac(embed) -> None:
    """embed(channels, kernel, padding) -> weight (C, C, k, k) of a convolution that returns x."""
    mistakes = {
        "padding is ignored: the tap sits at the kernel's corner.": _tap(torch.eye(2), 0),
        "the tap sits in the middle; that is right only where p = (k - 1) / 2.": _tap(
            torch.eye(2), 2
        ),
        "every channel reads every channel: out c reads in c alone.": _tap(torch.ones(2, 2), 1),
    }
    compare(embed(2, 5, 1), _tap(torch.eye(2), 1), mistakes)


def break_even(channels) -> None:
    """channels(k1, s1, k2, c_in, c_out) -> middle channels at which two cost as much as one."""
    k1, s1, k2, c_in, c_out = case = (3, 2, 5, 10, 40)
    kernel, two = k1 + s1 * (k2 - 1), k1**2 * c_in + k2**2 * c_out
    mistakes = {
        "the merged kernel ignores the first stride.": (k1 + k2 - 1) ** 2 * c_in * c_out / two,
        "a kernel has k² taps, not k.": kernel * c_in * c_out / (k1 * c_in + k2 * c_out),
        "only the second of the two is counted.": kernel**2 * c_in / k2**2,
        "swapped order: the first one reads c_in, the second one writes c_out.": (
            kernel**2 * c_in * c_out / (k1**2 * c_out + k2**2 * c_in)
        ),
    }
    compare(channels(*case), kernel**2 * c_in * c_out / two, mistakes)


def _conv_and_norm():
    """The weight (4, 3) and bias of a 1x1 convolution, and a norm whose values hide nothing."""
    dice, norm = torch.Generator().manual_seed(0), torch.nn.BatchNorm1d(4, eps=0.1)
    for tensor in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        tensor.uniform_(0.4, 1.6, generator=dice)
    weight, bias = torch.randn(4, 3, generator=dice), torch.randn(4, generator=dice)
    return weight, bias, norm.requires_grad_(False)


def _folded(weight: Tensor, bias: Tensor, norm, eps=0.1, power=0.5, mean=1.0) -> Tensor:
    slope = norm.weight / (norm.running_var + eps) ** power
    shift = (bias - mean * norm.running_mean) * slope + norm.bias
    return torch.cat([(weight * slope[:, None]).flatten(), shift])


def _flat(answer):
    """Several tensors as one vector; anything else as it is."""
    pair = isinstance(answer, tuple | list)
    return torch.cat([part.flatten() for part in answer]) if pair else answer


def _refuses(call) -> None:
    try:
        call()
    except ValueError:
        return
    raise AssertionError(
        "expected ValueError for a norm in training mode. Likely cause: the answer never looks at "
        "norm.training; on the batch's own statistics a norm cannot be folded."
    )


def _inside(n, k1, s1, p1, k2, s2, p2):
    middle = (n + 2 * p1 - k1) // s1 + 1
    return -(-p2 // s2), (middle - k2 + p2) // s2 + 1


def _outputs(n, k1, s1, p1, k2, s2, p2):
    middle = (n + 2 * p1 - k1) // s1 + 1
    return (middle + 2 * p2 - k2) // s2 + 1


def _symmetric(*case):
    low, _ = _inside(*case)
    return low, _outputs(*case) - low


def _tap(values: Tensor, where: int) -> Tensor:
    weight = torch.zeros(*values.shape, 5, 5)
    weight[:, :, where, where] = values
    return weight


def _taps(w1: Tensor, w2: Tensor, stride: int) -> Tensor:
    out = torch.zeros(len(w1) + stride * (len(w2) - 1))
    for j, tap in enumerate(w2):
        out[stride * j : stride * j + len(w1)] += tap * w1
    return out


def _to(answer, size: int):
    """A shorter vector with zeros behind, so that a mistake of the wrong length has a name too."""
    if not isinstance(answer, Tensor) or answer.ndim != 1 or len(answer) >= size:
        return answer
    return torch.cat([answer, answer.new_zeros(size - len(answer))])
