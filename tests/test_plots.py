"""Figures show the numbers that they are given, and none goes without alt text."""

import re

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import tlc_minimal as tlc
from tlc_minimal import gaussian as g
from tlc_minimal.lessons import drawings, plots
from tlc_minimal.lessons import pictures as p
from tlc_minimal.lessons.report import write_report
from tlc_minimal.run_folder import run_of, write_run


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def run(model, data, tmp_path_factory):
    how = dict(rank="random", out=tmp_path_factory.mktemp("run"), progress=False)
    return tlc.collapse(model, data, 1, 0.1, **how)


@pytest.fixture
def compared():
    return pd.DataFrame(
        {"accuracy": [90.0, 45.0], "activations": [6, 3], "layers": [7, 6], "macs": [100, 20],
         "params": [10, 5], "ms_1": [2.0, 1.0], "ms_1_spread": [0.1, 0.1], "speedup_1": [1, 2]},
        index=["dense", "collapsed"],
    )  # fmt: skip


def test_a_figure_is_shown_as_one_png_with_its_alt_text_and_closed(monkeypatch):
    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    for alt in ("", " \n"):
        with pytest.raises(ValueError, match="needs alt text"):
            plots.show(plots.costs(), alt)
    figure = plots.costs()
    plots.show(figure, "Four curves\n   that cross.")
    data, metadata = shown[0]._repr_mimebundle_()
    assert list(data) == ["image/png"] and len(shown) == 1
    assert metadata["image/png"]["alt"] == "Four curves that cross."
    assert figure.number not in plt.get_fignums()


def test_costs_draws_the_four_closed_forms():
    (ax,) = plots.costs(3.0).axes
    assert len(ax.lines) == 5 and len(ax.get_legend().get_texts()) == 4
    one = torch.ones(400).double()
    for line, cost in zip(ax.lines, (g.cost_off, g.cost_on, g.cost_constant, g.cost_affine)):
        r = torch.as_tensor(line.get_xdata())
        torch.testing.assert_close(torch.as_tensor(line.get_ydata()), cost(r, one))


def test_layers_draws_off_shares_and_entropies():
    stats = {
        "a": tlc.Gaussian(torch.tensor([-1.0, 1.0, -2.0, -3.0]), torch.ones(4)),
        "b": tlc.Gaussian(torch.zeros(2), torch.ones(2)),
    }
    (ax,) = plots.layers(stats).axes
    assert [bar.get_height() for bar in ax.patches] == [0.75, 1]
    entropy = stats["a"].entropy.item()
    assert list(ax.lines[0].get_ydata()) == pytest.approx([entropy, 1])


def test_curves_draws_mean_and_range_over_the_seeds():
    rows = {"removed": [0, 1, 0, 1], "test": [90, 80, 92, 70], "seed": [0, 0, 1, 1], "method": "m"}
    (ax,) = plots.curves(pd.DataFrame(rows)).axes
    line, (bars,) = ax.lines[0], ax.collections
    assert list(line.get_ydata()) == [91, 75] and line.get_mfc() == "none"
    assert [s[:, 1].tolist() for s in bars.get_segments()] == [[90, 92], [70, 80]]
    assert not any(ax.get_xticks() % 1)


def test_trade_draws_means_and_ranges_and_joins_the_sizes_of_a_method():
    at = [("a", -0.5, 6, 80.0), ("a", -0.5, 6, 84.0), ("a", -0.2, 2, 70.0), ("b", -0.2, 2, 75.0)]
    rows = pd.DataFrame(at, columns=["method", "share", "cut", "test"]).assign(width=8, layers=3)
    rows = rows.assign(cut=1e6 * rows["cut"], activations=4, relu_units=1e3, speed=np.nan)
    figure = drawings.trade(rows, ["b", "a", "none of these"])
    macs, *others = figure.axes
    assert len(others) == 2 and [t.get_text()[:2] for t in figure.legends[0].texts] == ["b:", "a:"]
    assert [line.get_xydata().tolist() for line in macs.lines if len(line.get_xdata()) > 1][0] == [
        [6, 82], [2, 70]]  # fmt: skip
    assert macs.collections[1].get_segments()[0][:, 1].tolist() == [80, 84]
    assert macs.xaxis_inverted()


def test_before_and_after_draws_what_is_left_in_percent(compared):
    (ax,) = plots.before_and_after(compared).axes
    left = {t.get_text(): b.get_width() for t, b in zip(ax.get_yticklabels(), ax.patches)}
    halved = dict.fromkeys(("accuracy", "activations", "params", "ms_1"), 50)
    assert left == pytest.approx(halved | {"layers": 600 / 7, "macs": 20})


