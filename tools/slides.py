"""Slides: `python -m tools.slides` writes one reveal.js deck a lesson into build/slides.

What stands on them follows from a rule, so that no lesson has to be marked: of every section its
heading with the first paragraph, its first cell where that is short (what it prints appears a key
later), and each of its pictures; exercises and solutions are left out."""

import re
import shutil
from html import escape
from pathlib import Path

from .need import Missing, package, run
from .notebooks import lessons, read, tags, text

NPM, DECKS = Path("build/npm/node_modules"), Path("build/slides")
WORDS = 75  # of prose that a slide bears at 1280x720
ROOM = 18  # lines of code that fit below a heading; 40 letters of prose are as high as one
WIDTH = 100  # letters in a line of code
LISTS = ("what you will be able to do", "what to take along", "where it breaks")
LEFT_OUT = (
    "exercise",
    "three questions",
    "further reading",
    "how to use",
    "what you need first",
    "where to go",
)
BLOCK = r"```|\||- |\d+\. "  # how a box, a table or a list begins


def slides(notebook: dict) -> list[dict]:
    """The cells of the deck, each one slide; ValueError if the lesson has no heading."""
    deck, heading, above, first = [], None, "", False
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for title, body in sections(text(cell)):
                heading = None if title.lower().startswith(LEFT_OUT) else above + title
                above = "" if body.strip() else f"{title} · "  # for the section right below it
                if heading is not None and body.strip():
                    body = points(body) if title.lower() in LISTS else lead(body)
                    deck.append(markdown(f"## {heading}\n\n{body}"))
                    first = True
        elif heading is not None and not {"exercise", "solution"} & set(tags(cell)):
            if first:
                deck[-1]["source"] += code(cell, ROOM - height(deck[-1]["source"]))
            first = False
            for output in cell["outputs"]:
                if "image/png" in output.get("data", {}):
                    deck.append(picture(heading, output))
    if not deck:
        raise ValueError("this lesson has no heading: a deck is made of sections")
    return deck


def sections(prose: str) -> list[tuple[str, str]]:
    """(heading, text below it) of a cell, in order; text above the first heading is not shown."""
    parts = re.split(r"^#{1,3} +(.*)$", prose, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2]))


def lead(body: str) -> str:
    """The first paragraph, as many sentences as fit; below it the list, the table or the box that
    it announces, else the first formula. A section that begins with one of these shows it."""
    blocks = [b.strip() for b in re.findall(r"```[\s\S]*?```|(?:.+\n?)+", body)]
    if re.match(BLOCK, blocks[0]):
        return as_block(blocks[0])
    at = next((i for i, b in enumerate(blocks) if not re.match(rf"{BLOCK}|>|<|\$\$", b)), -1)
    sentences = re.split(r"(?<=[.!?:])\s+(?=[A-Z*`$])", " ".join(blocks[at].split()))
    kept, words = [], 0
    for sentence in sentences if at >= 0 else []:
        words += len(sentence.split())
        if kept and words > WORDS:
            break
        kept.append(sentence)
    shown = " ".join(kept)
    below = next(iter(blocks[at + 1 :]), "")
    if not re.search(r"[.!?)]\**$", shown) and re.match(BLOCK, below):
        return f"{shown}\n\n{as_block(below, WORDS - words)}"
    formula = re.search(r"\$\$.+?\$\$", body, re.DOTALL)
    return shown if not formula or formula[0] in shown else f"{shown}\n\n{formula[0]}"


def as_block(block: str, words: int = WORDS) -> str:
    if block[0] == "|":
        return columns(block)
    return block if block[0] == "`" else points(block, words)


def columns(table: str) -> str:
    """A table with as many of its first columns as a slide bears, two at least."""
    rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in table.splitlines()]
    fit = next(n for n in range(len(rows[0]), 0, -1) if n <= 2 or width(rows, n) <= 2 * WORDS)
    return "\n".join(f"|{'|'.join(row[:fit])}|" for row in rows)


