"""The exercises' checks: what was expected, what came, and the likely cause.

A check runs the learner's answer on a small case and compares it with the library. Every check
also knows the usual mistakes: it computes them too, and if the answer equals one, says which.
"""

import torch
from torch import Tensor


def compare(got, want: Tensor, mistakes: dict[str, Tensor] | None = None, tolerance=1e-5) -> None:
    """Print "correct", or raise AssertionError with expected, given and, if known, the cause.

    ``mistakes``: {sentence about the cause: the value that this mistake gives}.
    """
    if got is None or got is ...:
        raise AssertionError("there is no answer yet: replace the dots by your own code.")
    try:
        got = torch.as_tensor(got, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(
            f"a tensor or a number is expected, not {type(got).__name__}."
        ) from None
    want = torch.as_tensor(want, dtype=torch.float64).detach()
    if got.shape != want.shape:
        raise AssertionError(f"expected shape {tuple(want.shape)}, got {tuple(got.shape)}.")
    if torch.allclose(got, want, rtol=tolerance, atol=tolerance):
        print("correct")
        return
    causes = [
        f" Likely cause: {cause}"
        for cause, value in (mistakes or {}).items()
        if torch.as_tensor(value).shape == got.shape
        and torch.allclose(got, torch.as_tensor(value, dtype=torch.float64), rtol=1e-4, atol=1e-6)
    ]
    raise AssertionError(f"expected {_short(want)}, got {_short(got)}.{''.join(causes[:1])}")


def _short(value: Tensor) -> str:
    flat = value.flatten()
    shown = ", ".join(f"{v:.5g}" for v in flat[:4].tolist())
    return shown if flat.numel() == 1 else f"[{shown}{', …' if flat.numel() > 4 else ''}]"


# --- lesson 03 ---


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


# --- lesson 05 ---


def _given(answers: list):
    return None if any(a is None or a is ... for a in answers) else answers


def conv_macs(f) -> None:
    """MACs of a convolution, f(c_in, c_out, kernel, stride, side of the input map)."""
    i, o, k, s, n = torch.tensor([[3, 64, 3, 1, 32], [64, 128, 3, 2, 16], [8, 16, 1, 2, 4]]).T
    want = k**2 * i * o * (n // s) ** 2
    mistakes = {
        "the stride was forgotten: count the output pixels.": want * s**2,
        "the map has side² pixels: divide both sides by the stride.": want * s,
        "the kernel has kernel² taps, not kernel.": want // k,
        "the input channels are missing: each output sums over all of them.": want // i,
        "a multiply-accumulate is one operation here, not two.": 2 * want,
    }
    got = [f(*map(int, case)) for case in zip(i, o, k, s, n)]
    compare(_given(got), want, mistakes)


def block_share(f) -> None:
    """Share of a strided block's MACs left when a share q of its inner channels is cut, f(q)."""
    q = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    mistakes = {
        "the shortcut is not cut: its 0.5 of 14 stays.": 1 - q,
        "the second convolution loses input channels too.": (4.5 * (1 - q) + 9.5) / 14,
        "the first convolution loses output channels too.": (9 * (1 - q) + 5) / 14,
        "each convolution is cut on one side only: no square.": (13.5 * (1 - q) ** 2 + 0.5) / 14,
        "what is left was asked for, not what is saved.": 13.5 * q / 14,
    }
    got = [f(float(share)) for share in q]
    compare(_given(got), (13.5 * (1 - q) + 0.5) / 14, mistakes)


def activation_kinds(f) -> None:
    """(activations after a sum, straight after a batch norm) of two networks, f(model, example)."""
    from .models import resnet18, simple_cnn

    x, want = torch.zeros(1, 3, 32, 32), torch.tensor([8, 9, 0, 6])
    mistakes = {
        "the pair is swapped: sums come first.": want[[1, 0, 3, 2]],
        "the stem was forgotten: it has an activation of its own.": torch.tensor([8, 8, 0, 6]),
        "a sum is not a batch norm: norm is None there.": torch.tensor([8, 17, 0, 6]),
    }
    got = [f(model, x) for model in (resnet18(width=4), simple_cnn(width=4))]
    compare(_given(got) and torch.tensor(got).flatten(), want, mistakes)


# --- lesson 01 ---


def _wide(*values: Tensor) -> list[Tensor]:
    return [v[:, None, None] for v in values]


def _batch01() -> Tensor:
    x = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    spread, shift = _wide(torch.tensor([0.5, 2.0]), torch.tensor([1.0, -0.5]))
    return x * spread + shift


def biased_variance(f) -> None:
    """``f(x)``: each channel's variance as batch norm takes it; x (N, C, H, W)."""
    x = _batch01()
    over, want = (0, 2, 3), x.var((0, 2, 3), unbiased=False)
    inside = x.var((2, 3), unbiased=False).mean(0)
    mistakes = {
        "divided by n - 1; batch norm divides by n.": x.var(over),
        "this is the standard deviation; square it.": want.sqrt(),
        "the variance inside each image, averaged: take images and pixels together.": inside,
        "the mean of the squares: subtract the mean first.": x.square().mean(over),
    }
    compare(f(x), want, mistakes)


def batch_norm(f) -> None:
    """``f(x, gamma, beta, eps)``: batch norm in train mode; x (N, C, H, W)."""
    x, gamma, beta, eps = _batch01(), torch.tensor([2.0, -0.5]), torch.tensor([-1.0, 0.3]), 0.1
    var, n1 = x.var((0, 2, 3), unbiased=False), x.var((0, 2, 3))
    g, b, m, v, n1 = _wide(gamma, beta, x.mean((0, 2, 3)), var, n1)
    want = g * (x - m) / (v + eps).sqrt() + b
    mistakes = {
        "the variance was divided by n - 1.": g * (x - m) / (n1 + eps).sqrt() + b,
        "eps was added outside the root.": g * (x - m) / (v.sqrt() + eps) + b,
        "eps was forgotten.": g * (x - m) / v.sqrt() + b,
        "running statistics 0 and 1 were used: this is eval mode.": g * x / (1 + eps) ** 0.5 + b,
        "gamma and beta were swapped.": b * (x - m) / (v + eps).sqrt() + g,
    }
    compare(f(x, gamma, beta, eps), want, mistakes)


def output_std(f) -> None:
    """``f(gamma, var, eps)``: the exact standard deviation of a batch norm's output."""
    gamma, var, eps = torch.tensor([2.0, -0.5]), torch.tensor([0.04, 0.9]), 0.01
    want = gamma.abs() * (var / (var + eps)).sqrt()
    mistakes = {
        "the sign of gamma stayed; a standard deviation is never negative.": want * gamma.sign(),
        "eps was forgotten: it shrinks the spread.": gamma.abs(),
        "this is the variance; take its root.": want**2,
        "the root is missing over var / (var + eps).": gamma.abs() * var / (var + eps),
    }
    compare(f(gamma, var, eps), want, mistakes)


def merge_tallies(f) -> None:
    """``f(n_a, mean_a, squares_a, n_b, mean_b, squares_b)``: stacked mean and squares of both."""
    a, b = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([10.0, 14.0])
    n, s = (len(a), len(b)), [((x - x.mean()) ** 2).sum() for x in (a, b)]
    both, d = torch.cat([a, b]), b.mean() - a.mean()
    mean, squares = both.mean(), ((both - both.mean()) ** 2).sum()
    mistakes = {
        "the means were averaged without their counts.": [(a.mean() + b.mean()) / 2, squares],
        "the distance between the two means is missing.": [mean, s[0] + s[1]],
        "delta² n_a n_b must still be divided by n_a + n_b.": [mean, s[0] + s[1] + d**2 * 8],
        "squares is a sum, not yet a variance: do not divide by n.": [mean, squares / 6],
    }
    mistakes = {cause: torch.stack(value) for cause, value in mistakes.items()}
    got = f(n[0], a.mean(), s[0], n[1], b.mean(), s[1])
    compare(got, torch.stack([mean, squares]), mistakes)


def residual_sum(f) -> None:
    """``f(beta, std, shortcut_mean, shortcut_std, covariance)``: mean and std of the sum."""
    beta, std, mean, other, cov = (torch.tensor(v) for v in (-0.3, 1.0, 0.7, 0.8, 0.25))
    total = beta + mean
    mistakes = {
        "the shortcut is missing: these are bn2's own numbers.": [beta, std],
        "standard deviations do not add; variances do.": [total, std + other],
        "the covariance is missing.": [total, (std**2 + other**2).sqrt()],
        "the covariance counts twice.": [total, (std**2 + other**2 + cov).sqrt()],
        "this is the variance; take its root.": [total, std**2 + other**2 + 2 * cov],
    }
    mistakes = {cause: torch.stack(value) for cause, value in mistakes.items()}
    want = torch.stack([total, (std**2 + other**2 + 2 * cov).sqrt()])
    compare(f(beta, std, mean, other, cov), want, mistakes)


# --- lesson 04 ---


def layer_score(my_score) -> None:
    """my_score(model, name, data): increase of validation loss when one activation is linear."""
    from . import evaluate, linearize

    model, data = _small_task()
    after = linearize(model, "relu3", data)
    (new, new_right), (old, old_right) = evaluate(after, data), evaluate(model, data)
    wrong = {}
    for s in ("train", "test"):
        rise = evaluate(after, data, s).loss - evaluate(model, data, s).loss
        wrong[f"that is the increase on {s}, not on val."] = rise
    wrong |= {
        "that is the loss afterwards; the loss before is not subtracted.": new,
        "the difference is the wrong way round: after minus before.": old - new,
        "that is the loss in accuracy, not the increase of the loss.": old_right - new_right,
    }
    compare(my_score(model, "relu3", data), torch.tensor(new - old), wrong, tolerance=1e-4)


def against_state(my_against) -> None:
    """my_against(mean, std): mean over channels of the probability to act against one's state."""
    mean, std = torch.tensor([1.0, -2.0, 0.3, -0.1]), torch.tensor([0.5, 1.5, 2.0, 1.2])
    p, squared = (torch.special.ndtr(mean / s) for s in (std, std**2))
    wrong = {
        "averaged first: the smaller one per channel, then the mean.": min(p.mean(), 1 - p.mean()),
        "that is the mean of P(ON); for an ON neuron it is 1 - P(ON).": p.mean(),
        "that is the probability to act as the state says.": p.maximum(1 - p).mean(),
        "divided by the variance, not by the std.": squared.minimum(1 - squared).mean(),
    }
    compare(my_against(mean, std), p.minimum(1 - p).mean(), wrong)


def activations_left(my_count) -> None:
    """my_count(model, x): removable activations of a net that calls one ReLU module twice."""
    relu = torch.nn.ReLU()
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), relu, torch.nn.Linear(5, 4), relu)
    wrong = {
        "modules counted: one ReLU module is called twice, and a call is an activation.": 1,
        "channels counted: an activation is a whole layer of neurons.": 9,
        "all calls counted, the linear layers as well.": 4,
    }
    compare(my_count(model, torch.zeros(1, 3)), 2, wrong)


