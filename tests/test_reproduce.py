"""The recorded experiments: the laptop profile end to end, made tiny."""

import importlib
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import CLOCK, residual, rows_of, same

import tlc_minimal as tlc
from tlc_minimal.experiments import (
    baseline,
    controls,
    fair,
    headline,
    ladder,
    mnist,
    pieces,
    predicts,
    rates,
    recipes,
    sized,
    work,
)
from tlc_minimal.experiments import reproduce as command
from tlc_minimal.experiments.reproduce import plan, reproduce
from tlc_minimal.files import load_weights
from tlc_minimal.run_folder import run_of

NAMES = ("collapse", "merge", "experiments.throughput")
collapsing, merging, throughput = (importlib.import_module(f"tlc_minimal.{n}") for n in NAMES)
HERE = {"data": "digits", "mnist": "digits"}
TINY = headline.PROFILES["laptop"]._replace(
    width=2, images=60, dense=0.5, each=0.5, seeds=(0,), remove=2, shares=(0.5,),
    depth=1, depths=(2,), strong=(2, 60), left=0.99,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """The laptop profile on sixty small digits, with a network of five activations."""
    data = tlc.load_data("digits", size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "load_data", {"digits": data}.get)
        patch.setattr(controls, "resnet18", residual)
        patch.setattr(work, "widest", lambda network, data, layers=18: residual(10, 1))
        patch.setattr(throughput, "resnet18", residual)
        ratio = lambda nets, x: tlc.latency(nets, x, 2).assign(speedup=0.5 + len(x) / 128)
        patch.setattr(work, "latency", ratio)
        patch.setitem(headline.PROFILES, "laptop", TINY)
        patch.setattr(headline, "RIVALS", {"easier": 0.03, "layer_folding": 0.05})
        patch.setitem(mnist.PROFILES, "laptop", (2, 0.5, 0.5, 60, 3_000))
        patch.setattr(mnist, "REMOVE", 2)
        patch.setattr(mnist, "SEEDS", (0,))
        patch.setattr(throughput, "BATCHES", (8, 16))
        patch.setattr(merging, "is_faster", lambda *args: True)  # tests/test_merge.py asks
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Everything of the headline and of MNIST: (runs, records)."""
    out, folder = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("records")
    for study in ("headline", "mnist"):
        reproduce("laptop", **HERE, only=study, out=out, folder=folder)
    return out, folder


def test_every_planned_piece_is_a_record(done):
    planned = {p.what for study in (headline, mnist) for p in study.plan("laptop")}
    assert {p.stem for p in done[1].iterdir()} == planned and len(planned) == 54
    table = tlc.results(done[1])
    assert set(table["what"]) == planned and set(table["study"]) == {"headline", "mnist"}


def test_curve_once_control_and_strong_stem_begin_with_their_dense_network(done):
    curve, (dense,), (start, once), (_, one), (control,), (strong,) = (
        rows_of(done[1], f"headline_w2_{name}_seed0")
        for name in ("curve", "dense", "once02", "once01", "tuned_on", "strong_dense")
    )
    assert [(r["removed"], r["activations"]) for r in curve] == [(0, 5), (1, 4), (2, 3)]
    assert curve[0]["test"] == start["test"] == dense["test"] and curve[0]["macs"] == dense["macs"]
    assert (once["removed"], once["activations"]) == (2, 3)
    assert once["epochs"] == sum(r["epochs"] for r in curve) == 1.0
    assert curve[1]["layer"] in once["layer"].split(", ")
    assert control["epochs"] == one["epochs"] and control["macs"] == dense["macs"]
    assert '"precision": "float32"' in (done[1] / "headline_w2_float32_seed0.json").read_text()
    assert strong["macs"] > dense["macs"] and strong["params"] == dense["params"]


def config_of(done, name):
    """What a piece's record and its run say of it."""
    record = json.loads((done[1] / f"{name}.json").read_text())["config"]
    return record, run_of(done[0] / name)["config"]


def test_each_choice_reaches_the_run_that_goes_at_once(done):
    for arm, (longer, options) in headline.AT_ONCE.items():
        name = f"headline_w2_once_{arm.split(',')[0].replace(' ', '_')}_seed0"
        record, run = config_of(done, name)
        assert record["how"] == run["method"] == "at_once"
        assert record["options"] == run["options"] == options
        assert record["epochs"] == run["epochs"] == TINY.depth * TINY.each * longer
        assert run["tuning"] == {"lr": record["lr"], "distil": True}


def test_the_published_algorithm_has_no_teacher_and_is_cut_at_the_end(done):
    for name, options in (("published", {}), ("published_one", {"set_rule": False})):
        record, run = config_of(done, f"headline_w2_{name}_seed0")
        assert run["method"] == "published" and run["options"] == options == record["options"]
        assert run["tuning"] == {"lr": 0.02, "distil": False}
        first, *_, last = rows_of(done[1], f"headline_w2_{name}_seed0")
        assert last["macs"] == first["macs"] == first["macs_cut"] >= last["macs_cut"]
        assert last["removed"] == TINY.depth and last["epochs"] <= record["epochs"]


def test_projection_takes_a_layer_with_its_activation(done):
    first, last = rows_of(done[1], "headline_w2_project01_seed0")
    assert (first["layers"], last["layers"]) == (6, 5) and last["error"] > 0
    assert last["macs"] < first["macs"] and first["error"] is None
    longer = rows_of(done[1], "headline_w2_longer_50_seed0")[-1]["epochs"]
    assert longer == TINY.dense + TINY.depth * TINY.each
    states = [done[0] / f"headline_w2_{c}_50_seed0.state" for c in ("scratch", "alone", "work")]
    assert ['"teacher": ""' in load_weights(s)[1]["recipe"] for s in states] == [False, True, True]
    assert [controls.length(c, 10, 6, 0.25) for c in ("short", "alone", "work")] == [6, 16, 46]


def test_an_ablation_changes_one_choice_and_with_it_the_network(done):
    usual = {"lr": 0.02, "distil": True}
    for arm, options in headline.ARMS.items():
        record, run = config_of(done, f"headline_w2_ablation_{arm.replace(' ', '_')}_seed0")
        assert record["how"] == run["method"] == "one_by_one" and record["options"] == options
        assert run["options"] == {k: v for k, v in options.items() if k not in usual}
        assert run["tuning"] == usual | {k: v for k, v in options.items() if k in usual}
    # A choice that is written down but not used would leave the network as it was.
    ours = rows_of(done[1], "headline_w2_curve_seed0")[1]
    for arm in ("on_off", "affine", "identity", "not_distilled", "padding_first"):
        row = rows_of(done[1], f"headline_w2_ablation_{arm}_seed0")[1]
        assert any(row[k] != ours[k] for k in ("layer", "val_before", "val_loss")), arm


def test_the_clock_has_every_network_at_both_batches(done):
    for name, method in {"once01": "ours, all at once", "project_50": "ours, projected"}.items():
        rows = rows_of(done[1], f"headline_w2_clock_{name}_seed0")
        assert [r["batch"] for r in rows] == [1] * 5 + [128] * 6
        others = [f"{method}, merged wherever it can be", work.NARROW, work.NARROWEST]
        names = ["dense", method, *others] * 2 + [work.AS_FAST]  # none at half the speed
        assert [r["network"] for r in rows] == names and all(r["ms"] > 0 for r in rows)
        assert [r["activations"] for r in rows[:2]] == [5, 5 - rows[1]["removed"]]
        assert rows[0]["removed"] == rows[3]["removed"] == 0 < rows[1]["removed"]


def test_what_predicts_is_tried_on_sets_that_single_layers_replace(tmp_path, monkeypatch):
    monkeypatch.setattr(fair, "resnet18", residual)
    small = {"width": 2, "images": 60, "dense": 0.5}
    monkeypatch.setitem(predicts.FAIR, "laptop", predicts.FAIR["laptop"] | small)
    monkeypatch.setitem(predicts.PROFILES, "laptop", (2, 2, 0.5, 1, 0.1))
    monkeypatch.setitem(ladder.PROFILES, "laptop", ((1,), (0.5,), 1, 0.1))
    for only in ("predicts", "ladder"):
        reproduce("laptop", **HERE, only=only, out=tmp_path, folder=tmp_path / "records")
    rows = rows_of(tmp_path / "records", "predicts_w2_seed0")
    sets = [(i, rule) for i in (0, 1) for rule in ("on_off_affine", "projected")]
    assert [(r["draw"], r["rule"]) for r in rows] == sets
    assert {(r["removed"], r["activations"]) for r in rows} == {(2, 3)}
    assert rows[0]["layer"] == rows[1]["layer"] and rows[1]["layers"] < rows[0]["layers"] == 6
    shown = sized.ladder(tlc.results(tmp_path / "records")).set_index("start")
    assert list(shown.index) == list(ladder.STARTS) and (shown["seeds"] == 1).all()
    assert [c[18:-1] for c in shown][-3:] == ["0 epochs", "1 epochs", "0.5 epochs, no teacher"]
    assert int(shown["layers"]["projected"]) < int(shown["layers"]["affine"]) == 6


def more(done, folder, study):
    """The folder, with the records of a study beside those of the headline."""
    shutil.copytree(done[1], folder, dirs_exist_ok=True)
    reproduce("laptop", **HERE, only=study, out=done[0], folder=folder)
    return folder


def test_every_way_of_tuning_is_tried_at_each_rate(done, tmp_path, monkeypatch):
    monkeypatch.setitem(rates.PROFILES, "laptop", ((0.01, 0.3), 1))
    records = more(done, tmp_path, "rates")
    rows = rows_of(records, "rates_w2_once01_seed0")
    each = {"removed", "macs", "val", "epochs"}  # and no test accuracy
    assert [(row.pop("rate"), {*row}) for row in rows] == [(0.01, each), (0.3, each)]
    run = run_of(done[0] / "rates_w2_published_seed0_0.3")
    shown = sized.rates(tlc.results(records)).set_index("method")
    shape = headline.CONTROLS["scratch"]
    assert run["config"]["tuning"]["lr"] == 0.3 and float(shown["kept"][shape]) == 0.2
    run = run_of(done[0] / "rates_w2_project_50_decay_seed0_0.01")
    assert run["config"]["tuning"]["weight_decay"] == rates.DECAY
    assert sum(m.endswith("weight decay 0.0002") for m in shown.index) == 2


def test_the_other_recipe_is_held_against_the_usual_one(done, tmp_path):
    records = more(done, tmp_path, "recipes")
    run = run_of(done[0] / "recipes_w2_project_50_seed0")["config"]
    assert (run["tuning"]["lr"], run["tuning"]["weight_decay"]) == (recipes.RATE, rates.DECAY)
    last = lambda what: rows_of(records, f"{what}_50_seed0")[-1]
    shown = sized.recipes(tlc.results(records))
    assert list(shown["method"]) == [*recipes.METHODS]
    for name, row in zip(("project", "scratch", "narrow"), shown.to_dict("records"), strict=True):
        usual, other = last(f"headline_w2_{name}"), last(f"recipes_w2_{name}")
        assert usual["macs"] == other["macs"] and usual["params"] == other["params"]
        differs = float(row["test accuracy, difference"])
        assert differs == pytest.approx(other["test"] - usual["test"], abs=0.01)
    shown = sized.stronger(tlc.results(more(done, tmp_path, "stronger")))
    recipe = load_weights(done[0] / "stronger_w2_dense_seed0.safetensors")[1]["recipe"]
    assert f'"lr": {controls.FRESH_LR}' in recipe and set(shown["method"]) == {*recipes.STRONGER}
    assert run_of(done[0] / "stronger_w2_project_50_seed0")["config"]["model"] != run["model"]


def test_few_images_are_a_ninth_of_them_nine_times_as_often(done, tmp_path):
    results = tlc.results(more(done, tmp_path, "few"))
    names = ("few_w2_untaught_50_seed0", "headline_w2_project_50_seed0")
    run, usual = (run_of(done[0] / name)["config"] for name in names)
    assert (usual["train"], run["train"], run["epochs"]) == (60, 7, round(9 * usual["epochs"]))
    assert usual["tuning"]["distil"] and not run["tuning"]["distil"]
    few = results[results["study"] == "few"].groupby("what").last()
    assert list(few["run_epochs"]) == [9, 4, 9, 4, 4]  # in order of names
    assert (few["images_per_s"] > 0).all() and {*sized.few(results)["method"]} == {*recipes.FEW}
    data = tlc.load_data("digits", size=16).subset(60)
    some = controls.seen(next(p for p in recipes.few("laptop")), data)
    assert torch.equal(some.train.images, data.train.images[:7])
    assert some.test.size == data.test.size


def test_throughput_is_measured_against_two_ceilings_and_says_what_bounds_a_step(done):
    product, copy, *training = rows_of(done[1], "headline_w2_throughput_seed0")
    assert product["tflops"] > 0 and copy["gb_per_s"] > 0
    assert [row["batch"] for row in training] == [8, 16]
    for row in training:
        assert row["ms_per_step"] == pytest.approx(1000 * row["batch"] / row["images_per_s"])
        assert row["share"] == pytest.approx(100 * row["tflops"] / product["tflops"])
        assert row["of_bare"] > 1
    # A 1x1 convolution 3 -> 5 on 4x4: forward, and once more for the weights' gradient.
    one = SimpleNamespace(example=torch.zeros(2, 3, 4, 4))
    assert throughput.training_flops(torch.nn.Conv2d(3, 5, 1), one) == 2 * 2 * 3 * 5 * 16
    smallest = {"ms_per_step": 1.0, "share": 1}
    for ms, share, words in ((1.2, 90, "launches"), (4, 60, "arithmetic"), (4, 10, "memory traff")):
        assert words in throughput.bound({"ms_per_step": ms, "share": share}, smallest)
        assert "launches" not in throughput.bound({"ms_per_step": 1.0, "share": share}, None)


def test_what_short_trainings_are_known_for_is_what_it_says(monkeypatch):
    data = tlc.load_data("digits", size=16).subset(60)
    draw = lambda d: d.augment(d.train.images, torch.Generator().manual_seed(0))
    changed = baseline.augmented(replace(data, crop=0, flip=True), alternating=True)
    first, second, third = (draw(changed) for _ in range(3))
    assert torch.equal(second, first.flip(3)) and torch.equal(third, first)
    plain = data.normalize(data.train.images)
    same_way, mirrored = ((first == x).flatten(1).all(1) for x in (plain, plain.flip(3)))
    assert (same_way | mirrored).all() and 15 < mirrored.sum() < 45
    bright = replace(data, crop=0, mean=data.mean - 9)  # no zeros but those of the square
    holes = draw(baseline.augmented(bright, cutout=True)) == 0
    assert (holes.sum((2, 3)) == baseline.SIDE**2).all()
    assert (holes.any(2).sum(2) == holes.any(3).sum(2)).all() and holes.float().mean(0).max() < 1
    model = residual(10, 2)
    for decay, same_weights in ((0.0, True), (0.9, False)):
        monkeypatch.setattr(baseline, "DECAY", decay)
        with baseline.averaged(model, True) as final:
            tlc.fit(model, data, 4, batch=20, progress=False)
        assert same(final(), model) == same_weights


@pytest.mark.parametrize("what", ["headline_w2_curve_seed0", "mnist_w2_tlc_on_off_seed0"])
def test_without_weights_the_same_dense_network_is_trained_again(done, tmp_path, what):
    """A clone has the records and not the weights: the run is made, and is the same."""
    lost = tmp_path / "lost"  # a record that is lost comes from the finished run
    reproduce("laptop", **HERE, only=what, out=done[0], folder=lost)
    assert rows_of(lost, what) == rows_of(done[1], what)
    reproduce("laptop", **HERE, only=what, out=tmp_path / "runs", folder=tmp_path)
    timeless = lambda rows: [{k: v for k, v in r.items() if k not in CLOCK} for r in rows]
    assert timeless(rows_of(tmp_path, what)) == timeless(rows_of(done[1], what))


def test_another_seed_is_another_network_and_another_run(done, tmp_path, monkeypatch):
    monkeypatch.setitem(headline.PROFILES, "laptop", TINY._replace(seeds=(1,)))
    what = "headline_w2_once01_seed1"
    (path,) = reproduce("laptop", **HERE, only=what, out=tmp_path, folder=tmp_path)
    assert json.loads(path.read_text())["seed"] == 1
    assert run_of(tmp_path / what)["config"]["seed"] == 1
    folders = (done[0], "headline_w2_dense_seed0"), (tmp_path, "headline_w2_dense_seed1")
    a, b = (load_weights(folder / f"{name}.safetensors")[0] for folder, name in folders)
    assert list(a) == list(b) and not same(a, b)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_every_profile_plans_every_study_once(profile):
    pieces = plan(profile)
    names = [p.what for p in pieces]
    assert len(set(names)) == len(names) and all(p.minutes > 0 for p in pieces)
    assert {p.config["study"] for p in pieces} == set(command.STUDIES)
    assert all("method" in p.config and "width" in p.config for p in pieces)
    assert any("published_long" in name for name in names) == (profile == "paper")
    on_cpu = profile == "paper" and not torch.cuda.is_available()  # beside a GPU's
    assert all(("_cpu_" in n) == on_cpu for n in names if n.startswith("headline"))
    s = headline.PROFILES["paper"]  # the curve to twelve, and all at once
    assert s.depth == 12 and s.dense + 2 * 12 * s.each <= 250
    assert {p.config["width"] for p in plan("half")} == {32}


def test_the_published_algorithm_keeps_its_schedule(done, tmp_path, monkeypatch, capsys):
    """What only the paper profile has: 160 epochs for one removal, and what they are asked for."""
    (c,) = [p.config for p in headline.plan("paper") if "published_long" in p.what]
    assert (c["how"], c["epochs"], c["remove"]) == ("published", 160 * 12, 12)
    assert c["options"] == {"lr": 0.1, "schedule": "steps", "weight_decay": 1e-4, "smoothing": 0.0}
    asked, only = [], "published_long_seed0"
    monkeypatch.setitem(headline.PROFILES, "paper", TINY)
    monkeypatch.setattr(collapsing, "fit", lambda *args, **how: asked.append((args[2], how)))
    (path,) = reproduce("paper", **HERE, only=only, out=done[0], folder=tmp_path)
    if not torch.cuda.is_available():
        assert "No GPU is here" in capsys.readouterr().out
    content = json.loads(path.read_text())
    assert content["epochs"] == 160 and [r["removed"] for r in content["rows"]] == [0, 1]
    ((epochs, how),) = asked
    assert epochs == 160 and c["options"].items() <= how.items() and how["teacher"] is None
