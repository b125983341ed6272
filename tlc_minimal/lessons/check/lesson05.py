"""Checks of lesson 05: a claim, the records, a verdict. Records have a row a network."""

import pandas as pd

from .exercise import exercise

COLUMNS = ["method", "seed", "val", "test", "macs"]
RECORDS = [
    ("small", 3, 71.0, 77.0, 2.4),
    ("small", 0, 70.0, 69.0, 2.0), ("small", 1, 74.5, 71.0, 2.5), ("small", 2, 73.0, 74.0, 2.2),
    ("dense", 2, 77.0, 75.5, 9.0), ("dense", 1, 72.0, 76.0, 9.0), ("dense", 3, 78.0, 79.0, 9.0),
]  # fmt: skip


def _records():
    return pd.DataFrame(RECORDS, columns=COLUMNS)


def _few():
    return _records().iloc[1:].assign(test=lambda rows: 100 - rows["test"])


@exercise(lambda: (_records(), "small", "dense"), lambda: (_few(), "small", "dense"))
def paired_claim(records, method, control):
    """Mean test accuracy of a method above its control, over the seeds that both have, and how
    many these are."""
    return _claim(records, method, control)


def _claim(records, method, control, column="test"):
    gap = _gaps(records, method, control, column)
    return gap.mean(), len(gap)


def _gaps(records, method, control, column="test"):
    a, b = (records[records["method"] == m].set_index("seed")[column] for m in (method, control))
    return (a - b).dropna()


def _of_all_seeds(records, method, control):
    means = records.groupby("method")["test"].mean()
    return means[method] - means[control], _claim(records, method, control)[1]


def _as_they_stand(records, method, control):
    a, b = (records.loc[records["method"] == m, "test"].to_numpy() for m in (method, control))
    n = min(len(a), len(b))
    return (a[:n] - b[:n]).mean(), n


paired_claim.mistakes = {
    "the means are of different seeds": _of_all_seeds,
    "the means are of different seeds, and so is their number": lambda records, a, b: (
        _of_all_seeds(records, a, b)[0],
        int((records["method"] == a).sum()),
    ),
    "the rows were paired as they stand, and their order is not that of the seeds": _as_they_stand,
    "validation accuracies chose, so test accuracies have to judge": lambda *given: _claim(
        *given, "val"
    ),
    "the sign, for the control is subtracted": lambda records, a, b: _claim(records, b, a),
    "this is the median, not the mean": lambda *given: (_gaps(*given).median(), len(_gaps(*given))),
    "a seed that only one of them has makes no pair": lambda records, a, b: (
        _claim(records, a, b)[0],
        int((records["method"] == a).sum()),
    ),
}


@exercise(lambda: (_records(), 2.2), lambda: (_records(), 2.5), lambda: (_few(), 9.0))
def within_budget(records, budget):
    """Test accuracy of the network to choose if it may cost so many MACs."""
    return _chosen(records[records["macs"] <= budget])


def _chosen(rows, by="val", column="test"):
    return rows.loc[rows[by].idxmax(), column]


within_budget.mistakes = {
    "the test accuracies were used to choose": lambda records, budget: _chosen(
        records[records["macs"] <= budget], "test"
    ),
    "the budget was forgotten": lambda records, budget: _chosen(records),
    "one network is asked for, not a mean over seeds": lambda records, budget: _chosen(
        records[records["macs"] <= budget].groupby("method")[["val", "test"]].mean()
    ),
    "exactly as many as allowed is allowed": lambda records, budget: _chosen(
        records[records["macs"] < budget]
    ),
    "it was chosen by this accuracy, so it is no fair report": lambda records, budget: _chosen(
        records[records["macs"] <= budget], column="val"
    ),
    "the largest is not asked for, all that fit are free": lambda records, budget: records.loc[
        records.loc[records["macs"] <= budget, "macs"].idxmax(), "test"
    ],
    "the cheapest is not asked for, all that fit are free": lambda records, budget: records.loc[
        records["macs"].idxmin(), "test"
    ],
}


