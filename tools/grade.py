"""An nbgrader course from the lessons: `python -m tools.grade` writes build/course and releases it.

One assignment a lesson: its imports, each exercise's card, the stub, and the lesson's own check as
the graded cell. No solution is in it."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .need import package, run
from .notebooks import lessons, read, tags, text, write

COURSE = Path("build/course")
POINTS = {"easy": 1, "medium": 2, "hard": 3}  # "Harder" begins with "hard"


def assignment(name: str, notebook: dict) -> dict:
    """The source notebook of one lesson; ValueError if no cell is tagged `exercise`."""
    cells = [markdown(f"# {name}\n\n{HOW}"), code(preamble(notebook), name, "imports", locked=True)]
    card, number = "", 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            card = text(cell)
        elif "exercise" in tags(cell):
            number += 1
            here = card_of(card)
            stub, checks = parted(text(cell))
            answer = f"exercise-{number}"
            cells += [markdown(here), code(stub, name, answer, solution=True)]
            for i, check in enumerate(checks, 1):
                cells.append(code(check, name, f"{answer}-{i}", locked=True, points=points(here)))
    if not number:
        raise ValueError(f"{name} has no cell tagged 'exercise': nothing can be graded")
    return {"cells": cells, "metadata": notebook["metadata"], "nbformat": 4, "nbformat_minor": 5}


HOW = (
    "Put each answer into the cell below its card, helpers included: only these cells are graded. "
    "The cell after it is the check; run it, and it says what is wrong."
)


def preamble(notebook: dict) -> str:
    """The lesson's imports, and what else its own solutions read, without what computes."""
    imports, defined, wanted = [], {}, set()
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code" or "exercise" in tags(cell):
            continue
        tree = ast.parse(text(cell))
        if "solution" in tags(cell):
            functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
            wanted |= set().union(*map(reads, functions))
            continue
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.append(ast.unparse(node))
            elif isinstance(node, ast.FunctionDef):
                defined.setdefault(node.name, node)
            elif isinstance(node, ast.Assign):
                for name in (n for n in ast.walk(node) if isinstance(n, ast.Name)):
                    if isinstance(name.ctx, ast.Store):
                        defined.setdefault(name.id, node)
    kept: dict[str, None] = {}

    def keep(name: str) -> None:
        node = defined.pop(name, None)
        if node is not None:
            for needed in sorted(reads(node)):
                keep(needed)
            kept[ast.unparse(node)] = None

    for name in sorted(wanted):
        keep(name)
    return "\n".join([*dict.fromkeys(imports), *kept])


def reads(part: ast.AST) -> set[str]:
    """The names that a function or an assignment reads, its arguments and its own names aside."""
    names = [n for n in ast.walk(part) if isinstance(n, ast.Name)]
    own = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    own |= {n.arg for n in ast.walk(part) if isinstance(n, ast.arg)}
    return {n.id for n in names} - own


def card_of(prose: str) -> str:
    """The prose from its last line that begins an exercise."""
    starts = [m.start() for m in re.finditer(r"^(?:#+ |\*\*)Exercise \d", prose, re.MULTILINE)]
    return prose[starts[-1] :] if starts else prose


def points(card: str) -> int:
    """1 for an easy exercise, 2 for a medium one, 3 for a hard one; for each of its checks."""
    found = re.search("|".join(POINTS), card.lower())
    if not found:
        raise ValueError(f"this card says neither easy, medium nor hard: {card[:80]!r}")
    return POINTS[found[0]]


def parted(source: str) -> tuple[str, list[str]]:
    """The stub, and the calls of its checks that stand behind a #; an exercise without any gives no
    points."""
    return without_checks(source), re.findall(r"(?:check|conformance)\.\w+\(\w+\)", source)


def without_checks(source: str) -> str:
    lines = source.splitlines()
    return "\n".join(
        line for line in lines if not re.match(r"(# *)?(check|conformance)\.", line)
    ).strip()


def markdown(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source, "id": fresh(source)}


def code(
    source: str, lesson: str, grade_id: str, solution=False, locked=False, points: int | None = None
) -> dict:
    """A code cell with nbgrader's marks (schema 3)."""
    marks = {"schema_version": 3, "grade_id": grade_id, "solution": solution, "locked": locked}
    marks |= {"grade": points is not None, "task": False}
    if points is not None:
        marks["points"] = points
    return {
        "cell_type": "code", "metadata": {"nbgrader": marks}, "source": source, "outputs": [],
        "execution_count": None, "id": grade_id,
    }  # fmt: skip


def fresh(source: str) -> str:
    """An id from the words of a heading, the same in every build."""
    return re.sub(r"\W+", "-", source[:40]).strip("-").lower() or "text"


def nbgrader(*arguments: str, **options) -> subprocess.CompletedProcess:
    """Run nbgrader in the course; it looks for alembic, which stands beside this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "nbgrader", *arguments]
    return subprocess.run(command, cwd=COURSE, env=os.environ | {"PATH": path}, **options)


def main() -> None:
    package("nbgrader", "grade")
    COURSE.mkdir(parents=True, exist_ok=True)
    for path in Path("tools/course").glob("*.py"):
        shutil.copy(path, COURSE)
    for path in lessons():
        source = COURSE / "source" / path.stem / path.name
        write(source, assignment(path.stem, read(path)))
        done = nbgrader("generate_assignment", path.stem, "--force", "--log-level=WARN")
        if done.returncode:
            raise SystemExit(f"grade: nbgrader did not release {path.stem}: it says why above")
    print(f"{COURSE}/release holds the assignments. What comes back goes into {COURSE}/submitted/")
    print("<student>/<lesson>/. Then, in that folder and with .venv activated:")
    print("nbgrader autograde <lesson>; nbgrader export")


if __name__ == "__main__":
    run("grade", main)
