"""The page of the library: every public name is on it, and its examples run."""

import ast
import doctest
import json
import re
from pathlib import Path

from tools import foreign

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/library.md"


def public() -> set[str]:
    tree = ast.parse((ROOT / "tlc_minimal/__init__.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_every_public_name_is_documented_and_used_in_an_example():
    text = PAGE.read_text(encoding="utf-8")
    documented = set(re.findall(r"auto(?:function|class):: tlc_minimal\.(\w+)", text))
    assert documented | {"METHODS"} == public()
    code = "".join(example.source for example in doctest.DocTestParser().get_examples(text))
    for name in public():
        used = {"Data": "data", "Layer": "layers[1]", "Run": "run."}.get(name, f"tlc.{name}")
        assert used in code, f"{name} has no worked example in docs/library.md"


def test_the_examples_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert tried > 30 and failed == 0


def test_every_foreign_network_of_the_record_is_a_line(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = json.loads(foreign.RECORD.read_text())["rows"]
    page = foreign.filled()
    lines = dict(re.findall(r"^\| ([^ |]+/[^ |]+) (\|.*)", page, re.MULTILINE))
    assert set(lines) == {row["network"] for row in rows}
    for row in rows:
        why = row.get("refusal") or row.get("failure") or f"| {row['error']:.0e} |"
        assert why.split("Error: ")[-1] in lines[row["network"]].replace(r"\|", "|")
    assert "\n\n```\n" not in page


def test_a_bar_in_a_sentence_does_not_split_the_line():
    made = foreign.refused([{"network": "x/y", "refusal": "ValueError: |x| is no input"}])
    assert made.splitlines()[-1] == r"| x/y |  | \|x\| is no input |"
