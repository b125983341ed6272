"""The four counts by formula, and clocks that are read fairly."""

import importlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers import Net, digits, randomize
from torch import nn

import tlc_minimal as tlc

measure, clock = (importlib.import_module(f"tlc_minimal.{name}") for name in ("measure", "clock"))
X = torch.randn(2, 3, 32, 32)
NAMES = ["activations", "relu_units", "layers", "macs", "params"]
CLOCKS = ["ms_{}", "ms_{}_spread", "speedup_{}", "speedup_{}_spread"]
GRAPHS = [name.replace("{}", "{}_graph") for name in CLOCKS] if torch.cuda.is_available() else []


def resnet_macs(width, size):
    """Those of a ResNet-18 of ten classes, by hand; ``size``: of the first stage's maps."""
    stages, before = 0, width
    for stage in range(4):
        channels, side = width * 2**stage, size // 2**stage
        stages += side**2 * 9 * channels * (before + 3 * channels)
        stages += side**2 * channels * before if stage else 0
        before = channels
    return 3 * width * 9 * 32**2 + stages + before * 10


def test_the_papers_network_has_140_million_multiplications_and_both_stems_the_formulas():
    counts = tlc.count(tlc.resnet18(width=64), X)
    assert counts["macs"] == resnet_macs(64, 16), "of one image"
    assert round(counts["macs"] / 1e6, 1) == 140.2
    assert (counts["activations"], counts["layers"]) == (17, 18)
    # The stem's before the pool, then four of 64 x 16² units, each stage half as many as before.
    assert counts["relu_units"] == 64 * 32**2 + 4 * 64 * 16**2 * (1 + 1 / 2 + 1 / 4 + 1 / 8)
    strong = tlc.count(tlc.resnet18(width=8, stem="strong"), X)
    assert strong["macs"] == resnet_macs(8, 32), "its stages see maps of twice the side"