def over_seeds(my_summary) -> None:
    """my_summary(values): mean, lowest and highest over the seeds, (3,)."""
    v = torch.tensor([97.0, 91.0, 98.5, 96.0])
    mean, low, high = v.mean(), v.min(), v.max()
    wrong = {
        "mean ± standard deviation, not the range.": [mean, mean - v.std(), mean + v.std()],
        "that is the median, not the mean.": [v.median(), low, high],
        "lowest and highest are swapped.": [mean, high, low],
        "the order is: mean, lowest, highest.": [low, mean, high],
    }
    wrong = {cause: torch.stack(values) for cause, values in wrong.items()}
    compare(my_summary(v), torch.stack([mean, low, high]), wrong)


def paired_difference(my_paired) -> None:
    """my_paired(a, b): mean, lowest and highest of a - b within a seed, (3,)."""
    a, b = {0: 97.0, 1: 91.0, 2: 95.0}, {2: 94.0, 0: 98.0, 1: 90.0}
    x, y = (torch.tensor(list(d.values())) for d in (a, b))
    pairs = {
        "want": torch.tensor([a[seed] - b[seed] for seed in a]),
        "paired by position: the seeds of b come in another order.": x - y,
        "the sign is wrong: a minus b.": torch.tensor([b[seed] - a[seed] for seed in a]),
    }
    three = {k: torch.stack([d.mean(), d.min(), d.max()]) for k, d in pairs.items()}
    three["summarised before subtracting; subtract within each seed first."] = torch.stack(
        [x.mean() - y.mean(), x.min() - y.min(), x.max() - y.max()]
    )
    compare(my_paired(a, b), three.pop("want"), three)


