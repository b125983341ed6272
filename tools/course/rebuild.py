"""A submission, reduced to its answers and put back into the released notebook.

So it does not matter what was deleted, doubled, moved or added around them; and an answer that
reaches for the course's own answers is refused."""

import ast
from pathlib import Path

import nbformat
from nbgrader.preprocessors import NbGraderPreprocessor

FORBIDDEN = {"check", "tlc_minimal", "right", "mistakes", "inspect", "importlib", "sys", "gc"}
FORBIDDEN |= {"open", "exec", "eval", "compile", "globals", "vars", "getattr", "In", "get_ipython"}
FORBIDDEN |= {"os", "pathlib", "Path", "subprocess", "builtins", "pkgutil", "runpy", "io", "tlc"}
ALLOWED = {"tlc.count", "tlc.find_layers", "tlc.linearize", "tlc.evaluate", "tlc.Gaussian"}


class Rebuild(NbGraderPreprocessor):
    """First step of autograde: what was submitted becomes the release with the answers in it."""

    def preprocess(self, notebook, resources):
        names = resources["nbgrader"]
        folder = Path(__file__).parent / "release" / names["assignment"]
        release = folder / f"{names['notebook']}.ipynb"
        return rebuilt(nbformat.read(release, 4), notebook), resources


def rebuilt(release, submission):
    """The released notebook with the submission's answers; a missing answer stays the stub."""
    answers = {}
    for cell in submission.cells:
        if cell.cell_type == "code" and marks(cell).get("solution"):
            answers[marks(cell)["grade_id"]] = cell.source
    for cell in release.cells:
        if marks(cell).get("solution") and (given := answers.get(marks(cell)["grade_id"])):
            cell.source = refusal(given) or given
    return release


def marks(cell) -> dict:
    """nbgrader's entry in a cell's metadata, {} if it has none."""
    return cell.metadata.get("nbgrader", {})


def refusal(answer: str) -> str:
    """A cell that says why this answer is not run; "" if it may be."""
    try:
        tree = ast.parse(answer)
    except SyntaxError:
        return ""  # running it says so, and better
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ALLOWED:
            node.value.id = "_"
    for node in ast.walk(tree):
        words = []
        if isinstance(node, ast.Name):
            words = [node.id]
        elif isinstance(node, ast.Attribute):
            words = [node.attr]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            words = [part for alias in node.names for part in alias.name.split(".")]
            words += (getattr(node, "module", None) or "").split(".")
        bad = [w for w in words if w in FORBIDDEN or w.startswith("__")]
        if bad:
            said = f"this answer uses {bad[0]!r}, which an answer may not: write it in torch alone"
            return f"raise PermissionError({said!r})"
    return ""
