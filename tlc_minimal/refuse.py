"""What is refused before anything is done: in one sentence, with the way out."""

import os


def check_alone() -> None:
    """RuntimeError under several processes (torchrun, accelerate launch): the batch norms of each
    would see its own part of a batch only, and all would write to one folder."""
    if (processes := int(os.environ.get("WORLD_SIZE") or 1)) > 1:
        raise RuntimeError(
            f"this is one of {processes} processes, and a collapse runs in one: start it without "
            "torchrun or accelerate launch; several collapses may run side by side, each with its "
            "own folder."
        )


def check_number(name: str, value, kind: type, allowed, words: str) -> None:
    """TypeError if ``value`` is no number of this kind, ValueError if it is not ``allowed``."""
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} is {words}, not {value!r}.")
    if not allowed(value):
        raise ValueError(f"{name} is {words}, not {value!r}.")
