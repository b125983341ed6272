"""Bad input, by table: the right exception, one sentence, and nothing is changed.

Every public function meets every kind of wrong model and wrong data, then every number and name
out of its range; the command line meets its own.
"""

import shlex
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import digits, files, kept
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

import tlc_minimal as tlc
from tlc_minimal.__main__ import main
from tlc_minimal.data import Split

DATA = digits(40)
X = DATA.example


def network() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    second = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(
        *first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    ).eval()


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, y):
        return self.net(x + y)


class Branches(Two):
    def forward(self, x):
        return self.net(x) if x.sum() > 0 else self.net(-x)


class Tied(nn.Module):
    """Reads the weight of its first layer once more."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(192, 10), nn.Linear(10, 10)

    def forward(self, x):
        return F.linear(F.linear(F.relu(self.a(x.flatten(1))), self.a.weight.t()), self.a.weight)


def spoilt(value: float, key: str = "0.weight") -> nn.Module:
    model = network()
    model.state_dict()[key].view(-1)[0] = value
    return model


def shared() -> nn.Module:
    model = network()
    model[3] = nn.Conv2d(4, 4, 3, padding=1)
    model.insert(6, nn.Conv2d(4, 4, 3, padding=1))
    model[6].weight = model[3].weight
    return model.eval()


def hooked() -> nn.Module:
    model = network()
    model[0].register_forward_hook(lambda *_: None)
    return model


def pruned() -> nn.Module:
    model = network()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


READ = {  # functions of a model and inputs
    "find_layers": tlc.find_layers,
    "count": tlc.count,
    "statistics": tlc.statistics,
    "measured_statistics": tlc.measured_statistics,
}
CHANGE = {
    "linearize": lambda m, d: tlc.linearize(m, "2", d),
    "merge": tlc.merge,
    "explain": tlc.explain,
    "project": lambda m, d: tlc.project(m, "2", d),
}
TRAIN = {
    "rank": tlc.rank,
    "collapse": lambda m, d: tlc.collapse(m, d, 1, progress=False),
    "fit": lambda m, d: tlc.fit(m, d, 1, progress=None),
    "evaluate": tlc.evaluate,
    "compare": lambda m, d: tlc.compare({"m": m}, d),
}
FOLD = {"fold": lambda m, d: tlc.fold(m), "latency": lambda m, d: tlc.latency({"m": m}, X)}
INPUTS = READ | CHANGE  # a tensor, a DataLoader or a Data
MODELS = READ | CHANGE | TRAIN | FOLD

NO_MODELS = {
    "None": None, "number": 3, "word": "resnet18", "class": nn.ReLU,
    "weights": {"a": torch.ones(1)}, "function": torch.relu, "list": [nn.ReLU()],
}  # fmt: skip
WRAPPED = {
    "DataParallel": (lambda: nn.DataParallel(network()), "pass model.module"),
    "AveragedModel": (lambda: AveragedModel(network()), "pass model.module"),
    "compiled": (lambda: torch.compile(network()), "pass model._orig_mod"),
    "scripted": (lambda: torch.jit.script(network()), "pass the nn.Module"),
    "jit-traced": (lambda: torch.jit.trace(network(), X), "pass the nn.Module"),
}
CHANGED = {  # what a changed copy would lose
    "hook": (hooked, "remove()"),
    "prune": (pruned, "prune.remove"),
    "half": (lambda: network().half(), "model.float()"),
    "bfloat16": (lambda: network().bfloat16(), "model.float()"),
    "shared": (shared, "share their weight"),
    "NaN": (lambda: spoilt(torch.nan), "0.weight holds NaN"),
    "inf": (lambda: spoilt(torch.inf, "1.running_var"), "1.running_var holds NaN or inf"),
    "two inputs": (lambda: Two().eval(), "takes two inputs"),
    "branches": (lambda: Branches().eval(), "cannot be traced"),
    "read twice": (lambda: Tied().eval(), "a.weight once more"),
}
NO_INPUTS = {
    "None": (None, TypeError), "number": (3, TypeError), "word": ("digits", TypeError),
    "array": (X.numpy(), TypeError), "dict batches": ([{"image": X}], TypeError),
    "bytes": (DATA.train.images, TypeError), "token ids": (torch.ones(2, 3, dtype=int), TypeError),
    "NaN": (X * torch.nan, ValueError), "empty loader": ([], ValueError),
    "five channels": (torch.randn(2, 5, 8, 8), ValueError), "flat": (torch.randn(2, 3), ValueError),
}  # fmt: skip
LOADER = DataLoader(TensorDataset(X, torch.zeros(len(X), dtype=torch.long)), 8)


def with_labels(value: int) -> tlc.Data:
    return replace(DATA, train=Split(DATA.train.images, DATA.train.labels.clone().fill_(value)))


NO_DATA = {
    "None": (None, TypeError), "word": ("digits", TypeError), "tensor": (X, TypeError),
    "array": (X.numpy(), TypeError), "DataLoader": (LOADER, TypeError), "list": ([], TypeError),
    "label 10": (with_labels(10), ValueError), "label -1": (with_labels(-1), ValueError),
    "fewer labels": (replace(DATA, train=Split(DATA.train[0], DATA.train[1][1:])), ValueError),
    "two classes": (replace(DATA, classes=("a", "b")), ValueError),
}  # fmt: skip

CASES = []  # (id, call, model, exception, words)
for name, do in MODELS.items():
    for word, bad in NO_MODELS.items():
        CASES.append((f"{name}({word})", do, bad, DATA, TypeError, "nn.Module"))
    if name != "latency":
        for word, (make, words) in WRAPPED.items():
            CASES.append((f"{name}({word})", do, make, DATA, ValueError, words))
for name, do in (CHANGE | {"fold": FOLD["fold"], "collapse": TRAIN["collapse"]}).items():
    for word, (make, words) in CHANGED.items():
        if word == "read twice" and name == "linearize":
            continue  # it has no activation "2"
        CASES.append((f"{name}({word})", do, make, DATA, ValueError, words))
for name, do in INPUTS.items():
    for word, (bad, kind) in NO_INPUTS.items():
        CASES.append((f"{name}(…, {word})", do, network, bad, kind, ""))
for name, do in TRAIN.items():
    for word, (bad, kind) in NO_DATA.items():
        CASES.append((f"{name}(…, {word})", do, network, bad, kind, ""))
    wide = lambda: nn.Sequential(nn.Conv2d(7, 4, 3), *network()[1:])
    CASES.append((f"{name}(seven channels)", do, wide, DATA, ValueError, "7 channels"))
    CASES.append((f"{name}(one output)", do, lambda: network()[:-1], DATA, ValueError, "classes"))

OPTIONS = [  # (call with a model, exception, words)
    (lambda m: tlc.linearize(m, "3", X), ValueError, "there is no activation '3'"),
    (lambda m: tlc.linearize(m, ["2", "zz"], X), ValueError, "there is no activation 'zz'"),
    (lambda m: tlc.linearize(m, "2", X, rule="onoff"), ValueError, "there is no rule 'onoff'"),
    (lambda m: tlc.linearize(m, "2", X, padding="last"), ValueError, "padding is"),
    (lambda m: tlc.linearize(m, "2", {}), ValueError, "no statistics"),
    (lambda m: tlc.linearize(m, "2", {"2": 3}), ValueError, "no statistics"),
    (lambda m: tlc.linearize(m, "2", {"2": gaussian(4, torch.nan)}), ValueError, "NaN"),
    (lambda m: tlc.linearize(m, "2", {"2": gaussian(5)}), ValueError, "5 channels"),
    (lambda m: tlc.merge(m, X, keep="some"), ValueError, "keep is"),
    (lambda m: tlc.merge(m.train(), X), ValueError, "model.eval()"),
    (lambda m: tlc.rank(m, DATA, "best"), ValueError, "there is no ranking rule 'best'"),
    (lambda m: tlc.rank(m, DATA, replacement="zz"), ValueError, "there is no rule 'zz'"),
    (lambda m: tlc.rank(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), DATA), ValueError, "ReLU"),
    (lambda m: tlc.evaluate(m, DATA, "tset"), ValueError, "split is"),
    (lambda m: tlc.evaluate(m, DATA, batch=0), ValueError, "batch is"),
    (lambda m: tlc.evaluate(m, DATA, batch=-1), ValueError, "batch is"),
    (lambda m: tlc.evaluate(m, DATA, batch=2.5), TypeError, "batch is"),
    (lambda m: tlc.evaluate(m, DATA, limit=0), ValueError, "limit is"),
    (lambda m: tlc.evaluate(m, DATA, limit=-3), ValueError, "limit is"),
    (lambda m: tlc.evaluate(spoilt(torch.nan), DATA), ValueError, "0.weight holds NaN"),
    (lambda m: tlc.compare(m, DATA), TypeError, "dictionary"),
    (lambda m: tlc.compare([m], DATA), TypeError, "dictionary"),
    (lambda m: tlc.compare({}, DATA), ValueError, "at least one"),
    (lambda m: tlc.latency(m, X), TypeError, "dictionary"),
    (lambda m: tlc.latency({}, X), ValueError, "at least one"),
    (lambda m: tlc.latency({"m": m}, None), TypeError, "floats"),
    (lambda m: tlc.load_run(m, "no/such/run", 1), FileNotFoundError, "holds no run"),
    (lambda m: tlc.load_data("diggits"), ValueError, "No data set 'diggits'"),
    (lambda m: tlc.load_data("digits", size=0), ValueError, "size"),
    (lambda m: tlc.load_data("digits", size=-4), ValueError, "size"),
    (lambda m: DATA.subset(0), ValueError, "subset takes"),
    (lambda m: DATA.subset(10**6), ValueError, "subset takes"),
    (lambda m: DATA.normalize(X), ValueError, "uint8"),
    (lambda m: DATA.normalize(DATA.train.images[0]), ValueError, "uint8"),
    (lambda m: tlc.load_checkpoint("zz"), FileNotFoundError, "data/checkpoints"),
    (lambda m: tlc.resnet18(stem="weak"), ValueError, "stem is"),
    (lambda m: tlc.project(m, "zz", X), ValueError, "there is no activation 'zz'"),
    (lambda m: tlc.project(m, "2", X, kernel=0), ValueError, "kernel"),
    (lambda m: tlc.project(m, "2", X, images=0), ValueError, "images"),
    (lambda m: tlc.project(m, "2", X, ridge=-1), ValueError, "ridge"),
    (lambda m: tlc.project(m, [], X), ValueError, "give names"),
]
NUMBERS = [
    ("remove", 0), ("remove", 3), ("remove", -1), ("remove", 1.5), ("remove", None),
    ("remove", True), ("epochs", 0), ("epochs", -1), ("epochs", "3"), ("epochs", torch.nan),
    ("seed", -1), ("seed", 1.5), ("method", "best"), ("method", None), ("rank", "best"),
    ("rule", "best"), ("padding", "last"), ("keep", "some"), ("distil", 3), ("lr", 0),
    ("lr", "x"), ("batch", 0), ("batch", 1), ("weight_decay", -1), ("smoothing", 1),
    ("schedule", "zz"), ("zz", 1), ("progress", 3),
]  # fmt: skip
for key, value in NUMBERS:
    do = lambda m, key=key, value=value: tlc.collapse(
        m, DATA, **{"remove": 1, "method": "one_by_one", "progress": False} | {key: value}
    )
    OPTIONS.append((do, (ValueError, TypeError), "" if value in (1, "zz") else key[:4]))
    if key in ("epochs", "lr", "batch", "weight_decay", "smoothing", "schedule", "seed"):
        do = lambda m, key=key, value=value: tlc.fit(m, DATA, progress=None, **{key: value})
        OPTIONS.append((do, (ValueError, TypeError), key))


def gaussian(channels: int, mean: float = 1.0) -> tlc.Gaussian:
    return tlc.Gaussian(torch.full((channels,), mean), torch.ones(channels))


def check(do, kind, words: str, model) -> None:
    """One sentence of the right kind; and the model, if it is one, is as it was."""
    before = kept(model) if isinstance(model, nn.Module) else None
    modes = [m.training for m in model.modules()] if before is not None else None
    with pytest.raises(kind) as caught:
        do()
    text = str(caught.value)
    assert words in text and 10 < len(text) <= 300 and "\n" not in text, text
    if before is not None:
        after = kept(model)
        assert all(torch.equal(v.nan_to_num(7), after[k].nan_to_num(7)) for k, v in before.items())
        assert words == "model.eval()" or modes == [m.training for m in model.modules()]


def test_there_are_enough_of_them():
    assert len(CASES) + len(OPTIONS) >= 250 and len(COMMANDS) >= 60


@pytest.mark.parametrize(("do", "model", "data", "kind", "words"), [c[1:] for c in CASES],
                         ids=[c[0] for c in CASES])  # fmt: skip
def test_a_wrong_model_or_wrong_data(do, model, data, kind, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    makes = callable(model) and not isinstance(model, type) and model is not torch.relu
    model = model() if makes else model
    check(lambda: do(model, data), kind, words, model)
    assert not files(tmp_path)


@pytest.mark.parametrize(("do", "kind", "words"), OPTIONS, ids=range(len(OPTIONS)))
def test_a_wrong_option(do, kind, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = network()
    check(lambda: do(model), kind, words, model)
    assert not files(tmp_path)


# ---- the command line ----

COMMANDS = [
    f"collapse --data digits --out OUT --network simple_cnn --width 2 {option} {value}"
    for option, values in {
        "--remove": "0 -1 99 x 1.5", "--epochs": "0 -1 nan inf x", "--dense-epochs": "0 -1 nan x",
        "--seed": "-1 x 1.5", "--method": "tlc best ''", "--network": "vgg ''",
        "--rank": "best", "--rule": "onoff", "--width": "0 -4 x",
        "--macs": "0.5", "--speedup": "2", "--zz": "1", "--method random --rank": "tlc",
        "--method project --macs": "0 1 2 -1 nan x", "--method project --speedup": "0 1 -2 nan x",
        "--method project --macs 0.5 --speedup": "2", "--method project --remove 2 --macs": "0.5",
        "--method project --rank": "tlc", "--method egp --remove": "12 0",
    }.items()
    for value in values.split()
]  # fmt: skip
COMMANDS += [
    "collapse --data diggits --out OUT", "collapse --data '' --out OUT",
    "collapse --data FILE --out OUT",
    "collapse --out OUT", "collapse --data digits", "collapse --data digits --out FILE",
    "collapse --data digits --out FILE/run", "collapse --data EMPTY --out OUT",
    "demo --out FILE", "demo --out FILE/run", "demo --epochs 0 --out OUT",
    "demo --tune 0 --out OUT",
    "demo --epochs x --out OUT", "demo --tune nan --out OUT", "demo zz", "report", "report OUT",
    "report FILE", "report EMPTY", "reproduce --profile fast --out OUT --folder OUT",
    "bench --profile fast --out OUT --folder OUT", "bench --profile smoke --only vgg --out OUT",
    "table zz", "doctor zz", "zz", "collapse zz", "--zz",
]  # fmt: skip


@pytest.fixture(scope="module")
def small_digits():
    return digits(40)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_wrong_command(arguments, small_digits, tmp_path, monkeypatch, capsys):
    load = tlc.load_data
    monkeypatch.setattr(tlc, "load_data", lambda n: small_digits if n == "digits" else load(n))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    for name in ("OUT", "FILE", "EMPTY"):
        arguments = arguments.replace(name, str(tmp_path / name.lower()))
    monkeypatch.setattr(sys, "argv", ["tlc_minimal", *shlex.split(arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    code, said = stopped.value.code, capsys.readouterr()
    if code == 2:  # typer's own: what is wrong with the option, in a box
        assert "Error" in said.err and "Traceback" not in said.err
    else:
        assert isinstance(code, str) and code.startswith("tlc_minimal: ") and len(code) <= 300
        assert "\n" not in code
    assert files(tmp_path) == before
