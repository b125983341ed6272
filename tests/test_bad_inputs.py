"""Bad input, by table: the right exception, one sentence, and nothing is changed.

Every public function meets every kind of wrong model and wrong data, then every number and name
out of its range; the command line meets its own. What is left alone: tests/test_merge.py.
"""

import copy
import functools
import os
import shlex
from dataclasses import replace
from itertools import chain, product
from unittest.mock import patch

import helpers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Net, digits, files, gives_up, kept, perceptron, refused, same, untrained
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

import tlc_minimal as tlc
from tlc_minimal.data import Split
from tlc_minimal.files import digest
from tlc_minimal.lessons import kernels
from tlc_minimal.lessons.corruptions import corrupt
from tlc_minimal.lessons.robust import agreement, auroc, calibration_error
from tlc_minimal.lessons.transformers import load_text
from tlc_minimal.methods.published import published_statistics
from tlc_minimal.train import check_recipe

DATA = digits(40)
X, BYTES = DATA.example, DATA.train.images
NAN, INF = float("nan"), float("inf")


network = functools.partial(helpers.chain, 2)  # its activations are "2" and "5"


def tied(net, x):
    """Reads the weight of its first layer once more."""
    return F.linear(F.linear(F.relu(net.a(x.flatten(1))), net.a.weight.t()), net.a.weight)


def changed(*edits) -> nn.Sequential:
    """The network after these edits in place."""
    model = network()
    for edit in edits:
        edit(model)
    return model.eval()


def spoilt(value: float, key: str = "0.weight") -> nn.Module:
    return changed(lambda m: m.state_dict()[key].view(-1)[0:1].fill_(value))


READ = {n: getattr(tlc, n) for n in ("find_layers", "count", "statistics", "measured_statistics")}
CHANGE = {n: lambda m, d, n=n: getattr(tlc, n)(m, "2", d) for n in ("linearize", "project")}
CHANGE |= {"merge": tlc.merge, "explain": tlc.explain}
TRAIN = {"fit": lambda m, d: tlc.fit(m, d, 1, progress=None), "rank": tlc.rank}
TRAIN |= {"collapse": lambda m, d: tlc.collapse(m, d, 1, progress=False)}
TRAIN |= {"compare": lambda m, d: tlc.compare({"m": m}, d), "evaluate": tlc.evaluate}
FOLD = {"fold": lambda m, d: tlc.fold(m), "latency": lambda m, d: tlc.latency({"m": m}, X)}
COPIED = CHANGE | {"fold": FOLD["fold"], "collapse": TRAIN["collapse"]}
PUBLISHED = {"published": lambda m, d: tlc.collapse(m, d, 1, method="published", progress=False)}

NO_MODELS = {
    "None": None, "number": 3, "word": "resnet18", "class": nn.ReLU,
    "weights": {"a": torch.ones(1)}, "function": torch.relu, "list": [nn.ReLU()],
}  # fmt: skip
WRAPPED = {  # made once, for it takes long; scripting mistakes a list for a builtin, now and then
    "DataParallel": (lambda: nn.DataParallel(network()), "pass model.module"),
    "AveragedModel": (lambda: AveragedModel(network()), "pass model.module"),
    "compiled": (functools.cache(lambda: torch.compile(network())), "pass model._orig_mod"),
    "scripted": (functools.cache(lambda: torch.jit.script(nn.ReLU())), "pass the nn.Module"),
    "jit-traced": (functools.cache(lambda: torch.jit.trace(network(), X)), "pass the nn.Module"),
}
WRAPPED |= {f"{k} inside": (lambda make=make: nn.Sequential(make()), words.replace("model", "0"))
            for k, (make, words) in WRAPPED.items()}  # fmt: skip
