"""Launch: `python -m tools.launch owner/name [branch]` copies the lessons into launch/, with the
buttons of Colab, Kaggle and Binder and one set-up cell. Commit launch/ in the fork, and push."""

import re
import sys
from pathlib import Path

from .notebooks import lessons, read, write

FOLDER = Path("launch")
SETUP = """\
# On Colab and Kaggle this fetches the course; where it is installed, it does nothing.
import os, subprocess, sys
from importlib.util import find_spec

if find_spec("tlc_minimal") is None:
    clone = ["git", "clone", "--quiet", "--depth=1", "--branch={branch}"]
    subprocess.run([*clone, "{url}", "tlc-minimal"], check=True)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "ipywidgets", "scikit-learn"]
    subprocess.run([*install, "--editable", "./tlc-minimal"], check=True)
    sys.path.insert(0, os.path.abspath("tlc-minimal"))
    os.chdir("tlc-minimal/notebooks")  # where the lessons look for records and checkpoints
"""
COLAB = "https://colab.research.google.com/github/{repo}/blob/{branch}/launch/{file}"
KAGGLE = (
    "https://kaggle.com/kernels/welcome?src=https://github.com/{repo}/blob/{branch}/launch/{file}"
)
BINDER = "https://mybinder.org/v2/gh/{repo}/{branch}?labpath=launch/{file}"


def checked(repo: str, branch: str) -> tuple[str, str]:
    """Both, as given; ValueError, in one sentence, for what is no GitHub name or git branch."""
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})/[A-Za-z0-9._-]{1,100}", repo):
        raise ValueError(f"REPO is owner/name, as on GitHub, not {repo!r}: make launch REPO=me/tlc")
    wrong = not re.fullmatch(r"[A-Za-z0-9][\w./-]*", branch) or ".." in branch
    if wrong or branch.endswith(("/", ".lock", ".")):
        raise ValueError(f"BRANCH is the name of a git branch, not {branch!r}: BRANCH=main, say")
    return repo, branch


def setup_cell(url: str, branch: str) -> str:
    """The code that fetches and installs the course from a clone URL, if it is not there."""
    return SETUP.format(url=url, branch=branch)


def launched(notebook: dict, file: str, repo: str, branch: str) -> dict:
    """The notebook with two cells in front: the buttons, and the set-up."""
    links = {"Colab": COLAB, "Kaggle": KAGGLE, "Binder": BINDER}
    words = [f"[{k}]({v.format(repo=repo, branch=branch, file=file)})" for k, v in links.items()]
    buttons = {
        "cell_type": "markdown",
        "id": "launch-buttons",
        "metadata": {},
        "source": [f"**Open in** {' · '.join(words)}"],
    }
    source = setup_cell(f"https://github.com/{repo}", branch)
    setup = {
        "cell_type": "code",
        "execution_count": None,
        "id": "launch-setup",
        "metadata": {},
        "outputs": [],
        "source": source.splitlines(keepends=True),
    }
    return notebook | {"cells": [buttons, setup, *notebook["cells"]]}


def main(repo: str = "", branch: str = "main") -> None:
    repo, branch = checked(repo, branch)
    for path in lessons():
        write(FOLDER / path.name, launched(read(path), path.name, repo, branch))
    print(
        f"{FOLDER}/ holds the lessons with buttons for {repo}, branch {branch}: commit and push it"
    )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except (OSError, ValueError) as error:
        raise SystemExit(f"launch: {error}") from None