def width(rows: list[list[str]], n: int) -> int:
    """Words in the first ``n`` columns."""
    return sum(len(cell.split()) for row in rows for cell in row[:n])


def points(body: str, words: int = WORDS) -> str:
    """The bullets of a list, each cut after its first sentence or its 26th word, as many as fit."""
    bullets = re.split(r"^(?:-|\d+\.) ", body, flags=re.MULTILINE)[1:]
    short = [re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(b.split()))[0] for b in bullets]
    short = [s if not s.endswith("**") else " ".join(b.split()) for s, b in zip(short, bullets)]
    cut = [w if len(w) <= 26 else [*w[:26], "…"] for w in map(str.split, short)]
    fit = [w for i, w in enumerate(cut[:6]) if sum(map(len, cut[: i + 1])) <= words]
    return "\n".join(f"- {' '.join(w)}" for w in fit)


def height(source: str) -> int:
    """About as many lines of code as this prose is high; no room is left below a table."""
    full = ROOM if re.search(r"^(?:```|\||- )", source, re.MULTILINE) else 0
    return full + len(source) // 40 + 5 * source.count("$$") // 2


def code(cell: dict, room: int) -> str:
    """A cell and, as a fragment, what it prints; "" for what does not fit."""
    source, boxes = text(cell).strip(), ""
    printed = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell["outputs"]]
    pictures = any("image/png" in o.get("data", {}) for o in cell["outputs"])
    said = "" if pictures else "\n".join("".join(part).rstrip() for part in printed)
    for kind, box in (("code", source), ("code fragment", said)):
        room -= len(box.splitlines()) + 1
        if not box or room < 0 or max(map(len, box.splitlines())) > WIDTH:
            break
        boxes += f'\n\n<pre class="{kind}">{escape(box)}</pre>'
    return boxes


def markdown(source: str) -> dict:
    meta = {"slideshow": {"slide_type": "slide"}}
    return {"cell_type": "markdown", "metadata": meta, "source": source}


def picture(heading: str, output: dict) -> dict:
    alt = " ".join(output["metadata"]["image/png"]["alt"].split()).replace('"', "'")
    data = "".join(output["data"]["image/png"]).strip().replace("\n", "")
    image = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
    return markdown(f'## {heading}\n\n<div class="jp-OutputArea">{image}</div>')


def deck(path: Path) -> str:
    """The HTML of one lesson's deck; ValueError, naming the notebook, if it has no sections."""
    import nbformat
    from nbconvert import SlidesExporter

    try:
        cells = slides(read(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    exporter = SlidesExporter(
        template_name="deck",
        extra_template_basedirs=[str(Path(__file__).parent)],
        reveal_url_prefix="reveal",
        reveal_theme="white",  # its letters come with it; nbconvert's own choice fetches them
        require_js_url="require.js",
    )
    resources = {"metadata": {"name": path.stem}}
    return exporter.from_notebook_node(nbformat.from_dict(notebook), resources)[0]


def main() -> None:
    package("nbconvert", "course")
    if not (NPM / "reveal.js").is_dir():
        raise Missing("reveal.js is not there: make build/npm")
    shutil.rmtree(DECKS, ignore_errors=True)
    (DECKS / "mathjax").mkdir(parents=True)
    shutil.copy(NPM / "mathjax/es5/tex-svg.js", DECKS / "mathjax")
    shutil.copy(NPM / "requirejs/require.js", DECKS)
    for part in ("dist", "plugin/notes"):
        shutil.copytree(NPM / "reveal.js" / part, DECKS / "reveal" / part)
    for path in lessons():
        (DECKS / f"{path.stem}.html").write_text(deck(path), encoding="utf-8")
    print(f"the decks are in {DECKS}/: open {DECKS}/{lessons()[0].stem}.html")


if __name__ == "__main__":
    run("slides", main)