CHANGED = {  # what a changed copy would lose
    "hook": (lambda: changed(lambda m: m[2].register_forward_hook(print)), r"remove\(\)"),
    "prune": (lambda: changed(lambda m: prune.l1_unstructured(m[0], "weight", 0.5)),
              r"prune\.remove"),
    "half": (lambda: network().half(), r"model\.float\(\)"),
    "bfloat16": (lambda: network().bfloat16(), r"model\.float\(\)"),
    "shared": (lambda: changed(lambda m: m.insert(6, nn.Conv2d(4, 4, 3, padding=1)),
                               lambda m: setattr(m[6], "weight", m[3].weight)),
               "share their weight"),
    "forward": (lambda: changed(lambda m: setattr(m[0], "forward", m[0]._conv_forward)),
                "forward of 0 was replaced"),
    "NaN": (lambda: spoilt(NAN), "0.weight holds NaN or inf: train the model again"),
    "inf": (lambda: spoilt(INF, "1.running_var"), "1.running_var holds NaN or inf"),
    "two inputs": (lambda: nn.Bilinear(3, 3, 10).eval(), "takes two inputs"),
    "branches": (lambda: Net(lambda net, x: net.b(x if x.sum() > 0 else -x), b=network()).eval(),
                 r"Net cannot be traced .*test_bad_inputs\.py, line"),
    "weight norm": (lambda: changed(lambda m: weight_norm(m[0])),
                    "0 carries a hook or a parametrization.*remove_parametrizations"),
    "read twice": (lambda: Net(tied, a=nn.Linear(192, 10)).eval(), "a.weight once more"),
}  # fmt: skip
MODES = {  # what merging cannot do
    "in training mode": (lambda: network().train(), r"training mode.*model\.eval\(\)"),
    "a norm in it": (lambda: network().append(nn.BatchNorm1d(10)), r"10 is in training mode.*eval"),
}  # fmt: skip
NO_INPUTS = {
    "None": (None, TypeError, "input is needed, not None"), "number": (3, TypeError, "int"),
    "word": ("digits", TypeError, "str"), "array": (X.numpy(), TypeError, "is needed, not ndarray"),
    "dict batches": ([{"image": X}], TypeError, "floats, not dict"),
    "numbers": ([1, 2], TypeError, "floats, not int"),
    "bytes": (BYTES, TypeError, "floats, .*uint8"), "NaN": (X * NAN, ValueError, "NaN"),
    "token ids": (torch.ones(2, 3, dtype=int), TypeError, "floats"),
    "empty loader": ([], ValueError, "yields nothing: give at least one b"),
    "empty": (X[:0], ValueError, "no inputs"), "one": (X[0], ValueError, r"batch, not .*3, 8, 8"),
    "five channels": (torch.randn(2, 5, 8, 8), ValueError, "does not accept an example of shape"),
    "flat": (torch.randn(2, 3), ValueError, "does not accept an example of shape"),
}  # fmt: skip
LOADER = DataLoader(TensorDataset(X, torch.zeros(len(X), dtype=torch.long)), 8)
LABELS = DATA.train.labels
with_labels = lambda labels: replace(DATA, train=Split(DATA.train.images, labels))
ONES, PAIR = torch.ones(2, 3, 8, 8), torch.arange(2)
NO_LOADERS = [
    (3, TypeError, "batches of .images, labels., two tensors, and int does not"),
    ([ONES], TypeError, "list does not: wrap"), ([], ValueError, "yields nothing: give"),
    ([(-ONES, PAIR)], ValueError, "Normalize"), ([(X[:2], PAIR)], ValueError, "Normalize"),
    ([(ONES * NAN, PAIR)], ValueError, "or inf"), ([(ONES[0, 0, :2], PAIR)], ValueError, "H, W"),
    ([(ONES, torch.rand(2, 4))], ValueError, "whole"), ([(ONES, -PAIR)], ValueError, "from 0 on"),
    ([(ONES[..., :0], PAIR)], ValueError, "H, W"), ([(ONES, PAIR - 9)], ValueError, "from -9 on"),
    ([(ONES[:1], PAIR[:1])], ValueError, "batch norm needs two training images"),
    ([(ONES, 10**9 * PAIR)], ValueError, "from 0 on"), ([(ONES[0], PAIR[0])], ValueError, "batch"),
    ([(ONES, PAIR), (ONES[..., 1:], PAIR)], ValueError, "of one size, not of {.*8, 7"),
]  # fmt: skip
STRANGERS = {"None": None, "word": "digits", "tensor": X, "array": X.numpy(), "list": []}
STRANGERS |= {"DataLoader": LOADER}
SAID = "data are a Data, as load_data gives it, not"
NO_DATA = {k: (bad, TypeError, SAID) for k, bad in STRANGERS.items()} | {
    "label 10": (with_labels(0 * LABELS + 10), ValueError, "train has the label 10, and the cl"),
    "label -1": (with_labels(0 * LABELS - 1), ValueError, "train has the label -1, and the cl"),
    "fewer labels": (with_labels(LABELS[1:]), ValueError, "train has 40 images and 39 labels"),
    "short labels": (with_labels(LABELS.int()), ValueError, r"int64, one an im.*not torch\.int32"),
    "one-hot labels": (with_labels(LABELS[:, None]), ValueError, r"one an image, not .*\(40, 1\)"),
    "another size": (replace(DATA, test=DATA.test._replace(images=DATA.test.images[..., 1:])),
                     ValueError, r"test has images of \(1, 8, 7\), train of \(1, 8, 8\)"),
    "two classes": (replace(DATA, classes=("a", "b")), ValueError, "label 9.* classes are 0 to 1"),
}  # fmt: skip
conv = lambda channels, flat, classes=10: nn.Sequential(
    nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(flat, classes)
)
UNFIT = {  # models that do not take the data, in train mode
    "five channels": (conv(5, 144), r"takes images of 5 channels|example of shape \(2, 3, 8, 8\)"),
    "another size": (conv(3, 100), r"does not accept an example of shape \(2, 3, 8, 8\): "),
    "two classes": (conv(3, 144, 2), r"output is of shape \(2, 2\), and the data are of 10 clas"),
    "thousand": (conv(3, 144, 1000), r"output is of shape \(2, 1000\), and the data are of 10"),
    "no classes": (nn.Sequential(nn.Conv2d(3, 10, 1), nn.ReLU()), r"is of shape \(2, 10, 8"),
}
NO_ACTIVATION = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
GELU = nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.GELU(), nn.Linear(9, 10))

