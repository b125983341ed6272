"""Copies of the lessons for a fork: buttons, one set-up cell, nothing else changed."""

import ast
import json

import pytest

from tools.launch import checked, launched, main, setup_cell
from tools.notebooks import lessons, read


@pytest.mark.parametrize(
    ("repo", "branch"),
    [
        *[(repo, "main") for repo in ("", "name", "https://github.com/me/name", "me/name/more",
                                      "-me/name", "me/na me")],
        *[("me/name", branch) for branch in ("a b", "x..y", "-x", 'x"; import os')],
    ],
)  # fmt: skip
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
        ast.parse("".join(copy["cells"][1]["source"]))


def test_the_set_up_names_url_and_branch_and_the_copy_does_not_change_the_lesson():
    notebook = read(lessons()[0])
    before = json.dumps(notebook)
    launched(notebook, "00_tour.ipynb", "me/tlc", "main")
    assert json.dumps(notebook) == before
    cell = setup_cell("file:///somewhere/tlc", "dev")
    assert '"--branch=dev"' in cell and '"file:///somewhere/tlc"' in cell
