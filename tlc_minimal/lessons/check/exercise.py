"""An exercise: its right answer, the cases it is tried on, and the usual mistakes beside it."""

from collections.abc import Callable
from copy import deepcopy
from inspect import signature

import torch
from torch import Tensor, nn


class Exercise:
    """``check.name(my_function)`` prints "correct", or says what is wrong and, if known, why.

    ``right``: the answer; where it returns a tuple, as many values are expected, and where it
    raises ValueError, that. ``cases``: the arguments of each call, in which lists become tensors,
    or a function that makes them. ``mistakes``: {likely cause: what a learner writes then}.
    """

    def __init__(self, right: Callable, cases: tuple):
        self.right, self._cases, self.__doc__ = right, cases, right.__doc__
        self.mistakes: dict[str, Callable] = {}

    def cases(self) -> list[tuple]:
        """The arguments of each call, made anew: an answer could change them in place."""
        made = [case() if callable(case) else deepcopy(case) for case in self._cases]
        return [tuple(torch.tensor(v) if isinstance(v, list) else v for v in case) for case in made]

    def __call__(self, answer: Callable) -> None:
        """AssertionError for a wrong answer or none; TypeError for what is no function."""
        if not callable(answer):
            raise TypeError(f"give the check your function itself, not {_short(answer)}.")
        want, cases = self._run(self.right), self.cases()
        given = deepcopy(cases)
        got = self._run(answer, want, cases)
        if all(isinstance(g, ValueError) for g in got):
            raise got[0]  # it refuses nothing in particular: an error of the learner's own
        wrong = [_difference(g, w) for g, w in zip(got, want)]
        if right := not any(wrong):
            wrong = [self._changed(*pair) for pair in zip(given, cases)]
        first = next((i for i, sentence in enumerate(wrong) if sentence), None)
        if first is None:
            print("correct")
            return
        name = getattr(answer, "__name__", "your answer")  # a partial function has none
        call = f"{name}({', '.join(map(_short, given[first]))})"
        cause = "" if right else self._cause(got, want, first)
        raise AssertionError(f"{call} {wrong[first]}{cause}.")

    def _run(self, f: Callable, want=None, cases=None) -> list:
        cases = cases or self.cases()
        want = want or [None] * len(cases)
        may_refuse = any(w is None or isinstance(w, ValueError) for w in want)
        return [_values(f, case, w, may_refuse) for case, w in zip(cases, want)]

    def _changed(self, before: tuple, after: tuple) -> str:
        """Which argument is no longer what it was; "" if all are."""
        for name, old, new in zip(signature(self.right).parameters, before, after):
            if not _same(old, new):
                return f"is right, but changes its argument {name}: work on a copy"
        return ""

    def _cause(self, got, want, first: int) -> str:
        """The mistake that gives the same in the first wrong case, and in the most of all."""
        agreement = {}
        for cause, mistake in self.mistakes.items():
            same = [not _difference(g, v) for g, v in zip(got, self._run(mistake, want))]
            agreement[cause] = same[first] * sum(same)
        cause = max(agreement, key=agreement.get)
        return f"; likely cause: {cause}" if agreement[cause] else ""


def exercise(*cases):
    """Makes an :class:`Exercise` of the right answer that follows."""
    return lambda right: Exercise(right, cases)


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _values(f: Callable, case: tuple, want, may_refuse: bool) -> list[Tensor] | ValueError:
    """What ``f`` returns, one tensor a value, as many as in ``want``; or the ValueError with which
    it refuses, where some case of the exercise has to be refused."""
    try:
        returned = f(*case)
    except ValueError as refusal:
        if may_refuse:
            return refusal
        raise
    except Exception as error:
        if not isinstance(want, ValueError):
            raise
        raised = f'this raised {type(error).__name__} ("{error}")'
        raise AssertionError(f"{raised}, where a ValueError is expected.") from error
    if want is None or isinstance(want, ValueError):
        several = isinstance(returned, tuple if want is None else tuple | list)
    else:
        several = len(want) > 1 and _is_several(returned, want)
    return [_tensor(value) for value in returned] if several else [_tensor(returned)]


def _is_several(returned, want: list[Tensor]) -> bool:
    """Whether these are values: a list, say, or a tensor of such as are wanted. A single tensor
    has rows, but they are no values."""
    if isinstance(returned, str | dict):
        kind = type(returned).__name__
        raise AssertionError(f"one value came, a {kind}, and {len(want)} are expected.")
    if hasattr(returned, "shape"):
        return len(returned.shape) > 0 and tuple(returned.shape[1:]) == tuple(want[0].shape)
    return hasattr(returned, "__iter__")


def _tensor(value) -> Tensor:
    if value is None:
        raise AssertionError("nothing came back: replace the dots, or is a `return` missing?")
    if value is ...:
        raise AssertionError("there is no answer yet: replace the dots by your own code.")
    try:
        if isinstance(value, list | tuple):
            return torch.stack([_tensor(v) for v in value])
        return torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"a tensor or a number is expected, not {_short(value)}.") from None


def _difference(got: list[Tensor] | ValueError, want: list[Tensor] | ValueError) -> str:
    """The first place in which the values differ, in words; "" if there is none."""
    if isinstance(want, ValueError):
        return "" if isinstance(got, ValueError) else "returned a value, expected a ValueError"
    if isinstance(got, ValueError):
        return f'raised a ValueError, expected {len(want)} values ("{str(got).strip(".")}")'
    if len(got) != len(want):
        came = "one value" if len(got) == 1 else f"{len(got)} values"
        return f"gave {came}, {len(want)} are expected"
    for number, (g, w) in enumerate(zip(got, want), 1):
        which = f" as value {number} of {len(want)}" if len(want) > 1 else ""
        if g.shape != w.shape:
            return f"gave {_shape(g)}{which}, expected {_shape(w)}"
        wrong = ~torch.isclose(g.double(), w.double(), 1e-4, 1e-6, equal_nan=True)
        if wrong.any():
            at = tuple(wrong.nonzero()[0].tolist())
            which += f" at {list(at)}" if at else ""
            return f"gave {_short(g[at].item())}{which}, expected {_short(w[at].item())}"
    return ""


def _same(old, new) -> bool:
    if isinstance(old, Tensor):
        return old.shape == new.shape and torch.equal(old, new)
    if isinstance(old, nn.Module):
        a, b = old.state_dict(), new.state_dict()
        return (
            old.training == new.training
            and list(a) == list(b)
            and all(map(_same, a.values(), b.values()))
        )
    if hasattr(old, "equals"):  # a table
        return old.equals(new)
    return old == new if isinstance(old, dict) else True


def _shape(value: Tensor) -> str:
    return f"shape {tuple(value.shape)}" if value.ndim else "one number"


def _short(value) -> str:
    if isinstance(value, Tensor):
        return _short(value.tolist()) if value.numel() <= 8 else f"a tensor {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        left, right = "()" if isinstance(value, tuple) else "[]"
        return f"{left}{', '.join(map(_short, value))}{right}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_short(k)}: {_short(v)}' for k, v in value.items())}}}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return repr(value) if isinstance(value, int | str) else type(value).__name__
