"""mine: a variation of your own. Change the two functions; keep their names and arguments."""

from tlc_minimal import statistics
from tlc_minimal.gaussian import best_affine, cost_affine
from tlc_minimal.linearize import RULES as LINES
from tlc_minimal.rank import RULES as RANKINGS


def rank(model, data, names, replacement, seed):
    """{name: score}; the activation with the lowest score goes first. Here: by the price of its
    best lines, from the statistics alone."""
    gaussians = statistics(model, data)
    return {n: float(cost_affine(gaussians[n].mean, gaussians[n].std).mean()) for n in names}


def line(g, f):
    """Slope and shift, one of each a channel: slope * z + shift takes the place of f(z), where z
    has the mean g.mean and the standard deviation g.std. Here: the best line."""
    return best_affine(g.mean, g.std, f)


RANKINGS["mine"], LINES["mine"] = rank, line
