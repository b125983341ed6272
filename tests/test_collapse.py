"""The loop: its table, what it keeps, and that everything is checked before anything is done."""

import copy
import importlib
import json
import math

import numpy as np
import pytest
import torch
from helpers import digits, files, kept, randomize, refused, same
from torch import nn

import tlc_minimal as tlc

module = importlib.import_module("tlc_minimal.collapse")
COLUMNS = [
    "removed", "layer", "off", "error", "val_loss", "val_before", "val", "test", "activations",
    "relu_units", "layers", "macs", "params", "macs_cut", "epochs", "seconds", "images_per_s",
]  # fmt: skip
HOW = dict(epochs=1.5, batch=50, keep="all", progress=False)


@pytest.fixture(scope="module")
def data():
    return digits(200)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomize(tlc.simple_cnn(width=4), dtype=torch.float32)


@pytest.fixture(scope="module")
def finished(model, data, tmp_path_factory):
    """An uninterrupted run of three removals, one by one, never to be written to."""
    out = tmp_path_factory.mktemp("runs") / "full"
    return tlc.collapse(model, data, 3, method="one_by_one", rank="gaussian", out=out, **HOW)


# ---- the table ----


def test_one_row_a_removal_with_every_column(finished):
    table = finished.table
    assert list(table["removed"]) == [0, 1, 2, 3] and sorted(table) == sorted(COLUMNS)
    assert list(table["activations"]) == [6, 5, 4, 3]
    assert table["layer"].iloc[1:].nunique() == 3 and table["off"].between(0, 1).all()
    assert table["macs"].is_monotonic_decreasing and table["macs"].nunique() > 1
    assert (table["macs_cut"] == table["macs"]).all(), "what is constant was cut at once"
    assert list(table["epochs"]) == [0, 0.5, 0.5, 0.5] and (table["seconds"].iloc[1:] > 0).all()
    assert math.isnan(table["images_per_s"][0]) and (table["images_per_s"][1:] > 0).all()


def test_the_default_is_one_long_tuning_after_all_at_once(model, data, tmp_path):
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fit", lambda *a, **k: asked.append((a, k)))
        run = tlc.collapse(model, data, 2, out=tmp_path, progress=False)
    ((_, _, epochs), how), *more = asked
    assert not more and epochs == 12 and how.pop("lr") == 0.05
    assert how.pop("state") == tmp_path / "stage_01.state" and how.pop("seed") == 1
    assert same(how.pop("teacher"), model) and how == {"progress": None}
    assert list(run.table["removed"]) == [0, 2] and run.table["layer"][1].count(", ") == 1


@pytest.mark.parametrize("distil", [True, False])
def test_the_dense_model_teaches_unless_it_must_not(distil, model, data, tmp_path, monkeypatch):
    taught = []
    monkeypatch.setattr(module, "fit", lambda *a, teacher, **k: taught.append(teacher))
    how = HOW | {"distil": distil}
    tlc.collapse(model, data, 2, method="one_by_one", rank="random", out=tmp_path, **how)
    assert len(taught) == 2 and all((t is not None) == distil for t in taught)
    assert all(t is None or same(t, model) for t in taught)


def test_the_recipe_reaches_every_tuning(model, data, tmp_path, monkeypatch):
    recipe = {"lr": 0.01, "batch": 32, "weight_decay": 0.0, "smoothing": 0.1, "schedule": "steps"}
    asked = []
    monkeypatch.setattr(module, "fit", lambda *a, **how: asked.append(how))
    ask = dict(method="one_by_one", rank="random", seed=7, progress=False)
    tlc.collapse(model, data, 2, 1, out=tmp_path, **ask, **recipe)
    assert [{k: how[k] for k in recipe} for how in asked] == [recipe] * 2
    assert [how["seed"] for how in asked] == [7001, 7002]


def test_the_last_row_describes_the_model(finished, data):
    last = finished.table.iloc[-1]
    score = tlc.evaluate(finished.linear, data)
    assert last["val"] == pytest.approx(score.accuracy)
    assert last["val_loss"] == pytest.approx(score.loss, rel=1e-5)
    assert last["test"] == pytest.approx(tlc.evaluate(finished.linear, data, "test").accuracy)
    for name, value in tlc.count(finished.linear, data).items():
        assert last[name] == value


