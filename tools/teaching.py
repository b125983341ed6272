"""The parts of the teacher's page that are measured or come from the checks."""

import re
from datetime import datetime
from pathlib import Path

from .notebooks import lessons, read, tags, text

PAGE = Path("docs/teaching.md")


def filled() -> str:
    """The page with the table of minutes and the list of mistakes in it."""
    page = PAGE.read_text(encoding="utf-8")
    return page.replace("<!-- minutes -->", minutes()).replace("<!-- mistakes -->", mistakes())


def minutes() -> str:
    """A table: for each lesson minutes of reading, of exercises, and of computing."""
    lines = ["| lesson | reading | exercises | computing |", "|---|---|---|---|"]
    for path in lessons():
        cells = read(path)["cells"]
        prose = " ".join(text(c) for c in cells if c["cell_type"] == "markdown")
        cards = sum(int(n) for n in re.findall(r"(?:Easy|Medium|Hard\w*)[ ,·]+(\d+) min", prose))
        computing = f"{seconds(cells) / 60:.1f}" if seconds(cells) else "not kept"
        row = (f"{len(prose.split()) / 130:.0f}", cards, computing)
        lines.append(f"| {path.stem} | {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def seconds(cells: list[dict]) -> float:
    """What the committed run took, by the times in its cells; 0 if Jupyter left none."""
    total = 0.0
    for cell in cells:
        times = cell["metadata"].get("execution", {})
        ends = [times.get("iopub.execute_input"), times.get("shell.execute_reply")]
        if all(ends):
            start, end = (datetime.fromisoformat(t.replace("Z", "+00:00")) for t in ends)
            total += (end - start).total_seconds()
    return total


def mistakes() -> str:
    """For each exercise the messages that its check gives for the usual mistakes."""
    from tlc_minimal.lessons import check  # torch is slow to load: only where it is needed

    parts = []
    for path in lessons():
        parts.append(f"### Lesson {path.stem[:2]}\n")
        exercises = [text(c) for c in read(path)["cells"] if "exercise" in tags(c)]
        for source in exercises:
            for name, answer in re.findall(r"check\.(\w+)\((\w+)\)", source):
                parts.append(f"**`check.{name}`**\n")
                parts += [f"- {said}" for said in messages(getattr(check, name), answer)]
                parts.append("")
    return "\n".join(parts)


def messages(exercise, answer: str) -> list[str]:
    """What a learner sees whose function ``answer`` makes each known mistake."""
    said = []
    for mistake in exercise.mistakes.values():

        def given(*arguments, mistake=mistake):
            return mistake(*arguments)

        given.__name__ = answer
        try:
            exercise(given)
        except AssertionError as error:
            said.append(f"`{str(error).replace('`', '')}`")
    return said
