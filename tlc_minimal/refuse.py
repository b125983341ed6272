"""What is refused before anything is done: in one sentence, with the way out."""

from .reading.refuse import quoted


def check_number(name: str, value, kind, allowed, words: str) -> None:
    """TypeError if a number (or folder) is not of this kind, ValueError if not ``allowed``."""
    wrong = isinstance(value, bool) or not isinstance(value, kind)
    if wrong or not allowed(value):
        raise (TypeError if wrong else ValueError)(f"{name} is {words}, not {quoted(value)}.")


def check_known(kind: str, name, known) -> None:
    """ValueError that names what there is, if ``name`` is nothing known."""
    if name not in [*known]:
        raise ValueError(f"there is no {kind} {quoted(name)}; there are: {', '.join(known)}.")
