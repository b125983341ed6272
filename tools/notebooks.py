"""Notebooks as plain JSON: read, written back byte for byte, and asked for their cells."""

import ast
import json
from pathlib import Path

FOLDER = Path("notebooks")


def lessons(folder: Path = FOLDER) -> list[Path]:
    """The notebooks of the course in order; FileNotFoundError if there are none."""
    if found := sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        return found
    raise FileNotFoundError(f"{folder} holds no lesson (NN_name.ipynb): run this in the repository")


def read(path: Path) -> dict:
    """A notebook; ValueError, naming the file, for what is none."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"][0]["source"]
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, IndexError):
        raise ValueError(f"{path} is no notebook: expected the JSON that Jupyter saves") from None
    return notebook


def write(path: Path, notebook: dict) -> None:
    """As Jupyter writes it: one space of indent, no escapes, a newline at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def text(cell: dict) -> str:
    return "".join(cell["source"])


def functions(source: str) -> str:
    """The functions that a cell defines, without what it does with them."""
    defined = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    return "\n\n\n".join(map(ast.unparse, defined))