def test_every_row_has_its_test_accuracy(finished, model, data):
    for step, accuracy in enumerate(finished.table["test"]):
        step_model = tlc.load_run(model, finished.folder, step)
        assert accuracy == pytest.approx(tlc.evaluate(step_model, data, "test").accuracy)


def test_the_test_split_is_touched_only_after_the_last_removal(model, data, tmp_path, monkeypatch):
    splits = []

    def watch(candidate, data, split="val"):
        splits.append(split)
        return tlc.evaluate(candidate, data, split)

    monkeypatch.setattr(module, "evaluate", watch)
    tlc.collapse(model, data, 2, method="one_by_one", rank="random", out=tmp_path, **HOW)
    assert splits == ["val"] * 5 + ["test"] * 3


def test_the_merged_model_computes_the_same(finished, data):
    x = data.normalize(data.val.images)
    with torch.no_grad():
        torch.testing.assert_close(finished.model(x), finished.linear(x), rtol=1e-4, atol=1e-4)
    assert finished.model.meta["merges"], "what was tried is told"
    assert not any(isinstance(m, nn.BatchNorm2d) for m in finished.model.modules())


def test_the_layer_removed_is_the_one_ranked_first(finished, model, data):
    first = next(iter(tlc.rank(model, data, "gaussian", seed=1)))
    assert finished.table["layer"].iloc[1] == first
    assert first not in {n for n, _ in finished.linear.named_modules()}


def test_the_given_model_is_unmodified(data, tmp_path):
    torch.manual_seed(1)
    model = randomize(tlc.simple_cnn(width=2), 1, torch.float32).train()
    before = kept(model)
    run = tlc.collapse(model, data.subset(60), 1, 0.5, rank="random", out=tmp_path, progress=False)
    assert same(tlc.load_run(model, tmp_path, 1), run.linear)
    assert same(model, before)
    assert all(m.training for m in model.modules()) and not run.model.training


def test_a_temporary_folder_is_made_where_none_is_given(model, data):
    run = tlc.collapse(model, data, 1, rank="random", **HOW)
    assert len(run.table) == 2 and (run.folder / "run.json").exists()


def test_the_home_is_a_home(model, data, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    run = tlc.collapse(model, data, 1, out="~/x/run", rank="random", **HOW)
    assert run.folder == tmp_path / "home/x/run" and (run.folder / "run.json").exists()
    assert same(tlc.load_run(model, "~/x/run", 1), run.linear)
    assert not list((tmp_path / "here").iterdir())


def test_numbers_of_any_library_are_numbers(model, data, tmp_path):
    ask = dict(remove=np.int64(2), epochs=np.float32(1.5), seed=np.int32(0), lr=np.float64(0.02))
    ask |= dict(method="one_by_one", rank="random", batch=np.int64(50), keep="all", progress=False)
    run = tlc.collapse(model, data, **ask, out=tmp_path)
    ask |= dict(remove=2, epochs=1.5, seed=0, lr=0.02, batch=50)
    again = tlc.collapse(model, data, **ask, out=tmp_path, resume=True)
    assert again.table.equals(run.table)


# ---- what a folder holds is taken up ----


def test_a_finished_run_is_read_not_repeated(finished, model, data, monkeypatch):
    before = files(finished.folder)
    for name in ("fit", "save_weights"):
        monkeypatch.setattr(module, name, None)  # nothing may be tuned any more
    how = dict(method="one_by_one", rank="gaussian", out=finished.folder, resume=True)
    again = tlc.collapse(model, data, 3, **how, **HOW)
    assert again.table.equals(finished.table) and same(again.linear, finished.linear)
    assert files(finished.folder) == before


def test_an_existing_run_is_not_overwritten(finished, model, data):
    how = dict(method="one_by_one", rank="gaussian", out=finished.folder)
    with refused(FileExistsError, "already holds a run: pass resume=True", finished.folder):
        tlc.collapse(model, data, 3, **how, **HOW)


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("seed", dict(seed=1)), ("options", dict(rule="affine")), ("options", dict(rank="tlc")),
        ("epochs", dict(epochs=2)), ("tuning", dict(lr=0.1)), ("tuning", dict(distil=False)),
        ("method", dict(method="at_once")), ("remove", dict(remove=2)), ("remove", dict(remove=4)),
        ("model", {}), ("train", {}), ("data", {}),
    ],
)  # fmt: skip
def test_a_run_with_other_settings_is_not_resumed(word, other, finished, model, data):
    ask = dict(remove=3, method="one_by_one", rank="gaussian", model=model, data=data) | HOW | other
    if word == "model":
        ask["model"] = randomize(tlc.simple_cnn(width=4), 5, torch.float32)
    if word == "train":
        ask["data"] = data.subset(99)
    if word == "data":
        ask["data"] = tlc.Data(**vars(data) | {"sha256": "0"})
    with refused(ValueError, f"another .*{word}.*: nothing was changed", finished.folder):
        tlc.collapse(**ask, out=finished.folder, resume=True)