def test_histograms_draw_one_panel_a_channel_with_its_gaussian():
    values = torch.randn(500, 3, 2, 2) + torch.tensor([-2.0, 0, 2]).view(1, 3, 1, 1)
    claimed = tlc.Gaussian(torch.tensor([-2.0, 0.0, 2.0]), torch.ones(3))
    axes = plots.histograms(values, claimed, [0, 2]).axes
    assert [ax.get_title() for ax in axes] == ["channel 0: OFF", "channel 2: ON"]
    peak = axes[1].lines[0]
    assert peak.get_xdata()[peak.get_ydata().argmax()] == pytest.approx(2, abs=0.05)
    flat = tlc.Gaussian(torch.zeros(1), torch.zeros(1))  # constant
    assert plots.histograms(torch.zeros(10, 1), flat, [0]).axes


def test_the_report_holds_table_and_pictures_with_alt_text(run, compared):
    compared.to_json(run.folder / "compare.json", orient="index")
    assert write_report(run.folder) == (path := run.folder / "report.html")
    page = path.read_text()
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == 3 and all(re.search(r"alt='[^']{20,}'", image) for image in images)
    assert run.table["layer"][1] in page and "rank = random" in page and "Before and after" in page
    assert "http" not in re.sub(r"base64,[^']*", "", page), "nothing is loaded from elsewhere"
    (run.folder / "compare.json").unlink()
    page = write_report(run.folder).read_text()
    assert page.count("<img") == 2 and "Before and after" not in page


def test_without_a_finished_run_there_is_no_report(run, tmp_path):
    config, rows = run_of(run.folder).values()
    write_run(tmp_path, config, [row | {"test": None} for row in rows])  # as a killed one leaves it
    with pytest.raises(FileNotFoundError, match="no finished run|not finished"):
        write_report(tmp_path)


def test_no_line_is_left_out_however_many_there_are():
    methods = [f"method {i}" for i in range(9)]
    table = [(m, r, 50.0 + r * i, 1e6, 0) for i, m in enumerate(methods) for r in (0, 1)]
    table += [("dense", 0, 50.0, 1e6, 0), (methods[0], 0, 50.0, 1e6, 1)]
    table = pd.DataFrame(table, columns=["method", "removed", "test", "macs", "seed"])
    for figure in (plots.curves(table), drawn := plots.headline(table, methods)):
        assert set(methods) <= set(figure.axes[0].get_legend_handles_labels()[1])
    first = drawn.axes[0].lines[0].get_xdata()  # its second seed was not recorded at 1
    legend = plots.against(table[table["removed"] > 0], "removed", "").axes[0].get_legend()
    assert [*first] == [0] and [t.get_text() for t in legend.get_texts()] == methods[::-1]
    assert plots.look("ours, all at once", 3) == plots.look("at_once") != plots.look("new", 3)
    assert len({tuple(plots.look(m).values()) for m in plots.METHODS}) == len(plots.METHODS)


def test_drawn_pictures_load_as_any_data_do(monkeypatch):
    monkeypatch.setattr(p, "pictures", lambda n, seed, draw=p.pictures: draw(n // 40, seed))
    data = tlc.load_data("pictures", root="/nowhere", size=16)
    assert data.train.images.shape == (180, 3, 16, 16) and data.classes == p.CLASSES
    assert data.flip and data.crop == 2 and data.test.labels.bincount().tolist() == [5] * 10
    assert data.sha256 == tlc.load_data("pictures", size=16).sha256
    model = tlc.load_checkpoint("resnet18_w8_pictures")
    assert tlc.evaluate(model, tlc.load_data("pictures"), "test")[1] > 90
    assert not np.array_equal(p.pictures(120, 0)[0], p.pictures(120, 1)[0])


@pytest.mark.parametrize("kind", p.KINDS, ids=p.CLASSES)
def test_no_kind_looks_like_another_at_any_angle(kind):
    """Of the points that either covers, a tenth tells them apart; and each lies in its circle."""
    x, y = np.meshgrid(p.GRID * 1.2, p.GRID * 1.2)
    mine = kind(x, y)
    assert mine.any() and np.hypot(x, y)[mine].max() < 1.2
    for other in (k for k in p.KINDS if k is not kind):
        for angle in np.linspace(0, 2 * np.pi, 24):
            u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            theirs = other(u, v)
            assert (mine ^ theirs).sum() > 0.1 * (mine | theirs).sum(), other