def test_parameters_and_layers_by_hand():
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5, bias=False)
    counts = tlc.count(nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
    assert counts == {
        "activations": 1, "relu_units": 4 * 36, "layers": 2,
        "macs": 36 * 4 * 27 + 5 * 144, "params": 4 * 28 + 5 * 144,
    }  # fmt: skip
    on_meta = nn.Sequential(*layers).to("meta"), torch.empty(1, 3, 8, 8, device="meta")
    assert tlc.count(*on_meta) == counts


def test_the_longest_path_counts_not_the_shortcut():
    model = randomize(tlc.resnet18(width=4))
    off = {"layer2.0.relu1": tlc.Gaussian(-torch.ones(8).double(), torch.ones(8).double())}
    left = tlc.count(tlc.linearize(model, "layer2.0.relu1", off, "on_off"), X)
    assert (left["layers"], left["activations"]) == (18 - 1, 16)  # the shortcut's layer stays


def test_contestants_take_turns():
    log = []
    times = measure.race([lambda: log.append("a"), lambda: log.append("b")], 4, seconds=1e-9)
    assert log[-8:] == list("abababab")
    assert [len(t) for t in times] == [4, 4] and all(t > 0 for ts in times for t in ts)


def test_latency_is_the_median_and_half_the_interquartile_range_round_by_round(monkeypatch):
    """Slow rounds, as on a busy machine, leave a speedup alone; the ratio of the medians of the
    second race would be 1.5."""
    slow = [4.0, 4.0, 40.0, 6.0, 60.0], [2.0, 2.0, 20.0, 4.0, 40.0], [4.0, 4.0, 40.0, 6.0, 60.0]
    taken = iter([[[5.0, 1.0, 2.0, 100.0, 3.0, 4.0, 0.5], [7.0] * 7], slow])
    monkeypatch.setattr(measure, "race", lambda *args, **kwargs: next(taken))
    models = {name: tlc.simple_cnn(width=2) for name in "abc"}
    table = tlc.latency({name: models[name] for name in "ab"}, X)
    assert list(table) == ["ms", "ms_spread", "speedup", "speedup_spread"]
    assert table["ms"].to_dict() == {"a": 3, "b": 7} and list(table["ms_spread"]) == [2, 0]
    table = tlc.latency(models, X)
    assert list(table["ms"]) == [6.0, 4.0, 6.0] and list(table["speedup"]) == [1.0, 2.0, 1.0]
    assert list(table["speedup_spread"]) == [0.0, 0.25, 0.0]


def test_what_cannot_be_captured_is_not_a_number():
    table = measure._race([lambda: None, None, lambda: None], 3, "cpu")
    assert list(table["ms"].isna()) == list(table["speedup"].isna()) == [False, True, False]
    assert table.loc[0, "speedup"] == 1.0 and table.loc[2, "speedup"] > 0


def test_a_race_is_not_one_of_page_faults():
    """Of six tensors of 8 MiB, freed together, after a race in a new process."""
    code = """import platform, resource, torch; from tlc_minimal.clock import race
run = lambda: [torch.ones(2**21) for _ in range(6)]
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
race([run], 2); before = faults(); run()
assert platform.libc_ver()[0] != "glibc" or faults() < before + 1000, faults() - before"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_compare_has_accuracy_counts_and_milliseconds():
    data = digits(50, size=16)
    dense = randomize(tlc.simple_cnn(width=4), dtype=torch.float32).to(tlc.best_device())
    collapsed = tlc.merge(tlc.linearize(dense, "relu2", data), data, keep="all")
    table = tlc.compare({"dense": dense, "collapsed": collapsed}, data, batches=(1, 3, 1))
    clocks = [name.format(batch) for batch in (1, 3) for name in CLOCKS + GRAPHS]
    assert list(table.columns) == ["accuracy", *NAMES, "threads", *clocks]
    assert list(table.index) == ["dense", "collapsed"]
    assert table.loc["dense", "accuracy"] == tlc.evaluate(dense, data, "test").accuracy
    assert list(table["activations"]) == [6, 5] and table[clocks[::2]].gt(0).all(axis=None)
    assert table.loc["collapsed", "macs"] != table.loc["dense", "macs"]
    norms = sum(m.num_features for m in dense.modules() if isinstance(m, nn.BatchNorm2d))
    assert table.loc["dense", "params"] == tlc.count(dense, data)["params"] - norms, "but a bias"
    assert list(table["threads"]) == [torch.get_num_threads()] * 2
    assert table.loc["dense", "speedup_1"] == 1


def test_the_usual_batches_are_one_and_many_and_begin_again_where_images_end():
    assert measure.usual_batches("cpu") == (1, 128)
    assert measure.usual_batches(torch.device("cuda", 0)) == (1, 1024)
    data = digits(3)
    assert {"ms_1", "ms_128"} <= set(tlc.compare({"only": tlc.simple_cnn(width=2)}, data))
    x = measure.first_images(data, 5)
    assert torch.equal(x[:3], data.normalize(data.train.images)) and torch.equal(x[3:], x[:2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_graphs_are_clocked_and_what_cannot_be_captured_does_no_harm():
    x = torch.randn(2, 3, 32, 32, device="cuda")
    model = tlc.resnet18(width=4).cuda().eval()
    with torch.inference_mode():
        assert clock.captured(lambda x: x * x.sum().item(), x) is None  # waits for the GPU
        out = torch.zeros_like(x)
        replay = clock.captured(lambda x: out.add_(x), x)
        out.zero_()
        replay()
        assert torch.equal(out, x)
    table = tlc.latency({"a": model, "b": model}, x)
    assert list(table)[4:] == [name.replace("{}_", "") for name in GRAPHS]
    assert (table["ms_graph"] > 0).all() and table.loc["a", "speedup_graph"] == 1


def test_attention_is_counted_and_its_fast_path_comes_back():
    """Three projections and one out, d² a token each; two products of T² d."""
    d, tokens = 8, 5
    attention = nn.TransformerEncoderLayer(d, 2, 16, batch_first=True).eval().self_attn
    net = Net(lambda net, x: net.attention(x, x, x)[0], attention=attention).eval()
    macs = tlc.count(net, torch.zeros(2, tokens, d))["macs"]
    assert macs == 4 * tokens * d * d + 2 * tokens * tokens * d
    assert torch.backends.mha.get_fastpath_enabled()
    run = lambda net, x: net.b(F.relu(net.a(x)[0][:, -1]), x[:, 0])
    net = Net(run, a=nn.LSTM(d, 3, 2, batch_first=True), b=nn.Bilinear(3, d, 7)).eval()
    vector = lambda net, x: net.a(x[:, 0]) @ torch.ones(7)
    cell = nn.Sequential(nn.GRUCell(d, 7), nn.ReLU())
    counts = tlc.count(Net(vector, a=cell).eval(), torch.zeros(2, tokens, d))
    assert counts["macs"] == 3 * 7 * (d + 7) + 7 and counts["layers"] == 1
    counts = tlc.count(net, torch.zeros(2, tokens, d))  # four gates, in two layers; then 7 products
    assert counts["macs"] == tokens * 4 * 3 * (d + 3 + 3 + 3) + 7 * 3 * d and counts["layers"] == 3


def test_squeezes_volumes_and_masks_are_no_obstacle():
    """Training tries two images, no layout is forced on volumes, and a mask may be infinite."""
    squeeze = lambda net, x: net.b(F.adaptive_avg_pool2d(F.relu(net.a(x)), 1).squeeze())
    model = Net(squeeze, a=nn.Conv2d(3, 4, 3), b=nn.Linear(4, 10))
    tlc.fit(model, data := digits(40), 1, progress=None)
    first = nn.Unflatten(1, (1, -1)), nn.Conv3d(1, 4, 3, padding=1), nn.ReLU()
    model = nn.Sequential(*first, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 10))
    tlc.fit(model, data, 1, progress=None)
    assert tlc.latency({"volumes": model}, data.example)["ms"].notna().all()
    model.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    assert tlc.merge(model.eval(), data.example)