CASES = []  # (id, call, model, data, exception, words)
for (name, do), (k, bad) in product((READ | CHANGE | TRAIN | FOLD).items(), NO_MODELS.items()):
    CASES.append((f"{name}({k})", do, bad, DATA, TypeError, r"nn\.Module"))
ON_MODELS = (READ | TRAIN | COPIED, WRAPPED), (COPIED, CHANGED), (TRAIN | PUBLISHED, UNFIT)
ON_MODELS += (({"merge": tlc.merge}, MODES),)
for (name, do), (k, (make, words)) in chain(*(product(a.items(), b.items()) for a, b in ON_MODELS)):
    if (k, name) != ("read twice", "linearize"):  # it has no activation "2"
        CASES.append((f"{name}({k})", do, make, DATA, ValueError, words))
for does, wrong in ((READ | CHANGE, NO_INPUTS), (TRAIN, NO_DATA)):
    for (name, do), (k, (bad, kind, words)) in product(does.items(), wrong.items()):
        CASES.append((f"{name}(…, {k})", do, network, bad, kind, words))


def assigns(net, x):
    y = net.a(x)
    y[1:] = y[:-1]
    return y


twice = lambda n: nn.Sequential(layer := nn.Conv2d(n, n, 1), nn.ReLU(), layer).eval()
lazy = lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
on_meta = lambda: network().to("meta")
AT_HOME, APART = (patch.dict(os.environ, d) for d in ({"HOME": "."}, {"WORLD_SIZE": "abc"}))
conv3 = lambda padding, stride=1: nn.Conv2d(4, 4, 3, stride, padding)
slopes = lambda n: nn.Sequential(nn.Linear(2, 3), nn.PReLU(n), nn.Linear(3, 2)).eval()
gaussian = lambda n, mean=1.0: tlc.Gaussian(torch.full((n,), mean), torch.ones(n))
OPTIONS = [  # (call with a model, exception, words)
    (lambda m: tlc.linearize(m, "3", X), ValueError, "there is no activation '3'"),
    (lambda m: tlc.linearize(m, ["2", "zz"], X), ValueError, "no activation 'zz'.*there are: 2, 5"),
    (lambda m: tlc.linearize(tlc.resnet18(width=2), "layer3.0.rel1", X), ValueError,
     "there is no activation 'layer3.0.rel1' .* did you mean 'layer3.0.relu1'"),
    (lambda m: tlc.linearize(m, "2", X, "off"), ValueError, "'off'; there are: on_off, .*thrifty"),
    (lambda m: tlc.linearize(m, "2", X, padding="x"), ValueError, "no padding 'x'; there are: fir"),
    (lambda m: tlc.linearize(twice(3), "1", X), ValueError, "0 is called more than once"),
    *[(lambda m, d=d: CHANGE["linearize"](m, d), ValueError, "no stat") for d in ({}, {"2": 3})],
    *[(lambda m, do=do, n=n: do(m, n, X), TypeError, "names are those of activations, one or sev")
      for do in (tlc.linearize, tlc.project) for n in (None, 3, b"2", [["2"]])],
    *[(lambda m, do=do: do(lazy(), DATA), ValueError, "0 has no shape yet .LazyConv2d.: run it")
      for do in (READ | TRAIN | COPIED).values()],
    *[(lambda m, do=do: do(on_meta(), DATA), ValueError, "0.weight holds no numbers .device meta.")
      for do in (TRAIN | COPIED | FOLD | {"": tlc.statistics}).values()],
    (lambda m: tlc.measured_statistics(on_meta(), DATA), ValueError, "0.weight holds no numbers"),
    *[(lambda m, n=n: torch.no_grad()(TRAIN[n])(m, DATA), ValueError, "gradients are off here")
      for n in ("fit", "collapse")],
    (lambda m: tlc.find_layers(Net(assigns, a=m), X), ValueError, "torch.cat or torch.where"),
    (lambda m: tlc.measured_statistics(m, (X, PAIR)), TypeError, "give them without labels"),
    *[(lambda m, n=n: TRAIN[n](m.requires_grad_(False), DATA), ValueError, "no parameter learns: ")
      for n in ("fit", "collapse")],
    (lambda m: tlc.fit(m, DATA, 1, state="/dev/null/x"), FileExistsError, "cannot be written"),
    (lambda m: tlc.fit(network().half(), DATA, 1), ValueError, r"0.weight is in float16.*\.float"),
    (lambda m: tlc.explain(m, iter([X])), ValueError, "once .an iterator. is used up"),
    (lambda m: tlc.linearize(m, "2", {"2": gaussian(4, NAN)}), ValueError, "NaN"),
    (lambda m: tlc.linearize(m, "2", {"2": gaussian(5)}), ValueError, "5 channels"),
    *[(lambda m, g=g: tlc.linearize(m, "2", {"2": tlc.Gaussian(*g)}), ValueError, "a tensor each")
      for g in ((torch.ones(4), torch.ones(3)), ([1.0] * 4,) * 2, (torch.ones(4), torch.ones(())))],
    (lambda m: tlc.linearize(slopes(3), "1", torch.ones(9, 3, 2)), ValueError, "1 has 3 slopes, a"),
    *[(lambda m, f=f, w=w: f(width=w), kind, "width is a whole number of at least 1")
      for f in (tlc.resnet18, tlc.simple_cnn) for w, kind in ((0, ValueError), ("3", TypeError))],
    *[(lambda m, do=do: do(spoilt(NAN), DATA), ValueError, "0.weight holds NaN")
      for do in (tlc.statistics, tlc.evaluate)],
    (lambda m: tlc.statistics(nn.Sequential(nn.Flatten(0), nn.ReLU()), X), ValueError, "1 has no "),
    (lambda m: published_statistics(m[:1].append(nn.ReLU())), ValueError, "1 follows no batch no"),
    (lambda m: tlc.merge(m, X, keep="some"), ValueError, "no keep '"),
    (lambda m: tlc.rank(m, DATA, "random", seed=1.5), TypeError, "seed is a whole number from 0"),
    (lambda m: tlc.statistics(m, X, "22"), ValueError, "there is no activation '22'"),
    (lambda m: tlc.rank(m, DATA, "best"), ValueError, "no ranking rule 'best'; there are: tlc, g"),
    (lambda m: tlc.rank(m, DATA, []), ValueError, r"no ranking rule \[\]; there are: tlc"),
    (lambda m: tlc.rank(m, DATA, "gaussian", "zz"), ValueError, "there is no rule 'zz'"),
    (lambda m: tlc.rank(NO_ACTIVATION, DATA), ValueError, "no activation left.*ReLU"),
    (lambda m: tlc.rank(conv(3, 144), DATA, "magnitude"), ValueError, "1 follows no batch norm"),
    (lambda m: tlc.evaluate(m, DATA, "tset"), ValueError, "no split 'tset'; there are: train"),
    *[(lambda m, n=n: tlc.evaluate(m, DATA, batch=n), ValueError, "batch is") for n in (0, -1)],
    (lambda m: tlc.evaluate(m, DATA, batch=2.5), TypeError, "batch is"),
    *[(lambda m, do=do, n=n: do(n, X), kind, said) for do in (tlc.compare, tlc.latency)
      for n, kind, said in (([], TypeError, "dictiona"), ({}, ValueError, "at least one"))],
    (lambda m: tlc.latency({"m": m}, None), TypeError, "floats"),
    (lambda m: tlc.latency({"m": m}, X[:, :2]), ValueError, "does not accept an example of shape"),
    *[(lambda m, n=n: tlc.latency({"m": m}, X, n), ValueError, "repeats is 0 or") for n in (-1, 1)],
    *[(lambda m, n=n: tlc.compare({"m": m}, DATA, n), ValueError, "batch is") for n in ([-1], [0])],
    *[(lambda m, do=do: do(conv(1, 144), m), ValueError, "takes grey images, another coloured")
      for do in (lambda *two: tlc.compare(dict(zip("ab", two)), DATA),
                 lambda m, teacher: tlc.fit(m, DATA, 1, teacher=teacher))],
    *[(lambda m, d=d: tlc.Data.from_loader(d, d), kind, said) for d, kind, said in NO_LOADERS],
    *[(lambda m, x=x: tlc.Data.from_loader([(x, PAIR)], [(ONES, PAIR)]), ValueError,
       r"both loaders are of one size, not \(.*8, 8\)\.") for x in (ONES[:, :1], ONES[..., 1:])],
    *[(lambda m, n=n: tlc.load_data(n), ValueError, "No data.*: give di") for n in ("z" * 5000, 0)],
    (lambda m: tlc.load_data(seed="a"), TypeError, "seed is a whole number from 0 to b.* not 'a'"),
    (lambda m: tlc.load_data(size=True), ValueError, "size is a number of pixels.* not True"),
    (lambda m: AT_HOME(tlc.load_data)("~/"), FileNotFoundError, "has no .jpg"),
    (lambda m: APART(tlc.collapse)(m, DATA, 1), RuntimeError, "'abc', but the processes do n"),
    (lambda m: APART(tlc.fit)(m, DATA, 1), RuntimeError, "is 'abc', but the processes do not mee"),
    *[(lambda m, n=n: DATA.subset(n), ValueError, f"1 to 40 images, not {n}") for n in (0, 10**6)],
    *[(lambda m, n=n: DATA.subset(n), TypeError, f"1 to 40 images, not {n!r}") for n in ("3", 2.5)],
    *[(lambda m, x=x: DATA.normalize(x), ValueError, r"Images are uint8 \(B, 1 or 3, H, W\), not ")
      for x in (X, DATA.train.images[0], torch.zeros(2, 4, 4, 4, dtype=torch.uint8))],
    (lambda m: tlc.load_checkpoint("zz"), FileNotFoundError, "no data/checkpoints here or above"),
    (lambda m: tlc.resnet18(stem="weak"), ValueError, "no stem 'weak'; there are: paper, strong"),
    (lambda m: tlc.project(m, "zz", X), ValueError, "there is no activation 'zz'"),
    *[(lambda m, k=k, v=v: tlc.project(m, "2", X, **{k: v}), kind, f"{k} is a .* not {v!r}")
      for kind, k, values in ((ValueError, "kernel", [0]), (TypeError, "kernel", ["3", NAN, 2.5]),
                              (ValueError, "images", [0]), (TypeError, "images", [2.5]),
                              (ValueError, "ridge", [-1, NAN])) for v in values],
    (lambda m: tlc.project(m, [], X), ValueError, "no activation is to go: give names"),
    # ---- what the lessons use ----
    (lambda m: corrupt(BYTES, "fog", 1), ValueError, "no corruption 'fog'; there are: gauss"),
    *[(lambda m, n=n: corrupt(BYTES, "jpeg", n), ValueError, f"1, 2, 3, 4 or 5, not {n}")
      for n in (0, 6, 2.5)],
    *[(lambda m, x=x: corrupt(x, "jpeg", 1), ValueError, "images are uint8")
      for x in (X, BYTES[0])],
    *[(lambda m, of=of: calibration_error(*map(torch.tensor, of)), ValueError, said)
      for *of, said in (([0.5] * 2, [True], "vectors of one length"), ([], [], "vectors of one le"),
                        ([3.2], [True], "softmax"), ([NAN], [True], "softmax"),
                        ([0.5], [1], "is boolean"))],
    *[(lambda m, known=known: auroc(torch.tensor(known), torch.tensor([0.1, 0.5])), ValueError,
       "both kinds") for known in ([], [NAN])],
    (lambda m: agreement({"relu": gaussian(4)}, {"relu": gaussian(3)}), ValueError,
     "differ in layers or channels"),
    *[(lambda m, layer=layer: kernels.read(layer), ValueError,
       "has groups, dilation or a padding that is no number of zeros")
      for layer in (nn.Conv2d(3, 3, 3, padding="same"), nn.ConvTranspose2d(3, 3, 3),
                    nn.Conv2d(3, 3, 3, padding_mode="reflect"), nn.Conv2d(3, 3, 3, groups=3),
                    nn.Conv2d(3, 3, 3, dilation=2))],
    *[(lambda m, two=two: kernels.add(*map(kernels.read, two)), ValueError, "cannot be added")
      for two in ((conv3(1), conv3(1, 2)), (conv3(1), conv3(0)))],
    (lambda m: kernels.compose(*map(kernels.read, (conv3(1), conv3(1)))), ValueError, "pads its i"),
    *[(lambda m, n=n: kernels.fold_batch_norm(kernels.read(conv3(1)), n), ValueError, said)
      for n, said in ((nn.BatchNorm2d(4), "call model.eval"),
                      (nn.BatchNorm2d(4, track_running_stats=False).eval(), "track_running_sta"))],
    (lambda m: load_text(vocabulary=300), ValueError, "2 to 256"),
    (lambda m: load_text(library="nowhere"), FileNotFoundError, "nowhere has no source of asyncio"),
    (lambda m: load_text(16, 32).normalize(X), ValueError, "uint8"),
]  # fmt: skip
RECIPE = [  # what no training, and so no collapse, can do
    ("epochs", ValueError, (0, -1, NAN, 10.0**12)), ("epochs", TypeError, ("3", None, True)),
    ("lr", ValueError, (0, -1, INF)), ("lr", TypeError, ("x", None)),
    ("batch", ValueError, (0, 1)), ("batch", TypeError, (1.5,)),
    ("weight_decay", ValueError, (-1,)), ("smoothing", ValueError, (1, -0.1)),
    ("seed", ValueError, (-1, 2**32)), ("seed", TypeError, (None, 1.5, "0", True)),
    ("schedule", ValueError, ("cosin", None)),
]  # fmt: skip
USES = [lambda m, **k: check_recipe(DATA, **k), lambda m, **k: tlc.fit(m, DATA, progress=None, **k)]
USES += [lambda m, **k: tlc.collapse(m, DATA, 1, rank="random", **k)]
for do, (name, kind, values) in product(USES, RECIPE):
    for value in values:
        said = "at least two images" if (name, value) == ("batch", 1) else f"{name}.*{value}"
        OPTIONS.append((lambda m, do=do, k={name: value}: do(m, **k), kind, said))
