"""A rule keeps its promises, or a sentence says which it broke; a folder for rules of your own."""

import importlib
import json
import random
import re
import sys

import pytest
import torch

from tlc_minimal import evaluate, linearize
from tlc_minimal.lessons import conformance, variation
from tlc_minimal.lessons.sweep import sweep
from tlc_minimal.linearize import RULES as LINES
from tlc_minimal.rank import RULES as RANKINGS


def scored(change=lambda scores, model: scores):
    """The ranking rule ``random``, spoiled."""
    return lambda model, *rest: change(RANKINGS["random"](model, *rest), model)


def by_report(model, data, names, replacement, seed):
    score = evaluate(model, data, "test").loss
    return {name: score for name in names}


def shaken(scores, model):
    next(model.parameters()).data += 1
    return scores


ALL = ("2", "3.relu1", "3.relu2", "4.relu1", "4.relu2")  # the activations of its network
BROKEN_RANKINGS = [
    ("names: a dictionary", scored(lambda scores, model: list(scores.values()))),
    ("names: a score for each given name", scored(lambda scores, model: scores | {"relu9": 0.0})),
    ("names after a removal", lambda model, data, *_: dict.fromkeys(ALL, 0.0)),
    ("finite: 2 has the score nan", scored(lambda scores, model: scores | {"2": float("nan")})),
    ("finite: 2 has a str for a score", scored(lambda scores, model: scores | {"2": "a"})),
    ("deterministic: the same", scored(lambda scores, model: {n: random.random() for n in scores})),
    ("test split: the scores depend", by_report),
    ("model untouched: the rule changed it", scored(shaken)),
    ("model untouched: the rule changed it", scored(lambda s, model: model.train() and s)),
    ("model untouched: the rule changed it", scored(lambda s, model: model.eval() and s)),
    ("model untouched: the rule changed", scored(lambda s, m: m.requires_grad_(False) and s)),
    ("model untouched: the rule left", scored(lambda s, m: m.register_forward_hook(print) and s)),
    ("data untouched", lambda m, data, *_: data.val.images.zero_() is m or scored()(m, data, *_)),
]
BROKEN_LINES = [
    ("shape: a rule returns a pair", lambda g, f: g.mean),
    (r"shape: the slope is .* not \(\)", lambda g, f: (g.mean.mean(), g.mean)),
    ("shape: the shift is .* not float", lambda g, f: (g.mean, 0.0)),
    ("finite: the slope of a channel of mean -30 and std 0", lambda g, f: (g.mean / g.std, g.mean)),
    ("deterministic", lambda g, f: (torch.rand_like(g.mean), g.mean)),
    ("statistics untouched", lambda g, f: (g.mean, g.std.add_(1))),
]


@pytest.mark.parametrize("name", ["random", "tlc"])
def test_the_librarys_rankings_conform(name, capsys):
    conformance.ranking(RANKINGS[name])
    assert capsys.readouterr().out.startswith("a ranking rule: right names")


@pytest.mark.parametrize("name", LINES)
def test_the_librarys_lines_conform(name, capsys):
    conformance.line(LINES[name])
    assert "equal after merging" in capsys.readouterr().out
    assert not [rule for rule in LINES if "under test" in rule]


@pytest.mark.parametrize(("check", "sentence", "rule"), [
    *[(conformance.ranking, *case) for case in BROKEN_RANKINGS],
    *[(conformance.line, *case) for case in BROKEN_LINES],
])  # fmt: skip
def test_a_rule_that_breaks_a_promise_is_told_which(check, sentence, rule):
    with pytest.raises(AssertionError, match=f"^{sentence}"):
        check(rule)


def test_a_line_that_the_network_does_not_keep_is_found(monkeypatch):
    """Were the surgery wrong, whatever the rule, the check would say so."""

    def wrong(model, names, known, rule):
        linear = linearize(model, names, known, rule)
        next(linear.parameters()).data *= 1.01
        return linear

    monkeypatch.setattr(conformance, "linearize", wrong)
    with pytest.raises(AssertionError, match="^equality: linearised, the network is off by"):
        conformance.line(LINES["affine"])


def test_a_sweep_is_the_same_in_processes_and_as_ray_tasks_as_here(monkeypatch):
    """Whatever a connected Ray is: a task of the trial for each job, and their results in order."""
    draw = lambda seed, n: random.Random(seed).choices(range(100), k=n)
    jobs = [(0, 3), (1, 2), (2, 1)]
    assert sweep(draw, jobs) == [draw(*job) for job in jobs]

    class Ray:
        is_initialized = staticmethod(lambda: True)
        remote = staticmethod(lambda f: type("Task", (), {"remote": lambda _, *job: (f, job)})())
        get = staticmethod(lambda tasks: [f(*job) for f, job in tasks])

    monkeypatch.setitem(sys.modules, "ray", Ray)
    assert sweep(max, [(1, 2), (4, 3)]) == [2, 4]


def test_the_template_passes_its_own_test(monkeypatch):
    monkeypatch.syspath_prepend(variation.TEMPLATE)
    try:
        tests = vars(importlib.import_module("test_mine"))
        tests = [test for name, test in tests.items() if name.startswith("test_")]
        assert len(tests) == 2
        for test in tests:
            test()
    finally:
        del LINES["mine"], RANKINGS["mine"]  # which it registers for good


def test_a_folder_has_the_template_under_its_new_name(tmp_path):
    folder = variation.write("calm", tmp_path / "variations")
    assert folder == tmp_path / "variations" / "calm"
    assert {path.name for path in folder.iterdir()} == {"calm.py", "test_calm.py", "calm.ipynb"}
    for path in folder.iterdir():
        original = variation.TEMPLATE / path.name.replace("calm", "mine")
        text = path.read_text()
        assert "calm" in text and not re.search(r"\bmine\b", text)
        expected = original.read_text()
        expected = variation.unrun(expected) if path.suffix == ".ipynb" else expected
        assert re.sub(r"\bcalm\b", "mine", text) == expected
    notebook = json.loads((folder / "calm.ipynb").read_text())
    assert not [cell for cell in notebook["cells"] if cell.get("outputs")], "of other rules"
    with pytest.raises(FileExistsError, match="is there already: take another name"):
        variation.write("calm", tmp_path / "variations")


NAMES = {name: "is no name" for name in ("", "my rule", "../mine", "2nd", "class", "größer")}
NAMES |= {name: f"the library has a rule '{name}'" for name in ("tlc", "affine")}
NAMES |= {"json": "Python has a module 'json', which yours would hide"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_cannot_be_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=NAMES[name]):
        variation.write(name, tmp_path)
    assert not list(tmp_path.iterdir())
