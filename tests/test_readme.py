"""The README tells the truth: its table is the records', its links and commands exist."""

import re
from pathlib import Path

import pytest

from tlc_minimal.results import markdown, speed, summary

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("mark", "table"), [("results", summary), ("speed", speed)])
def test_the_tables_are_made_from_the_records(monkeypatch, mark, table):
    monkeypatch.chdir(ROOT)
    shown = README.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0].strip()
    assert shown == markdown(table()).strip(), "run `python -m tlc_minimal table` and paste it in"


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 8
    assert [x for x in links if not x.startswith("http") and not (ROOT / x).exists()] == []


def test_every_make_target_exists():
    targets = set(re.findall(r"(?:`|\n)make (\w+)", README))
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test", "lab", "student"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.M)] == []