OF_COLLAPSE = [
    *[(ValueError, "remove is 1 to 2", dict(remove=n)) for n in (0, -1, 3, 99)],
    *[(TypeError, "remove is 1 to 2", dict(remove=n)) for n in (1.5, "2", True, None, NAN, [1])],
    *[(ValueError, "no method .*; there are: at_on", dict(method=m)) for m in ("best", None, [1])],
    (TypeError, "out is the name of a folder, not 3", dict(out=3)),
    (ValueError, "out is the name of a folder, not ''", dict(out="")),
    (NotADirectoryError, "null/x cannot be written .*: make room, or cho", dict(out="/dev/null/x")),
    (FileExistsError, "null cannot be written .*: make room, or choose a", dict(out="/dev/null")),
    (ValueError, "no ranking rule 'best'; there are: tlc", {"rank": "best"}),
    (TypeError, "a ranking rule is given by its name: register it", {"rank": len}),
    *[(ValueError, f"no rule '{r}'; there are: on_", dict(rule=r)) for r in ("off", "published")],
    (ValueError, "no padding 'last'; there are: first, as", dict(padding="last")),
    (ValueError, "no keep '", dict(keep="most")),
    (TypeError, "at_once takes no 'rnak'; it takes: rank", dict(rnak="tlc")),
    *[(TypeError, f"at_once takes no '{k}'", {k: None}) for k in ("teacher", "state", "gradual")],
    (TypeError, "random takes no 'rank'; it takes: rule", dict(method="random", rank="tlc")),
    (TypeError, "one_by_one takes no 'again'", dict(method="one_by_one", again=True)),
    *[(TypeError, f"{k} is True or False", {k: "no"}) for k in ("again", "distil", "resume")],
    *[(ValueError, f"{k} is a", {"method": "project", k: -1}) for k in ("kernel", "ridge")],
    *[(ValueError, f"{k} is a", {"method": "project", k: 0}) for k in ("images", "trial")],
    *[(TypeError, f"{k} is a", {"method": "project", k: "x"}) for k in ("kernel", "ridge")],
    (ValueError, "ridge is a number, 0 or above, not nan", dict(method="project", ridge=NAN)),
    (ValueError, "target, .* not none", dict(method="project", remove=None)),
    (ValueError, "target, .* not remove and macs", dict(method="project", macs=0.5)),
    (ValueError, "not macs and speedup", dict(method="project", remove=None, macs=0.5, speedup=2)),
    *[(ValueError, f"{k} is a .*, not {v}", {"method": "project", "remove": None, k: v})
      for k, v in (("macs", 30), ("speedup", 1))],
    (ValueError, "macs is a share of the MACs, of 0 to 1, not 2", dict(method="blocks", macs=2)),
    (TypeError, "speedup is a .*, not '2'", dict(method="project", remove=None, speedup="2")),
    (ValueError, "no activation that can go", dict(model=NO_ACTIVATION)),
    (ValueError, "residual blocks, and this model has none",
     dict(method="lacoot_without_regulariser")),
    (ValueError, "slopes of rectifiers, and 2 is GELU", dict(method="layer_folding", model=GELU)),
    *[(ValueError, "2 follows no .*batch norm", {"model": GELU, k: v}) for k, v in (
        ("method", "published"), ("rank", "magnitude"), ("rank", "reference"))],
    (ValueError, "egp can empty the 9 activations",
     dict(method="egp", remove=17, model=tlc.resnet18(width=2))),
]  # fmt: skip
for kind, words, call in OF_COLLAPSE:
    do = lambda m, call=call: tlc.collapse(**dict(remove=1, model=m, data=DATA, out="run") | call)
    OPTIONS.append((do, kind, words))
