"""The exercises' checks take every right answer and name every known mistake, in one sentence."""

import ast
import functools
import math
import re
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.lessons import check
from tlc_minimal.lessons.check.exercise import Exercise
from tools.notebooks import lessons, read, tags, text

CHECKS = {name: e for name, e in vars(check).items() if isinstance(e, Exercise)}
MISTAKES = [(name, cause) for name, e in CHECKS.items() for cause in e.mistakes]
STYLES = {"list": lambda t: t.tolist(), "numpy": lambda t: t.numpy(), "tensor": lambda t: t}
each_check = pytest.mark.parametrize("name", CHECKS)


@functools.cache
def solutions() -> dict:
    """{name of a check: the solution in its lesson}, functions and calls of the folded cells."""
    found = {}
    for path in lessons():
        bell = lambda x: torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        space = {"torch": torch, "math": math, "tlc": tlc, "product": product}
        space |= {"Phi": torch.special.ndtr, "phi": bell}
        for cell in read(path)["cells"]:
            if "solution" in tags(cell):
                tree = ast.parse(text(cell))
                functions = [part for part in tree.body if isinstance(part, ast.FunctionDef)]
                exec(compile(ast.Module(functions, []), path.name, "exec"), space)
                for call in ast.walk(tree):
                    if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("check."):
                        name = call.args[0].id
                        found[call.func.attr] = space[name]
                        space[name].tree = next(f for f in functions if f.name == name)
    return found


def batch_norm(x, gamma, beta, eps):
    return F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)


def fold(weight, bias, norm):
    """Reads the layer off: what comes out for 0 is the bias, for each basis vector a column."""
    if norm.training:
        raise ValueError("eval first")
    out = norm(F.linear(torch.cat([torch.zeros(1, 3), torch.eye(3)]), weight, bias))
    return (out[1:] - out[0]).T, out[0]


def compose(w1, w2, s1):
    """Reads the kernel off: its taps are what the last output answers to an impulse."""
    n = len(w1) + s1 * (len(w2) - 1)
    first = F.conv1d(torch.eye(n)[:, None], w1[None, None], None, s1)
    return F.conv1d(first, w2[None, None])[:, 0, 0]


def inside(n, k1, s1, p1, k2, s2, p2):
    """By trying: where the kernel of the pair whose padding has moved agrees with the pair."""
    dice = torch.Generator().manual_seed(0)
    w1, w2, x = (torch.randn(1, 1, k, generator=dice).double() for k in (k1, k2, n))
    pair = F.conv1d(F.conv1d(x, w1, torch.ones(1).double(), s1, p1), w2, None, s2, p2)
    moved = F.conv1d(F.conv1d(x, w1, torch.ones(1).double(), s1, p1 + s1 * p2), w2, None, s2)
    right = ((moved - pair).abs() < 1e-9).flatten().nonzero().flatten().tolist()
    assert right == list(range(right[0], right[-1] + 1))
    return right[0], right[-1] + 1


def mean_gelu(mean, std):
    """By the library's quadrature, not in closed form."""
    slope, shift = tlc.gaussian.best_affine(mean.double(), std.double(), nn.GELU())
    return slope * mean + shift


SECOND_OPINIONS = {
    "batch_norm": batch_norm,
    "biased_variance": lambda x: x.square().mean((0, 2, 3)) - x.mean((0, 2, 3)).square(),
    "on_is_cheaper": lambda z: (torch.relu(z) - z).norm(dim=1) < torch.relu(z).norm(dim=1),
    "folded_batch_norm": fold, "composed_kernel": compose, "merged_inside": inside,
    "layer_norm": lambda x, w, b, eps: F.layer_norm(x, x.shape[-1:], w, b, eps),
    "mean_gelu": mean_gelu,
    "one_matrix": lambda w1, b1, a, b, w2, b2: (w2 @ a.diag() @ w1, w2 @ (a * b1 + b) + b2),
    "auroc": lambda k, u: roc_auc_score([1] * len(k) + [0] * len(u), torch.cat([k, u])),
    "beyond_chance": lambda on, other: cohen_kappa_score(on, other),
}  # fmt: skip


def passes(name, answer, capsys):
    CHECKS[name](answer)
    assert capsys.readouterr().out == "correct\n"


