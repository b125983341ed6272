"""The four counts by formula, and clocks that are read fairly."""

import importlib

import torch
from helpers import randomize
from torch import nn

import tlc_minimal as tlc

measure = importlib.import_module("tlc_minimal.measure")
X = torch.randn(2, 3, 32, 32)
NAMES = ["activations", "layers", "macs", "params"]


def resnet_macs(width, size, classes=10):
    """(stem, stages, classifier) of a ResNet-18, by hand; ``size``: of the first stage's maps."""
    stages, before = 0, width
    for stage in range(4):
        channels, side = width * 2**stage, size // 2**stage
        stages += side**2 * 9 * channels * (before + 3 * channels)
        stages += side**2 * channels * before if stage else 0
        before = channels
    return 3 * width * 9 * 32**2, stages, before * classes


def test_the_papers_network_has_140_million_multiplications():
    counts = tlc.count(tlc.resnet18(width=64), X)
    assert counts["macs"] == sum(resnet_macs(64, 16))
    assert round(counts["macs"] / 1e6, 1) == 140.2
    assert (counts["activations"], counts["layers"]) == (17, 18)


def test_the_strong_stem_costs_four_times_as_much_behind_the_stem():
    paper, strong = (tlc.count(tlc.resnet18(width=8, stem=s), X)["macs"] for s in
                     ("paper", "strong"))  # fmt: skip
    stem, stages, classifier = resnet_macs(8, 16)
    assert strong - stem - classifier == 4 * stages == 4 * (paper - stem - classifier)


def test_counts_are_per_image_and_of_the_images_size():
    model = tlc.resnet18(width=4)
    assert tlc.count(model, X)["macs"] == tlc.count(model, X[:1])["macs"]
    assert tlc.count(model, X[:, :, :16, :16])["macs"] < tlc.count(model, X)["macs"] / 3


def test_parameters_and_layers_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5, bias=False)
    )
    counts = tlc.count(model, torch.randn(1, 3, 8, 8))
    assert counts == {
        "activations": 1, "layers": 2, "macs": 36 * 4 * 27 + 5 * 144, "params": 4 * 28 + 5 * 144,
    }  # fmt: skip


def test_the_longest_path_counts_not_the_shortcut():
    model = randomize(tlc.resnet18(width=4))
    off = {"layer2.0.relu1": tlc.Gaussian(-torch.ones(8).double(), torch.ones(8).double())}
    left = tlc.count(tlc.linearize(model, "layer2.0.relu1", off, "on_off"), X)
    assert left["layers"] == 18 - 1  # the branch's two convolutions went, the shortcut's one stays
    assert left["activations"] == 16


def test_counting_changes_nothing():
    model = tlc.resnet18(width=4).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tlc.count(model, X)
    assert model.training and all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_contestants_take_turns():
    log = []
    times = measure.race([lambda: log.append("a"), lambda: log.append("b")], 4, seconds=1e-9)
    assert log[-8:] == list("abababab")
    assert [len(t) for t in times] == [4, 4] and all(t > 0 for ts in times for t in ts)


def test_latency_is_the_median_and_half_the_interquartile_range(monkeypatch):
    taken = [[5.0, 1.0, 2.0, 100.0, 3.0, 4.0, 0.0], [7.0] * 7]
    monkeypatch.setattr(measure, "race", lambda *args, **kwargs: taken)
    table = tlc.latency({"a": tlc.simple_cnn(width=4), "b": tlc.simple_cnn(width=4)}, X)
    assert table.to_dict("index") == {
        "a": {"ms": 3.0, "ms_spread": 2.0}, "b": {"ms": 7.0, "ms_spread": 0.0},
    }  # fmt: skip


def test_the_larger_network_takes_longer():
    models = {"small": tlc.simple_cnn(width=2), "large": tlc.simple_cnn(width=48)}
    table = tlc.latency(models, torch.randn(8, 3, 32, 32), repeats=3)
    assert table.loc["large", "ms"] > table.loc["small", "ms"] > 0


def test_compare_has_accuracy_counts_and_milliseconds():
    data = tlc.load_data("digits", size=16).subset(50)
    dense = randomize(tlc.simple_cnn(width=4), dtype=torch.float32)
    collapsed = tlc.merge(tlc.linearize(dense, "relu2", data), data, keep="all")
    table = tlc.compare({"dense": dense, "collapsed": collapsed}, data, batches=(1, 3))
    clocks = [f"{c}_{b}{s}" for b in (1, 3) for c, s in (("ms", ""), ("ms", "_spread"),
                                                          ("speedup", ""))]  # fmt: skip
    assert list(table.columns) == ["accuracy", *NAMES, *clocks]
    assert list(table.index) == ["dense", "collapsed"]
    assert table.loc["dense", "accuracy"] == tlc.evaluate(dense, data, "test").accuracy
    assert list(table["activations"]) == [6, 5] and list(table["layers"]) == [7, 6]
    norms = 2 * sum(m.num_features for m in dense.modules() if isinstance(m, nn.BatchNorm2d))
    biases = norms // 2
    assert table.loc["dense", "params"] == tlc.count(dense, data)["params"] - norms + biases
    assert (table["speedup_3"] == table["ms_3"].iloc[0] / table["ms_3"]).all()
    assert table.loc["dense", "speedup_1"] == 1
