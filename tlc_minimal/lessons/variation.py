"""A folder for a variation of your own: two rules, their test, a notebook that runs them.

``make variation NAME=mine`` copies the template that the tests run (``notebooks/variation``).
"""

import json
import re
import sys
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

from .. import linearize, rank

TEMPLATE = Path(__file__).parents[2] / "notebooks" / "variation"


def write(name: str, root: str | Path = "variations") -> Path:
    """Writes ``root/name/`` from the template, in which ``name`` takes the place of *mine*, and
    returns it. ValueError for a name that cannot be a rule's; FileExistsError if it is there."""
    check_name(name)
    folder = Path(root) / name
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: take another name, or move it away.")
    folder.mkdir(parents=True)
    for path in sorted(TEMPLATE.glob("*mine.*")):
        text = path.read_text(encoding="utf-8")
        text = unrun(text) if path.suffix == ".ipynb" else text
        text = re.sub(r"\bmine\b", name, text)
        (folder / path.name.replace("mine", name)).write_text(text, encoding="utf-8")
    return folder


def unrun(notebook: str) -> str:
    """A notebook's text without what its cells printed: that is of other rules."""
    content = json.loads(notebook)
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def check_name(name: str) -> None:
    """ValueError that says why ``name`` can be no file and no rule."""
    if not name.isascii() or not name.isidentifier() or iskeyword(name):
        raise ValueError(
            f"{name!r} is no name for a Python file: take letters, digits and _, as in "
            "make variation NAME=mine."
        )
    if name in RULES:
        raise ValueError(f"the library has a rule {name!r}: take a name of your own.")
    if find_spec(name):
        raise ValueError(
            f"Python has a module {name!r}, which yours would hide: take another name."
        )


RULES = {*sys.modules[rank.__module__].RULES, *sys.modules[linearize.__module__].RULES, "thrifty"}

if __name__ == "__main__":
    try:
        made = write(sys.argv[1] if len(sys.argv) > 1 else "")
    except (ValueError, FileExistsError) as error:
        sys.exit(str(error))
    print(*sorted(map(str, made.iterdir())), sep="\n")
    print(f"Try: python -m pytest {made}, then open the notebook (make lab).")