def test_a_tuning_that_explodes_leaves_a_run_that_can_be_read(model, data, tmp_path):
    how = HOW | dict(lr=1e30, rank="random")
    with pytest.raises(FloatingPointError, match="lower lr"):
        tlc.collapse(model, data, 1, out=tmp_path, **how)
    assert len(json.loads((tmp_path / "run.json").read_text())["rows"]) == 1
    with pytest.raises(ValueError, match="another tuning"):
        tlc.collapse(model, data, 1, out=tmp_path, resume=True, **how | {"lr": 0.01})


# ---- everything is checked before anything is trained or written ----

NAN, INF = float("nan"), float("inf")
CALLS = [
    *[(ValueError, "remove is 1 to 6", dict(remove=n)) for n in (0, -1, 7, 99)],
    *[(TypeError, "remove is 1 to 6", dict(remove=n)) for n in (1.5, "2", True, None, NAN, [1])],
    *[(ValueError, "epochs is a number above 0", dict(epochs=n)) for n in (0, -1, NAN, INF)],
    *[(TypeError, "epochs is a number above 0", dict(epochs=n)) for n in ("3", None, True)],
    *[(ValueError, "seed is a whole number", dict(seed=n)) for n in (-1, 2**32, 2**99)],
    *[(TypeError, "seed is a whole number", dict(seed=n)) for n in (None, 1.5, "0", True)],
    *[(ValueError, "lr is a number above 0", dict(lr=n)) for n in (0, -1, NAN)],
    (TypeError, "lr is a number above 0", dict(lr="x")),
    (ValueError, "at least two images", dict(batch=1)),
    (ValueError, "batch is a whole number", dict(batch=0)),
    (TypeError, "batch is a whole number", dict(batch=1.5)),
    (ValueError, "weight_decay is a number, 0", dict(weight_decay=-1)),
    (ValueError, "smoothing is a number from 0", dict(smoothing=1)),
    (ValueError, "no schedule 'cosin'; there are: cosine", dict(schedule="cosin")),
    *[(ValueError, "no method .*; there are: at_once,", dict(method=m)) for m in ("best", None, 1)],
    (ValueError, "no ranking rule 'best'; there are: tlc", dict(rank="best")),
    (ValueError, "no rule 'off'; there are: on_off", dict(rule="off")),
    (ValueError, "no rule 'published'; there are: on_off", dict(rule="published")),
    (ValueError, "padding is 'first' or", dict(padding="last")),
    (ValueError, "keep is 'fastest' or", dict(keep="most")),
    (TypeError, "at_once takes no 'rnak'; it takes: rank", dict(rnak="tlc")),
    (TypeError, "at_once takes no 'gradual'", dict(gradual=3)),
    (TypeError, "random takes no 'rank'; it takes: rule", dict(method="random", rank="tlc")),
    (TypeError, "one_by_one takes no 'again'", dict(method="one_by_one", again=True)),
    *[(TypeError, f"at_once takes no '{k}'", {k: None}) for k in ("teacher", "state")],
    *[(TypeError, f"{k} is True or False", {k: "no"}) for k in ("again", "distil", "progress")],
    *[(ValueError, f"{k} is a", {"method": "project", k: -1}) for k in ("kernel", "ridge")],
    *[(ValueError, f"{k} is a", {"method": "project", k: 0}) for k in ("images", "trial")],
    *[(TypeError, f"{k} is a", {"method": "project", k: "x"}) for k in ("kernel", "ridge")],
    (TypeError, "data are a Data, as load_data gives it, not NoneType", dict(data=None)),
    (TypeError, "data are a Data, as load_data gives it, not str", dict(data="digits")),
    (TypeError, "a model is an nn.Module, not str", dict(model="resnet18")),
]


