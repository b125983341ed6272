"""The README tells the truth: its table is the records', its links and commands exist."""

import re
from pathlib import Path

from tlc_minimal.results import markdown, summary

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_is_made_from_the_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    shown = README.split("<!-- results -->")[1].split("<!-- /results -->")[0].strip()
    assert shown == markdown(summary()).strip(), "run `python -m tlc_minimal table` and paste it in"


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 8
    assert [x for x in links if not x.startswith("http") and not (ROOT / x).exists()] == []


def test_every_make_target_exists():
    targets = set(re.findall(r"(?:`|\n)make (\w+)", README))
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test", "lab", "student"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.M)] == []
