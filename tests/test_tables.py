"""The README's tables: a mean is a mean, an epoch is counted once, a missing record is no row."""

import pandas as pd
import pytest
import torch

import tlc_minimal as tlc
from tlc_minimal.experiments import headline as headline_
from tlc_minimal.experiments.elsewhere import beyond, matrices
from tlc_minimal.experiments.pages import TABLES, markdown
from tlc_minimal.experiments.sized import predicts, priced, projected, untuned
from tlc_minimal.experiments.tables import ablation, baseline, chain, fair, headline, total_epochs


def rows(*tests, each=0.5, macs=2e6):
    return [
        {"removed": i, "test": t, "val": t - 1, "val_before": t - 11, "macs": macs - 1e5 * i,
         "macs_cut": macs - 2e5 * i, "layers": 18, "activations": 17 - i, "params": 5000,
         "epochs": each * (i > 0)}
        for i, t in enumerate(tests)
    ]  # fmt: skip


def record(at, what, method, content, epochs=1, seed=0, **config):
    """``at``: the folder that the record goes to, and the data that it is of."""
    folder, data = at
    config = {"study": "headline", "width": 4, "method": method} | config
    tlc.record(what, data, config, seed, content, 60.0, epochs, "c", folder)


@pytest.fixture(scope="module")
def table(data, tmp_path_factory):
    """Two seeds: a curve over eight removals, eight at once, the dense one tuned on; an arm, the
    clock."""
    at = tmp_path_factory.mktemp("records"), data
    for seed, top in ((0, 80.0), (1, 90.0)):
        of = {"seed": seed, "dense": f"headline_w4_dense_seed{seed}"}
        record(at, of["dense"], "dense", rows(top), 10, seed)
        curve = rows(*(top - i for i in range(9)))
        record(at, f"headline_w4_curve_seed{seed}", "ours", curve, 4, **of)
        end = {"removed": 8, "test": top - 2, "macs": 1e6, "layers": 6, "epochs": 7}
        once = [*rows(top), end]
        record(at, f"headline_w4_once08_seed{seed}", "ours, all at once", once, 7, **of)
        on = [{"removed": 0, "test": top + 1, "macs": 2e6, "layers": 18, "epochs": 5}]
        record(at, f"headline_w4_tuned_on_seed{seed}", "dense, tuned on", on, 5, **of)
    what = "headline_w4_ablation_affine_seed0"
    content = rows(80, *(70.0 - i for i in range(8)), macs=3e6)
    record(at, what, "affine", content, 4, dense="headline_w4_dense_seed0")
    record(at, "headline_w4_clock_seed0", "clock", [{"removed": 8, "batch": 1, "ms": 1.0}], 0)
    return tlc.results(at[0])


def test_the_headline_by_hand(table):
    shown = headline(table).set_index(["method", "removed of 17"])
    expected = [("dense", "0"), ("tuned on", "0"), ("ours, all at once", "8")]
    assert list(shown.index) == [*expected, ("ours, one by one", "8")], "today's names"
    assert list(shown["test accuracy, %"]) == [
        "85.00 (80.00–90.00)", "86.00 (81.00–91.00)", "83.00 (78.00–88.00)", "77.00 (72.00–82.00)"
    ]  # fmt: skip
    assert list(shown["against dense"]) == ["+0.00", "+1.00", "-2.00", "-8.00"]
    assert list(shown["against tuned on"]) == ["-1.00", "+0.00", "-3.00", "-9.00"]
    assert list(shown["epochs"]) == ["10", "15", "17", "14"] and set(shown["seeds"]) == {2}
    assert list(shown["million MACs"]) == ["2.00", "2.00", "1.00", "1.20"]
    assert list(shown["cut"]) == ["2.00", "2.00", "1.00", "0.40"], "where nothing is said: the MACs"
    assert list(shown["layers"]) == ["18", "18", "6", "18"]
    row = table[(table["what"] == "headline_w4_curve_seed1") & (table["removed"] == 3)]
    assert total_epochs(table, row.iloc[0].to_dict()) == 10 + 3 * 0.5


def test_data_sets_are_not_mixed(table, data, tmp_path):
    """The same method on other data: rows of their own, compared with their own dense network."""
    other = tmp_path, tlc.Data(**{**vars(data), "name": "other"})
    record(other, "dense", "dense", rows(50), 10)
    record(other, "once", "ours, all at once", rows(50, *[40.0] * 8), 10, dense="dense")
    both = pd.concat([table, tlc.results(tmp_path)])
    shown = headline(both).set_index(["data", "method", "removed of 17"])
    assert shown.loc[("other", "ours, all at once", "8"), "against dense"] == "-10.00"
    assert shown.loc[("digits", "ours, all at once", "8"), "against dense"] == "-2.00"
    assert shown.loc[("other", "ours, all at once", "8"), "against tuned on"] == ""


