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
    raise AssertionError(f"expected {short(want)}, got {short(got)}.{''.join(causes[:1])}")


def short(value: Tensor) -> str:
    flat = value.flatten()
    shown = ", ".join(f"{v:.5g}" for v in flat[:4].tolist())
    return shown if flat.numel() == 1 else f"[{shown}{', …' if flat.numel() > 4 else ''}]"
