"""A submission, reduced to its answers and put back into the released notebook.

So it does not matter what was deleted, doubled, moved or added around them; and an answer that
reaches for the course's own answers is refused."""

from pathlib import Path

import nbformat
from answers import refusal
from nbgrader.preprocessors import NbGraderPreprocessor


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
