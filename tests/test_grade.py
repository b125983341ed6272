"""Made of the lessons: the graded course, of exercises and checks alone; copies for a fork."""

import ast
import json

import pytest

from tools.course.answers import refusal
from tools.grade import assignment, parted
from tools.launch import checked, main
from tools.notebooks import FOLDER, functions, lessons, read, tags, text

LESSONS = lessons()
mark = lambda cell: cell["metadata"]["nbgrader"]
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def answers(path) -> list[str]:
    """The lesson's own solutions, called as the stubs are."""
    cells = [text(c) for c in read(path)["cells"] if "solution" in tags(c)]
    return [functions(cell.replace("solution_", "my_")) for cell in cells]


def solved(path) -> list[str]:
    """The code of an assignment in which the lesson's own solutions stand for the stubs."""
    made = assignment(path.stem, read(path))["cells"]
    code = [cell for cell in made if cell["cell_type"] == "code"]
    todo = iter(answers(path))
    return [next(todo) if mark(c)["solution"] else c["source"] for c in code]


@each_lesson
def test_assignment_holds_every_check_and_no_solution(path):
    cells = assignment(path.stem, read(path))["cells"]
    graded = [c["source"] for c in cells if c["cell_type"] == "code" and mark(c)["grade"]]
    exercises = [text(c) for c in read(path)["cells"] if "exercise" in tags(c)]
    assert graded == [check for source in exercises for check in parted(source)[1]]
    assert all(mark(c)["points"] in (1, 2, 3) for c in cells if c["source"] in graded)
    ids = [c["id"] for c in cells]
    assert len(ids) == len(set(ids))
    whole = "\n".join(c["source"] for c in cells)
    for cell in (c for c in read(path)["cells"] if "solution" in tags(c)):
        assert text(cell) not in whole


@each_lesson
def test_the_lessons_own_solutions_pass_in_the_assignment_and_are_not_refused(path):
    assert answers(path) and not any(map(refusal, answers(path)))
    space = {}
    for source in solved(path):
        exec(source, space)


def test_a_lesson_without_tags_is_named():
    notebook = read(FOLDER / "00_tour.ipynb")
    for cell in notebook["cells"]:
        cell["metadata"].pop("tags", None)
    with pytest.raises(ValueError, match="00_tour has no cell tagged 'exercise'"):
        assignment("00_tour", notebook)


@pytest.mark.parametrize("answer", [
    "my_macs = check.macs.right", "from tlc_minimal.lessons import check as c", "import sys",
    "def my_macs(*sizes):\n    return open('lesson00.py').read()", "my_macs = getattr(torch, 'x')",
    "def my_macs(*sizes):\n    return ().__class__.__bases__",
])  # fmt: skip
def test_an_answer_may_not_look_up_the_answers(answer):
    assert refusal(answer).startswith("raise PermissionError(")


# ---- copies for a fork: buttons, one set-up cell, nothing else changed ----


@pytest.mark.parametrize("repo, branch", [
    *[(repo, "main") for repo in ("", "name", "https://github.com/me/name", "me/name/more",
                                  "-me/name", "me/na me")],
    *[("me/name", branch) for branch in ("a b", "x..y", "-x", 'x"; import os')],
])  # fmt: skip
def test_a_wrong_fork_is_one_sentence(repo, branch):
    with pytest.raises(ValueError, match="is owner/name|is the name of a git branch"):
        checked(repo, branch)


def test_copies_are_the_lessons_and_two_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.launch.FOLDER", tmp_path)
    main("me/tlc", "dev")
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    main("me/tlc", "dev")
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(first) == len(lessons())
    for path in lessons():
        copy = json.loads(first[path.name])
        assert copy["cells"][2:] == read(path)["cells"]
        assert copy["cells"][0]["source"][0].count(f"me/tlc/blob/dev/launch/{path.name}") == 2
        ast.parse(set_up := "".join(copy["cells"][1]["source"]))
        assert '"--branch=dev"' in set_up and '"https://github.com/me/tlc"' in set_up