def refused(name, answer) -> str:
    """What the check says, which is one line and one sentence."""
    with pytest.raises(AssertionError) as told:
        CHECKS[name](answer)
    sentence = str(told.value)
    assert re.fullmatch(r"[^\n]+[.?]", sentence) and not re.search(r"[.!?] [A-Z]", sentence)
    return sentence


def test_every_check_has_its_exercise_and_every_exercise_its_check():
    assert len(CHECKS) == 45 and set(solutions()) == set(CHECKS)


@each_check
@pytest.mark.parametrize("style", STYLES)
def test_the_lessons_solution_is_right_in_every_style(name, style, capsys):
    def answer(*case):
        out = solutions()[name](*case)
        several = isinstance(out, tuple)
        values = [STYLES[style](torch.as_tensor(v)) for v in (out if several else [out])]
        return values if several else values[0]

    passes(name, answer, capsys)


@pytest.mark.parametrize("name", SECOND_OPINIONS)
def test_another_way_to_the_same_answer_is_right(name, capsys):
    passes(name, SECOND_OPINIONS[name], capsys)


@pytest.mark.parametrize(("name", "cause"), MISTAKES)
def test_a_mistake_is_told_its_cause_and_not_the_answer(name, cause):
    sentence = refused(name, CHECKS[name].mistakes[cause])
    assert sentence.endswith(f"; likely cause: {cause}.")
    code = [e for e in ast.walk(solutions()[name].tree) if isinstance(e, ast.BinOp | ast.Call)]
    assert not [e for e in map(ast.unparse, code) if len(e) > 4 and e in cause]


@each_check
def test_what_is_no_answer(name):
    assert "nothing came back: replace the dots, or is a" in refused(name, lambda *_: None)
    assert "no answer yet" in refused(name, lambda *_: ...)
    assert "a number is expected, not object" in refused(name, lambda *_: object())
    assert "likely cause" not in refused(name, lambda *_: 12345.0)
    with pytest.raises(TypeError, match="your function itself, not 12345"):
        CHECKS[name](12345)


@each_check
def test_one_cases_answer_is_no_answer(name):
    """Whoever copies the expected numbers out of the message is not done."""
    first = CHECKS[name].right(*CHECKS[name].cases()[0])
    refused(name, lambda *_: first)


def test_the_message_says_call_place_and_both_numbers():
    wrong = check.dirac.mistakes["the middle is right for one padding only"]
    wrong.__name__ = "my_dirac"
    begin = "my_dirac(2, 5, 1) gave 0 at [0, 0, 1, 1], expected 1; likely cause: "
    assert refused("dirac", wrong).startswith(begin)
    unknown = lambda d, t: check.seeds_needed.right(d, t) if t == 3 else -1
    assert "likely cause" not in refused("seeds_needed", unknown)
    partial = functools.partial(lambda channels, kernel, padding: -1.0)
    assert refused("dirac", partial).startswith("your answer(2, 5, 1) gave one number, expected")
    assert "gave shape (2,), expected one number" in refused("share_off", lambda m: torch.ones(2))
    assert "gave one value, 3 are expected" in refused("over_seeds", lambda v: [v.mean()])
    assert "gave one value, 2 are expected" in refused("two_linear_layers", lambda w, *_: w)
    assert "one value came, a dict, and 3 are" in refused("over_seeds", lambda v: {"mean": 1})
    assert "as value 3 of 3" in refused("over_seeds", lambda v: (v.mean(), v.min(), v.min()))
    trained = lambda w, b, n: fold(w, b, n.eval())
    assert "expected a ValueError" in refused("folded_batch_norm", trained)


def test_an_error_of_the_learners_own_is_theirs_to_see():
    with pytest.raises(ValueError, match="my own"):
        check.share_off(lambda mean: float("my own"))


def test_an_answer_may_not_change_its_arguments():
    centred = lambda x: x.sub_(x.mean((0, 2, 3), keepdim=True)).square_().mean((0, 2, 3))
    taken = lambda a, b: check.over_seeds.right(torch.tensor([a.pop(s) - b.pop(s) for s in [*a]]))
    eased = lambda w, b, n: (fold(w, b, n), n.bias.add_(1))[0]
    names = "biased_variance x", "paired_difference a", "folded_batch_norm norm"
    for name, answer in zip(2 * names, 2 * (centred, taken, eased)):  # twice: they are whole again
        said = f"is right, but changes its argument {name.split()[1]}:"
        assert said in refused(name.split()[0], answer)
