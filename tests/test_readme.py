"""The README tells the truth: its table is the records', its links and commands exist."""

import ast
import doctest
import json
import re
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from tlc_minimal.experiments.headline import LONGER
from tlc_minimal.experiments.pages import TABLES, fill
from tlc_minimal.experiments.work import AS_FAST
from tlc_minimal.lessons.plots import readme_pictures
from tlc_minimal.results import results
from tools import foreign

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIBRARY = ROOT / "docs/library.md"
PAGES = (ROOT / "README.md", ROOT / "data/results/README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_tables_are_made_from_the_records_and_links_lead_somewhere(monkeypatch, page):
    monkeypatch.chdir(ROOT)
    text = page.read_text(encoding="utf-8")
    assert text == fill(text), "run `python -m tlc_minimal table`"
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(links) > 3
    assert [x for x in links if not x.startswith("http") and not (page.parent / x).exists()] == []


def test_every_table_is_on_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in TABLES if text.count(f"<!-- /{name} -->") != 1] == []


def test_what_the_first_page_says_about_training_small_is_what_is_recorded():
    """Each sentence in bold, as an inequality between means over seeds, or within each."""
    every = results(ROOT / "data/results")
    rows = every[every["what"].str.match("headline_w16_(?!once(?!12)|.*_(?:28|50)_)")]
    test, shape = rows.groupby(["method", "seed"]).last()["test"], "from scratch, the same shape"
    scratch, projected = test[shape], test["ours, projected"]
    assert [*(scratch > projected), round((scratch - projected).mean(), 1)] == [True] * 3 + [1.7]
    seen = lambda w: every[every["what"].str.match(w)].pivot_table("test", "seed", "method", "last")
    half = seen("headline_w32_(longer|scratch)_22").dropna()
    more, short = [(half[LONGER] - half[shape], [3, 1, 0])], f"{shape}, as long as the tuning"
    for share, points, least in ((22, 0.2, 2.5), (28, 0.4, 1.6), (50, 0.3, 1.9)):
        at = seen(f"headline_w16_(longer|scratch|short|project)_{share}")
        more += [(at[LONGER] - at[shape], [3, 2, points])]
        more += [(at["ours, projected"] - at[short], [3, 3, least])]
    for d, said in more:
        assert [len(d), (d > 0).sum(), round(d.mean(), 1)] == said
    for what, points in (("recipes_w32_", [-1.4, 0.2]), ("few_w16_", [-0.9, 2.5, 4.1, 6.2])):
        others = seen(what)
        ahead = -others.sub(others.pop("ours, projected"), axis=0)
        assert sorted(ahead.mean().round(1)) == points and len(ahead) == 3
        assert (ahead.min() * ahead.max() > 0).all(), "the same sign in every seed"
    assert (test[f"{shape}, without a teacher"] > projected).all()
    work = test[f"{shape}, without a teacher, for as many multiplications"]
    assert (work > test["dense"]).all() and len(work) == 3 and work.mean() > test["tuned on"].mean()
    narrow, ten = (test[f"from scratch, a {net}"] for net in ("narrower ResNet-18", "ResNet-10"))
    assert max(abs((narrow - projected).mean()), abs((ten - scratch).mean())) < 0.3
    ours, spare, thrifty = seen("headline_w16_once(?:12|_spare|_thrifty)").T.sort_index().values
    four = every[every["what"].str.contains("w16_project04")].groupby("seed")["val_before"]
    assert (four.max() - four.min()).max() < 1 and four.ngroups == 3
    half = seen("headline_w16_(project|narrow|scratch)_50").sub(thrifty, axis=0)
    assert [*half.mean().round(1)] == [0.6, 2.0, 0.6] and (half > 0).all(axis=None)
    wide = seen("headline_w32_(project_50|once_thrifty)").diff(axis=1).iloc[:, 1]
    assert [round(-wide.mean(), 1), (wide < -0.1).sum(), *(thrifty > spare)] == [0.3, 2, 1, 1, 1]
    assert max(spare) - min(spare) < 0.3 and max(ours) - min(ours) > 3
    for start, seeds, points in (("headline_w32_", 3, 1.5), ("headline_w64_cpu_", 1, 1.0)):
        wide = seen(f"{start}(?!.*_(?:28|50)_)")
        more = (wide[shape] - wide["ours, projected"]).dropna()
        assert (more > 1).all() and [len(more), round(more.mean(), 1)] == [seeds, points]
        if seeds == 3:
            few = wide["from scratch, a narrower ResNet-18"] - wide["ours, projected"]
            few = [few, *(wide["thrifty, all at once"] - wide[m] for m in ("dense", "tuned on"))]
            assert [round(d.mean(), 1) for d in few] == [0.3, 0.1, -1.4] and (few[0] > 0).sum() == 2
    assert round((wide[f"{shape}, without a teacher"] - wide["ours, projected"])[0], 1) == 0.5


def test_what_is_said_of_a_head_start_is_what_is_recorded():
    rows = results(ROOT / "data/results").query("study == 'ladder' and taught == True")
    test = rows.pivot_table("test", ["epochs", "seed"], "method")
    ahead = (test["projected"] - test["projected, fresh weights"]).unstack("epochs")
    assert list(ahead[[1, 6]].mean().round()) == [8, 2] and (ahead[[1, 6]] > 1).all(axis=None)
    assert len(ahead) == 3 and ahead[30].min() < 0 < ahead[30].max()
    lines = test.sub(test["projected"], axis=0).groupby("epochs").mean().loc[1]
    assert [*lines[["affine", "thrifty", "on_off", "on_off_affine"]].round()] == [5, 1, -3, -5]


