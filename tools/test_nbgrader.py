"""nbgrader itself, over submissions as they come. `make test-nbgrader` runs this."""

import csv
import functools
import json
import shutil

import pytest

from tools import grade
from tools.notebooks import functions, lessons, read, tags, text, write

pytest.importorskip("nbgrader")
LESSON = lessons()[0]
ENDLESS = "def my_macs(*sizes):\n    while True:\n        pass\n"
PEEK = "my_share_off = check.share_off.right"


nbgrader = functools.partial(grade.nbgrader, capture_output=True, text=True)


def mark(cell, name):
    return cell["metadata"].get("nbgrader", {}).get(name)


def solutions() -> list[str]:
    """The lesson's own, called as the stubs are, without what it does with them."""
    cells = [text(c) for c in read(LESSON)["cells"] if "solution" in tags(c)]
    return [functions(cell.replace("solution_", "my_")) for cell in cells]


@pytest.fixture(scope="module")
def marks(tmp_path_factory):
    """{student: score} as nbgrader exports it, and the whole sum."""
    course = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "COURSE", course)
        patch.setattr(grade, "lessons", lambda: [LESSON])
        grade.main()
        release = read(course / "release" / LESSON.stem / LESSON.name)
        assert not [s for s in solutions() if s in json.dumps(release)]

        def answered(*answers):
            notebook = json.loads(json.dumps(release))
            stubs = (c for c in notebook["cells"] if mark(c, "solution"))
            for cell, answer in zip(stubs, answers):
                cell["source"] = answer or cell["source"]
            return notebook

        first, second, third = solutions()
        spoilt = answered(first, second, third)
        spoilt["cells"] = [
            c for c in spoilt["cells"][::-1] if mark(c, "grade_id") != "exercise-2-1"
        ]
        submissions = {
            "right": answered(first, second, third),
            "half": answered(first, None, None),
            "spoilt": spoilt,
            "rogue": answered(ENDLESS, PEEK, third),
        }
        for student, notebook in submissions.items():
            write(course / "submitted" / student / LESSON.stem / LESSON.name, notebook)
        no_notebook = course / "submitted/other" / LESSON.stem / LESSON.name
        no_notebook.parent.mkdir(parents=True)
        no_notebook.write_text("my homework")
        said = nbgrader("autograde", LESSON.stem).stderr
        exported = nbgrader("export")
        assert exported.returncode == 0, exported.stderr
        with open(course / "grades.csv") as file:
            rows = {row["student_id"]: row for row in csv.DictReader(file)}
        yield rows, said
        shutil.rmtree(course, ignore_errors=True)


def score(marks, student):
    row = marks[0][student]
    return float(row["score"] or 0), float(row["max_score"])


def test_right_answers_get_all_points(marks):
    assert score(marks, "right") == (4, 4)


def test_half_right_answers_get_their_part(marks):
    assert score(marks, "half") == (1, 4)


def test_deleted_and_reordered_cells_cost_nothing(marks):
    assert score(marks, "spoilt") == (4, 4)


def test_a_loop_and_a_look_at_the_answers_cost_their_own_points(marks):
    assert score(marks, "rogue") == (2, 4)


def test_what_is_no_notebook_is_named(marks):
    assert score(marks, "other")[0] == 0
    assert "other" in marks[1]
