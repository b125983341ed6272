"""One sentence for what a target needs and this machine has not."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec


class Missing(RuntimeError):
    """A tool is not installed; the message says which and how to get it."""


def package(module: str, extra: str) -> None:
    """Missing if a Python package is; ``extra`` of pyproject.toml brings it."""
    if find_spec(module) is None:
        raise Missing(f'{module} is missing: pip install -c constraints.txt -e ".[{extra}]"')


def program(*names: str, install: str) -> str:
    """The path of the first of these programs that is there; Missing if none is."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise Missing(f"{names[0]} is missing: {install}")


def run(name: str, main: Callable[[], None]) -> None:
    """Call ``main``; what a person can mend ends it with one sentence."""
    try:
        main()
    except (Missing, OSError, ValueError) as error:
        raise SystemExit(f"{name}: {error}") from None