def test_projections_stand_beside_the_controls_of_their_size(table, data, tmp_path):
    end = {"removed": 12, "macs": 5e5, "layers": 6, "activations": 5, "val_before": 60.0}
    for seed in (0, 1):
        of = {"seed": seed, "dense": f"headline_w4_dense_seed{seed}", "share": 0.25}
        for method, content, epochs in (
            ("ours, projected", [*rows(80), end | {"test": 75.0 + seed, "epochs": 7}], 7),
            ("from scratch, the same shape", [end | {"test": 70.0, "epochs": 17}], 17),
        ):
            record((tmp_path, data), f"{method}{seed}", method, content, epochs, **of)
    shown = projected(pd.concat([table, tlc.results(tmp_path)])).set_index("method")
    assert [*shown.index][1:] == ["tuned on", "ours, projected", "from scratch, the same shape"]
    assert list(shown["epochs"]) == ["10", "15", "17", "17"], "a control has no dense part"
    assert list(shown["test accuracy, %"])[1:3] == ["86.00 (81.00–91.00)", "75.50 (75.00–76.00)"]
    assert list(shown["against dense"]) == ["+0.00", "+1.00", "-4.50", "-15.00"], "its own parent"
    assert list(shown["validation before tuning, %"]) == ["", "", "60.00", ""]
    assert list(shown["layers"]) == ["18", "18", "6", "6"] and shown.iloc[3, 7] == "70.00"


def test_a_projection_has_its_units_and_its_speed(data, tmp_path, monkeypatch):
    """The units of an old record are counted from what went; the control is in the same race."""
    at, of = (tmp_path, data), {"share": 0.2, "dense": "headline_w4_dense_seed0"}
    whole = tlc.count(tlc.resnet18(width=4), torch.zeros(1, 3, 32, 32))["relu_units"]
    one = {"test": 80.0, "val_before": 60.0, "macs": 5e5, "macs_cut": 5e5, "layers": 6}
    gone = "layer1.0.relu1, layer4.1.relu2"  # 4 x 16 x 16 and 32 x 2 x 2 units
    for name, method, row in (
        ("dense", "dense", {"removed": 0, "layer": ""}),
        ("project_20", "ours, projected", {"removed": 2, "layer": gone}),
        ("longer_20", headline_.LONGER, {"removed": 2, "layer": gone}),
        ("narrow_20", headline_.CONTROLS["narrow"], {"removed": 2, "relu_units": 77}),
    ):
        record(at, f"headline_w4_{name}_seed0", method, [one | row], **of)
    names = ("dense", "ours, projected", headline_.CONTROLS["narrow"])
    raced = lambda n, b, times: {"network": n, "batch": b, "speedup": float(times * b)}
    race = [raced(n, b, i) | one | {"removed": 0} for b in (1, 128) for i, n in enumerate(names, 1)]
    record(at, "headline_w4_clock_project_20_seed0", "milliseconds", race, 0, of=names[1])
    monkeypatch.setitem(tlc.record.__globals__, "_device", lambda: "NVIDIA H100")
    race = [row | {"speedup": 0.1} for row in race]
    record(at, "headline_w4_clock_project_20_gpu_seed0", "milliseconds", race, 0)
    shown = priced(tlc.results(tmp_path)).set_index("method")
    shown = shown.loc[[*names, headline_.LONGER]]
    assert [*shown["relu_units"]] == [whole, whole - 1024 - 128, 77, whole - 1024 - 128]
    assert list(shown["speed"]) == [1.0, 2.0, 3.0, 2.0]
    ours = TABLES["raced"](tlc.results(tmp_path)).query("on == 'a CPU'").values.tolist()[0]
    assert ours == ["4", "a CPU", names[1], names[1], "0.50", "6", "2.00", "256.00"]


def test_a_network_that_was_trained_once_more_is_its_own_reference(data, tmp_path):
    same = dict.fromkeys(("macs", "macs_merged", "layers", "layers_merged"), 3.0)
    same |= {"speedup_1": 2.0, "speedup_128": 2.0, "val_before": 33.0}
    for what, dense in (("by chance", 60.0), ("projected", 70.0)):
        both = [same | {"removed": n, "test": dense - n} for n in (0, 1)]
        record((tmp_path, data), what, what, both, study="beyond", network="text")
    shown = beyond(tlc.results(tmp_path))
    assert list(shown["against dense"]) == ["-1.00", "-1.00"]
    assert list(shown["validation before tuning, %"]) == ["", "33.00"]  # all at once


def test_every_trial_before_tuning_has_a_row(data, tmp_path):
    one = {"removed": 12, "macs": 5e5, "val": 50.0}
    trials = [one | {"rule": "affine"}] + [
        one | {"rule": "projected", "error": 0.5} | more
        for more in ({"images": 500}, {"ridge": 1.0}, {"kernel": 1}, {"augmented": True})
    ]
    for seed in (0, 1):
        record((tmp_path, data), f"untuned{seed}", "untuned", trials, 0, seed)
    shown = untuned(tlc.results(tmp_path))
    assert list(shown["rule"]) == [
        "affine", "projected, images 500", "projected, ridge 1", "projected, kernel 1",
        "projected, augmented images",
    ]  # fmt: skip
    assert set(shown["seeds"]) == {2} and list(shown["relative error"])[:2] == ["", "0.50"]


