"""The README tells the truth: its table is the records', its links and commands exist."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tlc_minimal.experiments.tables import TABLES, markdown
from tlc_minimal.lessons.plots import readme_pictures
from tlc_minimal.results import results

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_made_from_the_records(monkeypatch, name):
    monkeypatch.chdir(ROOT)
    shown = README.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()
    assert shown == markdown(TABLES[name]()).strip(), (
        "run `python -m tlc_minimal table` and paste it in"
    )


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 8
    assert [x for x in links if not x.startswith("http") and not (ROOT / x).exists()] == []


def test_every_make_target_exists():
    targets = set(re.findall(r"(?:`|\n)make (\w+)", README))
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test", "lab", "student"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.M)] == []


def test_the_pictures_are_drawn_from_the_records(tmp_path):
    drawn = readme_pictures(results(ROOT / "data/results"), tmp_path)
    assert drawn
    for path, digest in drawn.items():
        with Image.open(ROOT / "data/results" / path.name) as picture:
            assert picture.text["records"] == digest, "run `python -m tlc_minimal table` again"
        assert f"](data/results/{path.name})" in README
