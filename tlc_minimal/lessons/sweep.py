"""Many trials that do not depend on each other: on this machine's cores, or on a cluster."""

import sys
from collections.abc import Callable, Iterable

from joblib import Parallel, delayed


def sweep(trial: Callable, jobs: Iterable[tuple], processes: int = 2) -> list:
    """[trial(*job) for job in jobs], in this order and each with the same result, by so many
    processes here; or as Ray tasks, if this process is connected to a cluster (``ray.init()``).

    ``trial`` travels with everything that it mentions, so that it may be defined in a notebook. The
    other end knows nothing of this process: rules are registered inside of it.
    """
    ray = sys.modules.get("ray")
    if ray and ray.is_initialized():
        task = ray.remote(trial)
        return ray.get([task.remote(*job) for job in jobs])
    return Parallel(n_jobs=processes)(delayed(trial)(*job) for job in jobs)