def _small_task():
    """A narrow net with drawn batch-norm parameters, and drawn images: enough to score a layer."""
    from . import Data, simple_cnn
    from .readers import Split

    g = torch.Generator().manual_seed(4)
    sizes = ("train", 40), ("val", 30), ("test", 30)
    images = {k: torch.randint(256, (n, 1, 8, 8), generator=g, dtype=torch.uint8) for k, n in sizes}
    splits = {k: Split(x, torch.randint(10, (len(x),), generator=g)) for k, x in images.items()}
    half = torch.full((3,), 0.5)
    names = tuple("0123456789")
    data = Data(
        "drawn", **splits, classes=names, mean=half, std=half, flip=False, crop=0, sha256=""
    )
    model = simple_cnn(10, 2).eval()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g)
    return model, data


# --- lesson 02 ---


def p_on(answer) -> None:
    """Exercise 1: P(ON) of channels from mean and standard deviation, three of which are 0."""
    mean, std = torch.tensor([[-1.0, 0.5, 2.0, 0.3, 0.0, -0.3], [2.0, 1.5, 0.5, 0, 0, 0]]).double()
    certain, r = (mean > 0).double(), mean / std
    phi = lambda x, at_zero=certain: torch.where(std > 0, torch.special.ndtr(x), at_zero)
    mistakes = {
        "divided by the variance instead of the standard deviation.": phi(r / std),
        "the sign: this is the probability of being OFF.": 1 - phi(r),
        "the sign of the ratio: this is P(z < 0).": phi(-r),
        "a mean of 0 that never varies is OFF: z > 0 never holds.": phi(r, (mean >= 0).double()),
    }
    compare(
        _no_nan(answer(mean, std), "0 / 0 where the standard deviation is 0."), phi(r), mistakes
    )


