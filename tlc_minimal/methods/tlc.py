"""TLC, and chance beside it: rank, make linear, tune — all at once, or one after the other."""

from torch import Tensor, fx

from ..linearize import check_rule, linearize
from ..nodes import activation_nodes
from ..rank import RULES
from ..rank import rank as rank_layers
from ..refuse import check_known
from ..stages import Stage, Task, as_gaussians, as_tensors
from ..statistics import statistics
from .published import pairs
from .rankings import last_norm

NEEDS = {  # rankings that read batch norms: ValueError where one is missing
    "magnitude": lambda traced: [last_norm(traced, n) for n in activation_nodes(traced).values()],
    "reference": pairs,
}


def spare(model, data, names, replacement, seed) -> dict[str, float]:
    """A rule for :func:`tlc_minimal.rank`: as ``tlc``, but a layer of which 80 % or more is OFF
    goes last. Without a shortcut hardly anything gets through what a cut leaves of it, and no
    tuning widens that (lesson 04; records mnist_*). With shortcuts the rule thrifty does better."""
    scores, known = RULES["tlc"](model, data, names, replacement, seed), statistics(model, data)
    last = {n: float((~known[n].on).float().mean()) >= 0.8 for n in scores}
    far = max(scores.values()) - min(scores.values()) + 1
    return {n: score + far * last[n] for n, score in scores.items()}


def at_once(
    task: Task, rank: str = "tlc", rule: str = "on_off_affine", padding: str = "as_trained",
    again: bool = False,
) -> list[Stage]:  # fmt: skip
    """The least harmful activations of the dense network, scored one at a time as in TLC (arXiv
    2412.15077, algorithm 1), go together; one long tuning follows.

    It does not see that two harmless removals may harm together: ``again`` ranks again after each
    of them, still without tuning in between.
    """
    seeds = [task.seed] * (task.remove if again else 1)
    return [removal(task, seeds, task.remove // len(seeds), rank, rule, padding)]


def one_by_one(
    task: Task, rank: str = "tlc", rule: str = "on_off_affine", padding: str = "as_trained"
) -> list[Stage]:
    """The least harmful activation goes, the network is tuned, and again (TLC, arXiv 2412.15077,
    algorithm 1: argmin over l of L(without l) - L, L the validation loss)."""
    seeds = range(1000 * task.seed + 1, 1000 * task.seed + 1 + task.remove)
    return [removal(task, [seed], 1, rank, rule, padding) for seed in seeds]


def random(task: Task, rule: str = "on_off_affine") -> list[Stage]:
    """Chance, the opponent that every ranking has to beat: as :func:`one_by_one`, in an order that
    the seed draws."""
    return one_by_one(task, "random", rule)


def removal(
    task: Task, seeds: list[int], together: int, rank: str, rule: str, padding: str = "as_trained"
) -> Stage:
    """A stage that ranks once for each of ``seeds`` and takes out the first ``together`` each time,
    by ``rule`` and ``padding`` as in :func:`linearize`. ValueError for an unknown rank or rule, or
    a rank that reads batch norms that are not there."""
    check_known("ranking rule", rank, RULES)
    if rank in NEEDS:
        NEEDS[rank](task.model)
    check_rule(rule, padding)

    def choose(network: fx.GraphModule) -> dict[str, Tensor]:
        chosen = []
        for seed in seeds:
            scores = rank_layers(network, task.data, rank, rule, seed, task.progress)
            gaussians = statistics(network, task.data)
            chosen.append({name: gaussians[name] for name in list(scores)[:together]})
            if len(seeds) > 1:
                network = linearize(network, list(chosen[-1]), chosen[-1], rule, padding)
        return as_tensors(chosen)

    def change(network: fx.GraphModule, decision: dict[str, Tensor]) -> fx.GraphModule:
        for gaussians in as_gaussians(decision):
            network = linearize(network, list(gaussians), gaussians, rule, padding)
        return network

    return Stage(choose, change, task.epochs / task.remove)
