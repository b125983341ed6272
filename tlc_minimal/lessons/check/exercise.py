"""An exercise: its right answer, the cases it is tried on, and the usual mistakes beside it."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor


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
        """The arguments of each call, made anew: an answer may change them in place."""
        made = [case() if callable(case) else deepcopy(case) for case in self._cases]
        return [tuple(torch.tensor(v) if isinstance(v, list) else v for v in case) for case in made]

    def __call__(self, answer: Callable) -> None:
        """AssertionError for a wrong answer or none; TypeError for what is no function."""
        if not callable(answer):
            raise TypeError(f"give the check your function itself, not {_short(answer)}.")
        want = self._run(self.right)
        got = self._run(answer, want)
        wrong = [_difference(g, w) for g, w in zip(got, want)]
        first = next((i for i, sentence in enumerate(wrong) if sentence), None)
        if first is None:
            print("correct")
            return
        name = getattr(answer, "__name__", "your answer")  # a partial function has none
        call = f"{name}({', '.join(map(_short, self.cases()[first]))})"
        raise AssertionError(f"{call} {wrong[first]}{self._cause(got, want, first)}.")

    def _run(self, f: Callable, want=None) -> list[list[Tensor]]:
        cases = self.cases()
        return [_values(f, case, w) for case, w in zip(cases, want or [None] * len(cases))]

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


def _values(f: Callable, case: tuple, want: list[Tensor] | None = None) -> list[Tensor]:
    """What ``f`` returns, one tensor a value, as many as in ``want``; [] if it rightly refuses."""
    try:
        returned = f(*case)
    except ValueError:
        if want:
            raise
        return []
    if isinstance(returned, tuple) if want is None else len(want) != 1:
        try:
            return [_tensor(value) for value in returned]
        except TypeError:  # one number or none at all, which cannot be iterated
            pass
    return [_tensor(returned)]


def _tensor(value) -> Tensor:
    if value is None or value is ...:
        raise AssertionError("there is no answer yet: replace the dots by your own code.")
    try:
        if isinstance(value, list | tuple):
            return torch.stack([_tensor(v) for v in value])
        return torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"a tensor or a number is expected, not {_short(value)}.") from None


def _difference(got: list[Tensor], want: list[Tensor]) -> str:
    """The first place in which the values differ, in words; "" if there is none."""
    if not want:
        return "returned a value, expected a ValueError" if got else ""
    if len(got) != len(want):
        return f"gave {len(got)} values, expected {len(want)}"
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


def _shape(value: Tensor) -> str:
    return f"shape {tuple(value.shape)}" if value.ndim else "one number"


def _short(value) -> str:
    if isinstance(value, Tensor):
        return _short(value.tolist()) if value.numel() <= 8 else f"a tensor {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return repr(value) if isinstance(value, int | str | dict) else type(value).__name__