for i, (do, kind, words) in enumerate(OPTIONS):
    CASES.append((f"option {i}", lambda m, d, do=do: do(m), network, DATA, kind, words))


def facts(model):
    """The weights, NaN included, and the modes of what may not change."""
    modes = [m.training for m in model.modules()] if isinstance(model, nn.Module) else None
    return modes and (digest(model.state_dict()), modes)


@pytest.mark.parametrize(("do", "model", "data", "kind", "words"), [c[1:] for c in CASES],
                         ids=[c[0] for c in CASES])  # fmt: skip
def test_a_wrong_call(do, model, data, kind, words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    if callable(model) and not isinstance(model, (type, nn.Module)) and model is not torch.relu:
        model = model()
    before = facts(model)
    with refused(kind, words, tmp_path), untrained():
        do(model, data)
    assert facts(model) == before
    assert "Error" not in capfd.readouterr().err, "torch's own lines are not for a reader"


class Merging(nn.Linear):
    def train(self, mode=True):
        self.weight.data += 0.5 * (self.training - mode)  # as LoRA merges
        return super().train(mode)

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


def test_what_only_looks_at_a_model_does_not_call_its_eval():
    model = nn.Sequential(nn.Flatten(), Merging(192, 9), nn.ReLU(), nn.Linear(9, 10))
    taught = lambda m, d: tlc.fit(perceptron(), d, 0.1, teacher=m, progress=None)
    before, compared = kept(model), lambda m, d: tlc.compare({"m": m}, d, [1])
    for look in (tlc.find_layers, tlc.evaluate, tlc.rank, compared, taught):
        look(model, DATA)
        assert same(model, before) and all(m.training for m in model.modules())


def test_a_quantised_convolution_is_named():
    quantized = pytest.importorskip("torch.ao.nn.quantized")
    model = network().append(quantized.Conv2d(4, 4, 1)).eval()
    for do in (CHANGE["linearize"], tlc.merge):
        with pytest.raises(ValueError, match="10 is quantised: give the float model"):
            do(model, X)


def test_more_than_one_output_in_training_is_named():
    run = lambda net, x: (net.a(x), 0) if net.training else net.a(x)
    with refused(TypeError, "in training mode the output is tuple: make it a tensor"):
        tlc.fit(Net(run, a=network()), DATA, 1, progress=None)


def test_float64_is_trained_and_other_widths_are_timed():
    tlc.fit(network(), DATA, 0.1, teacher=network().double(), progress=True)
    kinds = {t: network().to(t) for t in (torch.float64, torch.float16, torch.bfloat16)}
    assert tlc.compare(kinds, DATA, [1]).notna().all(axis=None)


def test_the_edges_of_a_recipe_are_allowed():
    check_recipe(DATA, epochs=1e-9, lr=1e9, batch=2, weight_decay=0, smoothing=0, seed=2**32 - 1)
    tlc.collapse(network(), DATA, 1, 0.1, seed=2**32 - 1, progress=False)
    check_recipe(DATA, epochs=np.float32(1), batch=np.int64(64), schedule="steps")


# ---- the command line ----

COLLAPSE = "collapse --data digits --out OUT --network simple_cnn --width 2"
COMMANDS = {  # what is wrong, and what is said of it ("": typer's own words)
    f"{COLLAPSE} {option} {value}": ""
    for option, values in {
        "--remove": "0 -1 x 1.5", "--epochs": "-1 nan inf x", "--dense-epochs": "-1 nan x",
        "--seed": "x 1.5", "--method": "best ''", "--network": "''", "--width": "0 -4 x",
        "--rule": "onoff", "--macs": "0.5", "--speedup": "2", "--zz": "1",
        "--method project --macs": "0 1 2 -1 nan x", "--method project --speedup": "0 1 -2 nan x",
        "--method project --macs 0.5 --speedup": "2", "--method project --remove 2 --macs": "0.5",
        "--method project --rank": "tlc", "--method egp --remove": "0",
    }.items()
    for value in values.split()
}  # fmt: skip
COMMANDS |= {
    f"{COLLAPSE} --remove 99": "remove is 1 to 6, the model's activations, not 99",
    f"{COLLAPSE} --remove 1 --dense-epochs 0": "dense_epochs is a number above 0",
    f"{COLLAPSE} --remove 1 --rank best": "there is no ranking rule 'best'; there are: tlc",
    f"{COLLAPSE} --method tlc": "there is no method 'tlc'; there are: at_once",
    f"{COLLAPSE} --method random --rank tlc": "random takes no 'rank'; it takes: rule",
    "collapse --data digits --out OUT --method egp --remove 12": "egp can empty the 9 activations",
    f"{COLLAPSE} --network vgg": "there is no network 'vgg'; there are: resnet18",
    f"{COLLAPSE} --seed -1": "seed is a whole number",
    "collapse --data diggits --out OUT": "No data set 'diggits': give digits, mnist, cifar10, pic",
    "collapse --data digits --out FILE/run": "FILE/run cannot be written (Not a directory)",
    "collapse --data digits --out FILE": "FILE cannot be written",
    "demo --out FILE/run": "FILE/run cannot be written", "demo --out FILE": "cannot be written",
    "reproduce --profile fast --out OUT --folder OUT": "no profile 'fast'; there are: smoke",
    "reproduce --profile smoke --out FILE/run --folder OUT": "FILE/run cannot be written",
    "bench --profile fast --out OUT --folder OUT": "there is no profile 'fast'",
    "bench --profile smoke --only vgg --out OUT": "there is no piece 'vgg'; there are: resnet",
    "bench --profile smoke --data digits --only w4_clock --out OUT --folder OUT":
        "bench --only resnet18_w4_train` first",
    "report OUT": "holds no run", "collapse --data digits --out ''": "name of a folder, not ''",
    "demo --out ''": "not ''", "reproduce --budget -1": "budget is a number of minutes, 0 or above",
} | dict.fromkeys([f"{COLLAPSE} --epochs 0", f"{COLLAPSE} --dense-epochs 0"] + [
    f"demo --out OUT {option}" for option in ("--epochs 0", "--tune -1", "--tune 0")
], "epochs is a number above 0, at most 1e9, not ") | dict.fromkeys([
    "collapse --data '' --out OUT", "collapse --data FILE --out OUT", "collapse --out OUT",
    "collapse --data digits", "collapse --data EMPTY --out OUT", "demo --epochs x --out OUT",
    "demo --tune nan --out OUT", "demo zz", "report", "report FILE", "report EMPTY", "table zz",
    "doctor zz", "zz", "collapse zz", "--zz",
], "")  # fmt: skip


assert len(CASES) >= 700 and len(COMMANDS) >= 75, "there are enough of them"


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_wrong_command(arguments, tmp_path, monkeypatch, capsys):
    words, load = COMMANDS[arguments], tlc.load_data
    monkeypatch.setattr(tlc, "load_data", lambda n: copy.copy(DATA) if n == "digits" else load(n))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    for name in ("OUT", "FILE", "EMPTY"):
        path = str(tmp_path / name.lower())
        arguments, words = arguments.replace(name, path), words.replace(name, path)
    with untrained():
        code = gives_up(monkeypatch, *shlex.split(arguments))
    said = capsys.readouterr()
    if code == 2:  # typer's own: what is wrong with the option, in a box
        assert "Error" in said.err and "Traceback" not in said.err and not words
    else:
        assert isinstance(code, str) and code.startswith("tlc_minimal: ") and len(code) <= 300
        assert "\n" not in code and words in code and not said.err
    assert files(tmp_path) == before
