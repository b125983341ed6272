"""Checks of lesson 08, robust and deployed."""

import torch

from .compare import compare


def calibration_error(my_error) -> None:
    """my_error(confidence, correct): expected calibration error, 15 bins, 0 to 1."""
    from ..lessons.robust import calibration_error, reliability

    g = torch.Generator().manual_seed(8)
    confidence = torch.rand(400, generator=g) ** 0.4
    correct = torch.rand(400, generator=g) < confidence**2 * 0.6 + 0.3
    points = reliability(confidence, correct)
    gap = points["accuracy"] - points["confidence"]
    share = points["share"]
    wrong = {
        "every bin counts the same; weigh it by its share of the predictions.": gap.abs().mean(),
        "without absolute values the gaps cancel.": (share * gap).sum(),
        "no bins: that is |mean accuracy - mean confidence|.": abs((share * gap).sum()),
        "that is the largest gap (the maximum calibration error).": gap.abs().max(),
        "ten bins, not 15.": calibration_error(confidence, correct, 10),
    }
    want = calibration_error(confidence, correct)
    compare(my_error(confidence, correct), torch.tensor(want), wrong, tolerance=1e-4)


def auroc(my_auroc) -> None:
    """my_auroc(known, unknown): P(known scores higher), a tie counting one half."""
    g = torch.Generator().manual_seed(8)
    known, unknown = (
        torch.randint(low, 10, (n,), generator=g) / 10 for low, n in ((3, 60), (0, 40))
    )
    above = (known[:, None] > unknown).double().mean()
    ties = (known[:, None] == unknown).double().mean()
    wrong = {
        "ties count nothing here; each counts one half.": above,
        "ties count fully here; each counts one half.": above + ties,
        "that is P(unknown scores higher): the wrong way round.": 1 - above - ties / 2,
        "compared in pairs by position; every known one meets every unknown one.": (
            (known[:40] > unknown).double().mean() + (known[:40] == unknown).double().mean() / 2
        ),
    }
    compare(my_auroc(known, unknown), above + ties / 2, wrong)


def beyond_chance(my_kappa) -> None:
    """my_kappa(on, other): Cohen's kappa of two boolean states, (same - chance) / (1 - chance)."""
    g = torch.Generator().manual_seed(8)
    on = torch.rand(200, generator=g) < 0.2
    other = torch.where(torch.rand(200, generator=g) < 0.6, on, torch.rand(200, generator=g) < 0.3)
    p, q = on.double().mean(), other.double().mean()
    same, chance = (on == other).double().mean(), p * q + (1 - p) * (1 - q)
    wrong = {
        "that is the share that agrees; chance is not taken off.": same,
        "chance is taken off, but 1 - chance is not divided by.": same - chance,
        "chance is not one half: most channels are OFF in both.": (same - 0.5) / 0.5,
        "chance is both ON *or* both OFF: p q + (1 - p)(1 - q).": (same - p * q) / (1 - p * q),
    }
    compare(my_kappa(on, other), (same - chance) / (1 - chance), wrong)


def paired_speedup(my_speedup) -> None:
    """my_speedup(dense, small): median over the rounds of dense / small milliseconds."""
    dense = torch.tensor([10.0, 11.0, 30.0, 10.5, 12.0, 28.0, 10.2])
    small = torch.tensor([5.1, 5.2, 16.5, 5.0, 9.0, 11.0, 5.4])
    wrong = {
        "medians first: a busy machine slows down rounds; divide within each.": (
            dense.median() / small.median()
        ),
        "means first: a busy machine slows down rounds; divide within each.": (
            dense.mean() / small.mean()
        ),
        "that is the mean of the ratios; one odd round moves it.": (dense / small).mean(),
        "upside down: how many times faster is dense over small.": (small / dense).median(),
        "fastest against fastest: two different rounds, and luck.": dense.min() / small.min(),
    }
    compare(my_speedup(dense, small), (dense / small).median(), wrong)