def test_what_predicts_is_a_rank_correlation(data, tmp_path):
    """Three sets: the loss ranks them rightly, the accuracy backwards, the MACs halfway."""
    of, sets = {"rule": "projected", "removed": 8}, ((50, 70, 1), (49, 75, 3), (48, 90, 2))
    known = lambda b, v, m: {"val_loss": b, "val_before": b, "val": v, "macs": m}
    content = [of | known(*numbers) for numbers in sets]
    record((tmp_path, data), "predicts_w4_seed0", "predicts", content, study="predicts")
    (row,) = predicts(tlc.results(tmp_path)).to_dict("records")
    columns = ("loss before tuning", "accuracy before tuning", "MACs")
    assert [row[column] for column in columns] == ["1.00", "-1.00", "0.50"]


def test_blocks_and_recipes_are_held_against_the_dense_network_of_their_seed(data, tmp_path):
    at, of, net = (tmp_path, data), {"blocks": 1, "way": "dropped"}, "vit"
    for seed in (0, 1):
        dense = {"blocks": 0, "removed": 0, "val": 90.0 + seed, "test": 89 + seed, "macs": 100}
        on, one = [dense | {"test": 80}], of | {"macs": 80}
        half = of | {"removed": 1, "val_before": 86, "val": 88, "test": 87, "macs": 40}
        rows_ = [dense, one | {"val_before": 70}, one | {"val_before": 86}, half]
        record(at, f"m{seed}", "blocks", rows_, 4, seed, study="matrices", network=net)
        record(at, f"d{seed}", "dense", [dense], 4, seed)
        record(at, f"o{seed}", "tuned on", on, 4, seed, study="beyond", network=net)
        record(at, f"b{seed}", "cutout", [dense | {"val": 92.0}], 4, seed, study="baseline")
    (row,) = matrices(tlc.results(tmp_path)).to_dict("records")
    shown = ", ".join([*row.values()][3:])
    assert shown == "12.5, 20.5 (20.0–21.0), 40, 86.00, 87.00, -2.50, +7.00"
    (row,) = baseline(tlc.results(tmp_path)).to_dict("records")
    assert list(row.values())[3:] == [2, "90.50 (90.00–91.00)", "92.00", "+1.50"]


def test_the_ablation_compares_the_same_seeds(table):
    shown = ablation(table, (4, 8)).set_index("changed")
    assert list(shown.index) == ["ours, one by one", "affine"] and set(shown["seeds"]) == {1}
    assert shown.loc["ours, one by one", "test accuracy, % (4 removed)"] == "76.00"
    assert shown.loc["affine", "test accuracy, % (8 removed)"] == "63.00"
    # Ours: 79 - 1 before tuning, 80 - 1 after the last one: each removal breaks 11 points.
    assert shown.loc["ours, one by one", "points lost by a removal, before tuning"] == "11.0"


def test_the_fair_table_leaves_empty_what_a_method_cannot(data, tmp_path):
    known = {"tlc": rows(80, 79, 78), "dense": rows(80), "egp": rows(80, 60)}
    for method, content in known.items():
        record((tmp_path, data), method, method, content, study="fair", set="methods")
    shown = fair(tlc.results(tmp_path), (1, 2)).set_index("method")
    assert list(shown.index) == ["dense", "egp, tuned once a removal", "tlc"]
    assert list(shown["test accuracy, % (2 removed)"]) == ["80.00", "", "78.00"]
    assert list(shown["test accuracy, % (1 removed)"]) == ["80.00", "60.00", "79.00"]
    assert list(shown["million MACs (2)"]) == ["2.00", "", "1.60"], "cut"


def test_a_chain_is_shown_after_its_last_removal(data, tmp_path):
    at = tmp_path, tlc.Data(**{**vars(data), "name": "mnist"})
    for seed, test in ((0, 80.0), (1, 90.0)):
        record(at, f"run{seed}", "tlc, affine", rows(99.0, test), 2, seed, study="mnist")
    record(at, "clock", "clock", rows(1.0), 0, study="mnist")
    (row,) = chain(tlc.results(tmp_path)).to_dict("records")
    assert row == {
        "data": "mnist", "network": "width 4", "method (ranking, rule)": "tlc, affine", "seeds": 2,
        "with one more left, %": "99.00", "activations left": "16", "million MACs": "1.90",
        "test accuracy, %": "85.00 (80.00–90.00)", "thousand parameters": "5", "epochs": "2",
        "minutes": "1.0",
    }  # fmt: skip


def test_without_its_records_a_table_is_empty_and_a_table_is_markdown(data, tmp_path):
    assert all(make(tlc.results(tmp_path)).empty for make in TABLES.values())
    record((tmp_path, data), "one", "dense", [{"removed": 0, "macs": 5}], study="of another kind")
    assert all(make(tlc.results(tmp_path)).empty for make in TABLES.values())
    lines = ["| a | b c |", "| --- | --- |", "| 1 | x |", "| 2 | y |"]
    assert markdown(pd.DataFrame({"a": [1, 2], "b c": ["x", "y"]})).splitlines() == lines