def test_what_the_first_page_says_about_width_64_is_what_is_recorded():
    every = results(ROOT / "data/results")
    last = every[every["what"].str.match("headline_w64_(?!clock|cpu)")]
    last = last.groupby(["method", "seed"]).last()
    test, share = last["test"], (last["macs_cut"] / 140_186_624).groupby("method").mean()
    lost = {m: round((test[m] - test["dense"]).mean(), 1) for m in test.index.unique("method")}
    thrifty = (test["thrifty, all at once"] - test["tuned on"]).agg(["mean", "count"]).round(1)
    shown = ["dense", "tuned on", "thrifty, all at once", "ours, projected"]
    assert [*(lost[m] for m in shown[2:]), *thrifty] == [-0.3, -3.1, -0.8, 2]
    once = test["ours, all at once"].agg(["count", "min", "max", "idxmin"])
    assert [*share[shown[2:]].round(2), *once.round()] == [0.53, 0.18, 3, 82, 90, 0]
    assert all(f"{mean:.1f} %" in README for mean in test.groupby("method").mean()[shown])
    units = last.groupby("method")["relu_units"].mean() / 188_416
    assert [*units[["published", "ours, projected"]].round(2)] == [0.22, 0.5]
    alone, small = every[every["what"].str.contains("w64_cpu_alone")]["test"], test[shown[3]]
    assert [*(alone > small.max()), round(alone.mean() - small.mean(), 1)] == [True] * 3 + [0.7]
    assert clocked("headline_w64_clock_project", "speedup")["ours, projected", 1] == 3.1
    speed = clocked("headline_w64_clock", "speedup_graph")
    assert speed["ours, projected", 1] == 3.9 and speed["ours, projected", 1024] == 2.4
    assert speed["ours, all at once", 1] == 1.4 and speed["ours, all at once", 1024] == 1.6


def test_what_the_first_page_says_about_milliseconds_is_what_is_recorded():
    each = [clocked(f"headline_{w}_clock_project_22", "speedup") for w in ("w16", "w32", "w64_cpu")]
    ours, narrow = "ours, projected", "from scratch, a narrower ResNet-18"
    assert [round(at[ours, n]) for n in (1, 128) for at in each] == [4, 6, 8, 3, 3, 3]
    assert [at[narrow, 1] for at in each] == [1.4, 2.6, 5.1]
    assert [at[narrow, 128] < at[ours, 128] for at in each] == [True, True, False]
    assert (each[2][ours, 128], each[2][narrow, 128]) == (2.8, 4.7)
    for width, one, many in ((16, [], [0.06, 0.65, 2.38]), (32, [0.07, 0.32], [9.09, 9.09])):
        races = clocked(f"headline_w{width}_clock_project", "macs", ["what", "network", "batch"])
        fast = {(w, n): m for (w, net, n), m in races.items() if net == AS_FAST}
        assert [round(m / races[w, ours, 1], 2) for (w, n), m in fast.items() if n == 1] == one
        assert [round(m / 1e6, 2) for (_, n), m in fast.items() if n == 128] == many


def clocked(start, column, by=("network", "batch")):
    """A column of the races of a width, how many times as fast, say: {(network, batch): speed}."""
    rows = results(ROOT / "data/results")
    raced = rows[(rows["method"] == "milliseconds") & rows["what"].str.startswith(start)]
    return raced.set_index([*by])[column].round(1).to_dict()


def test_the_teachers_page_shows_and_leaves_out_what_is_in_the_lessons():
    page = (ROOT / "docs/teaching.md").read_text(encoding="utf-8")
    named = set()
    for lesson, text in re.findall(r"\n### (\d\d) · .*?\n(.*?)(?=\n##)", page, re.S):
        shown = re.findall(r"\*\*(?:Show\.|Late\?)\*\*(.*?)(?=\n\*\*|$)", text, re.S)
        named |= {(lesson, h) for part in shown for h in re.findall(r"\*([^*]+)\*", part)}
    named |= {("05", h) for h in re.findall(r"\*([^*]+)\*", re.search(r"\| 05, (.*)", page)[1])}
    assert len(named) > 6
    for lesson, heading in sorted(named):
        (path,) = (ROOT / "notebooks").glob(f"{lesson}_*.ipynb")
        cells = nbformat.read(path, 4).cells
        lines = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        assert re.search(rf"^#+ .*{re.escape(heading)}", lines, re.M), (lesson, heading)


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
        assert f"]({path.name})" in PAGES[1].read_text(encoding="utf-8")


# ---- the page of the library: every public name is on it, and its examples run ----


def public() -> set[str]:
    tree = ast.parse((ROOT / "tlc_minimal/__init__.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_every_public_name_is_documented_and_used_in_an_example():
    text = LIBRARY.read_text(encoding="utf-8")
    documented = set(re.findall(r"auto(?:function|class):: tlc_minimal\.(\w+)", text))
    assert documented | {"METHODS"} == public()
    code = "".join(example.source for example in doctest.DocTestParser().get_examples(text))
    for name in public():
        used = {"Data": "data", "Layer": "layers[1]", "Run": "run."}.get(name, f"tlc.{name}")
        assert used in code, f"{name} has no worked example in docs/library.md"


def test_the_examples_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    failed, tried = doctest.testfile(str(LIBRARY), module_relative=False)
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