def layer_entropy(answer) -> None:
    """Exercise 2: entropy in bits of a layer, among its neurons a p of 0 and one of 1."""
    p = torch.tensor([0.5, 0.1, 0.0, 1.0, 0.8], dtype=torch.float64)
    one_side, both = torch.special.entr(p), torch.special.entr(p) + torch.special.entr(1 - p)
    middle = p.mean()
    of_mean = torch.special.entr(middle) + torch.special.entr(1 - middle)
    bits = 1 / torch.log(torch.tensor(2.0, dtype=torch.float64))
    mistakes = {
        "a natural logarithm: these are nats, divide by ln 2.": both.mean(),
        "only one side of the coin: 1 - p counts too.": one_side.mean() * bits,
        "the entropy of the mean: take the entropy first, the mean last.": of_mean * bits,
        "the sum over the neurons instead of their mean.": both.sum() * bits,
        "one number per neuron: take the mean over the layer.": both * bits,
    }
    got = _no_nan(answer(p), "0 · log 0: at p = 0 and p = 1 the entropy is 0.")
    compare(got, both.mean() * bits, mistakes)


def cost_on(answer) -> None:
    """Exercise 3: expected squared error of the identity in the place of a rectifier."""
    mean, std = torch.tensor([[-1.0, 0.5, 2.0], [2.0, 1.5, 0.5]], dtype=torch.float64)
    p, edge = torch.special.ndtr(-mean / std), mean * std * _bell(mean / std)
    square = mean**2 + std**2
    mistakes = {
        "this is the price of OFF: the sign of the mean is not changed.": square * (1 - p) + edge,
        "the sign of the second term: it has the mean in it.": square * p + edge,
        "Φ is not symmetric: it takes -r.": square * (1 - p) - edge,
        "the standard deviation where the variance belongs.": (mean**2 + std) * p - edge,
    }
    compare(answer(mean, std), square * p - edge, mistakes)


def best_line(answer) -> None:
    """Exercise 4: least-squares line through (z, f(z)), a slope and a shift per channel."""
    z = torch.tensor([[-2.0, -1.0, 0.5, 3.0], [0.0, 1.0, 2.0, 5.0]], dtype=torch.float64)
    y, u, n = z.square(), z - z.mean(1, keepdim=True), z.shape[1]
    v = y - y.mean(1, keepdim=True)
    slope, raw = (u * v).sum(1) / (u * u).sum(1), (z * y).sum(1) / (z * z).sum(1)
    per_std = (u * v).mean(1) / z.std(1, correction=0)
    pair = lambda a: torch.stack([a, y.mean(1) - a * z.mean(1)])
    mistakes = {
        "no centring: this is the slope of a line through 0.": pair(raw),
        "divided by the standard deviation instead of the variance.": pair(per_std),
        "Cov over n, Var over n - 1: use the same number in both.": pair(slope * (n - 1) / n),
        "the shift is E[f(z)] - slope · E[z].": torch.stack([slope, y.mean(1)]),
        "shift and slope are swapped.": pair(slope).flip(0),
    }  # fmt: skip
    got = answer(z, torch.square)
    compare(
        torch.stack(tuple(got)) if isinstance(got, tuple | list) else got, pair(slope), mistakes
    )


def on_is_cheaper(answer) -> None:
    """Exercise 5: where z → z has the smaller squared error than z → 0, on samples."""
    z = torch.tensor([[-1.0, -1, -1, 2.5], [1, 1, 1, -2.5], [-1, -1, -1, 5], [1, 2, 3, -1]])
    want = z.relu().square().mean(1) > (-z).relu().square().mean(1)
    mistakes = {
        "the sign of the mean: these samples are not Gaussian, compare the errors.": z.mean(1) > 0,
        "the firing rate: how far z is on each side counts, not how often.": (
            (z > 0).float().mean(1) > 0.5
        ),
        "swapped: this is where 0 is the cheaper one.": ~want,
    }
    compare(answer(z), want, mistakes)


def _bell(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x) / (2 * torch.pi) ** 0.5


def _no_nan(got, cause: str):
    if isinstance(got, Tensor) and got.isnan().any():
        raise AssertionError(
            f"there is a nan in {_short(got.detach().double())}. Likely cause: {cause}"
        )
    return got


# --- lesson 00 ---


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
