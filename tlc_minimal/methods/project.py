"""Projection: layers really go; which activations go with them, dynamic programming says.

Each stretch of activations that one layer can replace is tried alone; of all sets of stretches that
take out as many as wanted, the one whose measured losses have the least sum is found exactly. The
sum is a surrogate, as in LayerMerge (arXiv 2406.12837), which chooses what to merge by dynamic
programming, too.
"""

import warnings
from math import inf
from numbers import Integral, Real

import torch
from torch import Tensor, fx
from tqdm.auto import tqdm

from ..graph import example_of, find_shapes, trace
from ..nodes import activation_nodes
from ..project import project as project_layers
from ..refuse import check_number
from ..runs import find_runs
from ..stages import Stage, Task
from ..train import evaluate

Stretch = tuple[int, int]  # from the first activation that goes to the next one that stays


def project(
    task: Task, kernel: int = 3, images: int = 4000, ridge: float = 1e-3, trial: int = 1000
) -> list[Stage]:
    """The best layer for each run of layers, by least squares (:func:`tlc_minimal.project`), all at
    once, then one long tuning.

    A stretch costs what the validation loss rises by when it alone is projected, fitted to
    ``trial`` images; the chosen ones are fitted to ``images``, one after the other.
    ValueError if no set of stretches has ``remove`` activations: it names the numbers there are.
    """
    for name, value in (("kernel", kernel), ("images", images), ("trial", trial)):
        check_number(name, value, Integral, lambda n: n > 0, "a whole number of at least 1")
    check_number("ridge", ridge, Real, lambda r: 0 <= r < inf, "a number, 0 or above")
    if task.data is not None:  # else a finished run is read, and nothing to be refused
        there = best_sets(len(activation_nodes(task.model)), dict.fromkeys(found(task, kernel), 0))
        if task.remove not in there:
            numbers = ", ".join(map(str, sorted(there.keys() - {0}))) or "none"
            raise ValueError(
                f"single layers can take the place of so many activations of this model: {numbers};"
                f" not of {task.remove}: choose among them, or method='at_once'."
            )

    def choose(network: fx.GraphModule) -> dict[str, Tensor]:
        names, before = list(activation_nodes(network)), evaluate(network, task.data).loss
        costs = {}
        for i, j in tqdm(found(task, kernel), "stretches", disable=not task.progress, leave=False):
            tried = project_layers(network, names[i:j], task.data, kernel, trial, ridge).model
            costs[i, j] = evaluate(tried, task.data).loss - before
        _, chosen = best_sets(len(names), costs)[task.remove]
        gone = [name for i, j in chosen for name in names[i:j]]
        model, table = project_layers(network, gone, task.data, kernel, images, ridge)
        decision = {f"weights {k}": v for k, v in model.state_dict().items()}
        decision |= {"example": example_of(task.data)[:2], "error": torch.tensor(table["error"])}
        return decision | {name: torch.empty(0) for name in gone}

    def change(network: fx.GraphModule, decision: dict[str, Tensor]) -> fx.GraphModule:
        gone = [name for name in activation_nodes(network) if name in decision]
        with warnings.catch_warnings(action="ignore"):  # two images give shapes, not weights
            projected = project_layers(network, gone, decision["example"], kernel, 2, 1.0).model
        weights = {k[8:]: v for k, v in decision.items() if k.startswith("weights ")}
        projected.load_state_dict(weights)
        return projected

    return [Stage(choose, change, task.epochs / task.remove)]


def found(task: Task, kernel: int) -> list[Stretch]:
    """The stretches of a model, no longer than what is to go, that one layer can replace."""
    traced = trace(task.model, share=True).eval()
    nodes = list(activation_nodes(traced).values())
    shapes = find_shapes(traced, example_of(task.data)[:2])
    stretches = []
    for i in range(len(nodes)):
        for j in range(i + 1, min(i + task.remove, len(nodes)) + 1):
            runs, left = find_runs(traced, set(nodes[i:j]), shapes, kernel)
            if len(runs) == 1 and not left:
                stretches.append((i, j))
    return stretches


def best_sets(count: int, costs: dict[Stretch, float]) -> dict[int, tuple[float, list[Stretch]]]:
    """{activations that go: (the least sum of costs, its stretches)}, of ``count`` activations in a
    row; between two stretches one stays. Exact: the best of the first k needs nothing else."""
    best = [{} for _ in range(count + 2)]  # of the first k activations, the last of which stays
    best[0][0] = (0.0, [])
    for k in range(count + 1):
        for gone, (cost, chosen) in best[k].items():
            steps = [(k, k)] + [stretch for stretch in costs if stretch[0] == k]
            for i, j in steps:
                after, n = best[j + 1], gone + j - i
                new = cost + costs.get((i, j), 0.0), chosen + [(i, j)] * (j > i)
                if n not in after or new[0] < after[n][0]:
                    after[n] = new
    return best[count + 1]
