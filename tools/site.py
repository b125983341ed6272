"""The site: `python -m tools.site` stages README, lessons and docs, and lets Sphinx build.

Nothing is executed and nothing is fetched: outputs are the committed ones, MathJax is the copy that
npm left in node_modules."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import foreign, teaching
from .need import Missing, package, program, run
from .notebooks import lessons, read, tags, text, write

STAGE, SITE = Path("build/site-source"), Path("build/site")
MATHJAX = Path("build/npm/node_modules/mathjax/es5/tex-svg.js")
ALONE = r"\n\n$$\1$$\n\n"  # MyST reads a displayed formula only between empty lines
SLIDER = "*Here the notebook has sliders; this page shows the pictures beside them.*"
TREE = """
```{{toctree}}
:hidden:
:caption: {caption}

{pages}
```
"""


def stage() -> None:
    """The sources of the site, laid out as in the repository, so that its links hold."""
    shutil.rmtree(STAGE, ignore_errors=True)
    for path in ("CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "data/README.md"):
        if Path(path).exists():
            copy(path)
    for folder in ("docs", "data/results"):
        for path in Path(folder).rglob("*"):
            if path.suffix in (".md", ".css", ".png", ".svg", ".py"):
                copy(path)
    shutil.move(STAGE / "docs/conf.py", STAGE / "conf.py")
    for part in (teaching, foreign):
        (STAGE / part.PAGE).write_text(part.filled(), encoding="utf-8")
    for path in lessons():
        write(STAGE / path, for_the_site(read(path)))
    pages = {
        "Lessons": [str(path.with_suffix("")) for path in lessons()],
        "Beyond the lessons": ["data/results/README", "docs/library", "data/README"],
        "For those who": ["docs/teaching", "CONTRIBUTING", "CHANGELOG"],
    }
    there = {k: [p for p in v if list(STAGE.glob(f"{p}.*"))] for k, v in pages.items()}
    trees = [TREE.format(caption=k, pages="\n".join(v)) for k, v in there.items()]
    start = Path("README.md").read_text(encoding="utf-8") + "".join(trees)
    (STAGE / "index.md").write_text(start, encoding="utf-8")
    for page in STAGE.rglob("*.md"):
        page.write_text(linked(page.read_text(encoding="utf-8"), page.parent), encoding="utf-8")
    if not MATHJAX.exists():
        program("npm", install="install Node.js (on Debian and Ubuntu: apt install npm)")
        raise Missing("MathJax is not there: make build/npm")
    target = STAGE / "docs/_static/mathjax/tex-svg.js"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(MATHJAX, target)


def copy(path: Path | str) -> None:
    (STAGE / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, STAGE / path)


def linked(page: str, folder: Path) -> str:
    """Links to what the site does not carry (code, folders) become plain words."""
    return re.sub(
        r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#]+)\)",
        lambda m: m[0] if (folder / m[2]).is_file() else m[1],
        page,
    )


def for_the_site(notebook: dict) -> dict:
    """Alt texts where MyST reads them, solutions folded, mathematics in hints, no dead sliders."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            prose = text(cell).replace("<details>", '<details class="tex2jax_process">')
            cell["source"] = re.sub(r"(?<![ \t])\$\$(.+?)\$\$", ALONE, prose, flags=re.DOTALL)
            continue
        if "solution" in tags(cell):
            cell["metadata"]["tags"] = [*tags(cell), "hide-input"]
        for output in cell["outputs"]:
            data = output.get("data", {})
            if any("widget" in mime for mime in data):
                output["data"] = {"text/markdown": SLIDER}
            alts = [v["alt"] for v in output.get("metadata", {}).values() if "alt" in v]
            if alts and "image/png" in data:
                image = {"alt": " ".join(alts[0].split())}
                cell["metadata"]["mystnb"] = {"image": image}
    return notebook


def main() -> None:
    package("myst_nb", "site")
    package("sphinx_book_theme", "site")
    stage()
    shutil.rmtree(SITE, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", STAGE, SITE]
    )
    if done.returncode:
        raise SystemExit("Sphinx stopped: what is wrong stands above")
    print(f"the site is in {SITE}/: open {SITE}/index.html, or `python -m http.server -d {SITE}`")


if __name__ == "__main__":
    run("site", main)