def check_refused(kind, words, call, model, data, folder):
    """One sentence of the right kind, before anything is trained, and nothing is left."""
    call = dict(remove=1, out=folder / "run", model=model, data=data) | call
    with pytest.MonkeyPatch.context() as patch, refused(kind, words, folder):
        patch.setattr(module, "fit", None)
        tlc.collapse(**call)


@pytest.mark.parametrize(("kind", "words", "call"), CALLS, ids=lambda v: str(v)[:40])
def test_a_wrong_call_is_one_sentence_and_leaves_nothing(kind, words, call, model, data, tmp_path):
    check_refused(kind, words, call, model, data, tmp_path)


def conv(channels, flat, classes=10):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(flat, classes)
    )


class Hidden(nn.Module):
    """Branches on the values of its input."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 10)

    def forward(self, x):
        y = self.fc(x.flatten(1))
        return y.relu() if y.sum() > 0 else y


MODELS = {
    "five channels": (conv(5, 144), r"does not accept an example of shape \(2, 3, 8, 8\)"),
    "another size": (conv(3, 100), r"does not accept an example of shape \(2, 3, 8, 8\): "),
    "two classes": (conv(3, 144, 2), r"output is of shape \(2, 2\), and the data are of 10 clas"),
    "thousand classes": (conv(3, 144, 1000), r"output is of shape \(2, 1000\), and the data are"),
    "no classes": (nn.Sequential(nn.Conv2d(3, 10, 1), nn.ReLU()), r"output is of shape \(2, 10, 8"),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), "no activation that can go"),
    "untraceable": (Hidden(), "Hidden cannot be traced"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["at_once", "published"])
def test_a_model_that_cannot_be_collapsed_is_refused(name, method, data, tmp_path, capfd):
    model, words = MODELS[name]
    before = kept(model)
    call = dict(method=method) | ({"rank": "tlc"} if method == "at_once" else {})
    with refused(ValueError, words, tmp_path):
        tlc.collapse(model, data, 1, out=tmp_path / "run", **call)
    assert capfd.readouterr().err == "", "torch's own lines are not for a reader"
    assert model.training and same(model, before)


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("where", ["conv3.weight", "bn2.running_var"])
def test_a_model_that_is_not_finite_is_refused_by_name(bad, where, model, data, tmp_path):
    ruined = copy.deepcopy(model)
    ruined.state_dict()[where].view(-1)[1] = bad
    words = rf"{where} holds NaN or inf: train the model again"
    check_refused(ValueError, words, dict(model=ruined), model, data, tmp_path)


@pytest.mark.parametrize(
    ("method", "remove", "words"),
    [
        ("lacoot_without_regulariser", 1, "drops residual blocks, and this model has none"),
        ("layer_folding", 1, "learns slopes of rectifiers, and 2 is GELU"),
        ("published", 1, "2 follows no convolution with a batch norm"),
        ("egp", 17, "egp can empty the 9 activations of this model"),
    ],
)
def test_what_a_method_cannot_do_is_refused(method, remove, words, data, tmp_path):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.GELU(), nn.Linear(9, 10))
    model = tlc.resnet18(width=2) if method == "egp" else plain
    check_refused(ValueError, words, dict(remove=remove, method=method), model, data, tmp_path)


@pytest.mark.parametrize("out", ["file", "file/run", "file/a/b"])
def test_a_folder_that_cannot_be_is_refused(out, model, data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(module, "fit", None)
    words = rf"{out} cannot be written \(.*\): make room, or choose a folder that can be written"
    with pytest.raises(OSError, match=words) as caught:
        tlc.collapse(model, data, 1, rank="random", out=tmp_path / out)
    assert len(str(caught.value)) < 300 and files(tmp_path) == {"file": b"mine"}


def test_what_is_given_twice_is_pythons_own_error(model, data, tmp_path):
    with pytest.raises(TypeError, match="multiple values for .*epochs"):
        tlc.collapse(model, data, 1, 2, **{"epochs": 3}, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_several_processes_are_refused_in_one_sentence(model, data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refused(RuntimeError, "one of 2 processes, .* runs in one", tmp_path):
        tlc.collapse(model, data, 1, out=tmp_path / "run")
    for alone in ("1", ""):
        monkeypatch.setenv("WORLD_SIZE", alone)
        tlc.collapse(model, data, 1, out=tmp_path / f"run{alone}", rank="random", **HOW)