@exercise(
    ([9.0, 2.0, 2.0, 5.0, 4.0, 4.0], [82.0, 79.0, 77.0, 78.0, 82.0, 82.0]),
    ([1.0, 3.0, 2.0, 4.0], [60.0, 70.0, 75.0, 74.0]),
)
def undominated(macs, test):
    """For each network, whether no other one is better and costs no more, or costs less and is as
    good."""
    return ~_beaten(macs, test).any(1)


def _beaten(macs, test):
    """[i, j]: j beats i."""
    no_worse = (macs <= macs[:, None]) & (test >= test[:, None])
    return no_worse & ((macs < macs[:, None]) | (test > test[:, None]))


def _twins(macs, test):
    return (macs == macs[:, None]) & (test == test[:, None])


undominated.mistakes = {
    "each network is as good as itself, which beats nobody": lambda macs, test: (
        ~((macs <= macs[:, None]) & (test >= test[:, None])).any(1)
    ),
    "neither of two equal ones beats the other": lambda macs, test: (
        ~(_beaten(macs, test) | _twins(macs, test).tril(-1)).any(1)
    ),
    "better at equal cost counts, and cheaper at equal accuracy": lambda macs, test: (
        ~((macs < macs[:, None]) & (test > test[:, None])).any(1)
    ),
    "who is as good and cheaper beats, too": lambda m, t: (
        ~((m <= m[:, None]) & (t > t[:, None])).any(1)
    ),
    "who costs as much and is better beats, too": lambda m, t: (
        ~((m < m[:, None]) & (t >= t[:, None])).any(1)
    ),
    "these are those that somebody beats": lambda macs, test: _beaten(macs, test).any(1),
    "only the best of all, whatever it costs": lambda macs, test: test == test.max(),
    "more multiplications are worse, not better": lambda macs, test: ~_beaten(-macs, test).any(1),
}

PRICES = {(0, 1): 0.0, (1, 2): 0.0, (2, 3): 0.0, (3, 4): 0.0, (0, 2): 0.3, (1, 3): 0.1, (2, 4): 0.4}
PRICES |= {(0, 3): 0.7, (1, 4): 0.9, (0, 4): 2.0}
FEW = {(0, 1): 0.0, (1, 2): 0.0, (2, 3): 0.0, (0, 2): 0.5, (1, 3): 0.2}  # no layer for all


@exercise((PRICES, 4, 2), (PRICES, 4, 3), (PRICES, 4, 1), (PRICES, 4, 9), (FEW, 3, 1), (FEW, 3, 2))
def least_price(price, n, layers):
    """The least sum of prices on the way from place 0 to n in at most so many layers."""
    return _least(price, n, layers)


def _least(price, n, layers, exactly=False):
    if n == 0 and not (exactly and layers):
        return 0.0
    ways = [i for i, j in price if j == n] if layers else []
    return min((price[i, n] + _least(price, i, layers - 1, exactly) for i in ways), default=INF)


def _greedy(price, n, layers):
    at, paid = 0, 0.0
    for _ in range(layers):
        if at < n:
            more, at = min((p, j) for (i, j), p in price.items() if i == at)
            paid += more
    return paid if at == n else INF


INF = float("inf")
least_price.mistakes = {
    "the cheapest next step may lead to dear ones": _greedy,
    "at most so many layers, not exactly": lambda price, n, layers: _least(price, n, layers, True),
    "this is one layer more than allowed": lambda price, n, layers: _least(price, n, layers + 1),
    "this is one layer fewer than allowed": lambda price, n, layers: _least(price, n, layers - 1),
    "this is the price of one layer for all": lambda price, n, layers: price.get((0, n), INF),
    "layers were forgotten": lambda price, n, layers: _least(price, n, n),
}
