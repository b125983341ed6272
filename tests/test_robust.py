"""Corruptions, calibration, unknown inputs, the agreement of states, and the recorded study."""

import colorsys
import io
import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import tlc_minimal as tlc
from tlc_minimal.experiments import robust as study
from tlc_minimal.experiments.pieces import run_pieces
from tlc_minimal.gaussian import Gaussian
from tlc_minimal.lessons import robust
from tlc_minimal.lessons.robust import CORRUPTIONS, corrupt

ALL = list(CORRUPTIONS)


@pytest.fixture(scope="module")
def images():
    """Smooth colour images with dark and bright parts, uint8 (16, 3, 32, 32)."""
    coarse = torch.rand(16, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic")
    return (255 * smooth).clamp(0, 255).byte()


@pytest.fixture(scope="module")
def digits():
    return tlc.load_data("digits")


def error(images, name, severity):
    return (corrupt(images, name, severity).float() - images.float()).square().mean().item()


# --------------------------------------------------------- corruptions


@pytest.mark.parametrize("name", ALL)
def test_a_corruption_keeps_shape_and_type_and_grows_with_severity(name, images):
    out = corrupt(images, name, 3)
    assert out.shape == images.shape and out.dtype == torch.uint8
    errors = [error(images, name, severity) for severity in (1, 2, 3, 4, 5)]
    assert 0 < errors[0] < errors[2] < errors[4]


@pytest.mark.parametrize("name", ALL)
def test_a_corruption_takes_grey_images_and_leaves_its_input_alone(name, images):
    grey = images[:, :1]
    before = grey.clone()
    assert corrupt(grey, name, 5).shape == grey.shape
    assert torch.equal(grey, before)


@pytest.mark.parametrize("name", ALL)
def test_the_seed_decides(name, images):
    one, again, other = (corrupt(images, name, 4, seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert torch.equal(one, other) == ("noise" not in name)


def test_noise_has_the_spread_that_it_should():
    flat = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    normal = corrupt(flat, "gaussian_noise", 5).double() / 255
    assert normal.std().item() == pytest.approx(0.10, rel=0.01)
    shot = corrupt(flat, "shot_noise", 5).double() / 255  # Poisson: variance = mean / photons
    assert shot.mean().item() == pytest.approx(128 / 255, rel=0.005)
    assert shot.std().item() == pytest.approx(math.sqrt(128 / 255 / 50), rel=0.01)


def test_contrast_by_hand():
    x = torch.tensor([0, 100, 100, 200], dtype=torch.uint8).view(1, 1, 2, 2)
    assert corrupt(x, "contrast", 2).flatten().tolist() == [50, 100, 100, 150]


def test_brightness_is_a_shift_of_grey_and_keeps_hue():
    grey = torch.tensor([0, 100, 250], dtype=torch.uint8).view(1, 1, 1, 3)
    assert corrupt(grey, "brightness", 2).flatten().tolist() == [26, 126, 255]  # 25.5 more
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in (200, 100, 50)))
    want = [round(255 * c) for c in colorsys.hsv_to_rgb(h, s, v + 0.1)]
    assert corrupt(colour, "brightness", 2).flatten().tolist() == want


def test_blur_keeps_the_mean_and_smooths(images):
    blurred, images = corrupt(images, "gaussian_blur", 5).float(), images.float()
    assert blurred.mean().item() == pytest.approx(images.mean().item(), abs=1)
    assert blurred.diff(dim=3).square().mean() < images.diff(dim=3).square().mean()


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_pixelate_and_jpeg_are_those_of_pillow(severity, images):
    """Pillow did it for CIFAR-10-C."""
    picture = Image.fromarray(images[3].permute(1, 2, 0).numpy())
    side = int(32 * CORRUPTIONS["pixelate"].levels[severity - 1])
    want = picture.resize((side, side), Image.Resampling.BOX)
    want = np.array(want.resize((32, 32), Image.Resampling.BOX)).astype(int)
    got = corrupt(images, "pixelate", severity)[3].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(got - want).max() <= 1  # Pillow rounds twice
    picture.save(file := io.BytesIO(), "JPEG", quality=CORRUPTIONS["jpeg"].levels[severity - 1])
    got = corrupt(images, "jpeg", severity)[3].permute(1, 2, 0).numpy()
    assert np.array_equal(got, np.array(Image.open(file)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("fog", 1), "no corruption 'fog'; there are: gaussian_noise"),
        (("jpeg", 0), "1, 2, 3, 4 or 5, not 0"),
        (("jpeg", 6), "1, 2, 3, 4 or 5, not 6"),
        (("jpeg", 2.5), "not 2.5"),
    ],
)
def test_bad_corruptions_are_refused(arguments, sentence, images):
    with pytest.raises(ValueError, match=sentence):
        corrupt(images, *arguments)


def test_bad_images_are_refused(images):
    for wrong in (images.float(), images[0]):
        with pytest.raises(ValueError, match="images are uint8"):
            corrupt(wrong, "jpeg", 1)


def test_corrupted_data_differ_in_the_test_images_only(digits):
    other = robust.corrupted(digits, "contrast", 5)
    assert torch.equal(other.train.images, digits.train.images)
    assert torch.equal(other.val.images, digits.val.images)
    assert torch.equal(other.test.labels, digits.test.labels)
    assert torch.equal(other.test.images, corrupt(digits.test.images, "contrast", 5))


def test_unknown_inputs_have_the_shape_of_the_data(digits, monkeypatch):
    found = robust.unknown_inputs(digits, 20)
    assert list(found) == ["photographs", "noise"]  # digits are no strangers to digits
    assert all(x.shape == (20, 1, 32, 32) and x.dtype == torch.uint8 for x in found.values())
    colour = tlc.Data(**{**vars(digits), "name": "photos"})
    assert robust.unknown_inputs(colour, 20)["digits"].shape == (1797, 1, 32, 32)
    again = robust.unknown_inputs(digits, 20)
    assert all(torch.equal(x, again[name]) for name, x in found.items())
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install \"\.\[course\]\""):
        robust.unknown_inputs(digits)


# --------------------------------------------------------- calibration, AUROC


def test_reliability_by_hand():
    confidence = torch.tensor([0.95, 0.9, 0.6, 0.55, 1.0, 0.5])
    correct = torch.tensor([True, False, True, False, True, True])
    points = robust.reliability(confidence, correct, bins=2)
    assert list(points.index) == [0, 1]  # 0.5 belongs to the lower bin: (0, 0.5]
    assert points["accuracy"].tolist() == pytest.approx([1, 0.6])
    assert points["confidence"].tolist() == pytest.approx([0.5, 0.8])
    assert points["share"].tolist() == pytest.approx([1 / 6, 5 / 6])
    want = 1 / 6 * 0.5 + 5 / 6 * 0.2
    assert robust.calibration_error(confidence, correct, bins=2) == pytest.approx(want)


def test_a_calibrated_network_has_no_error_and_a_proud_one_has():
    g = torch.Generator().manual_seed(0)
    confidence = torch.rand(200_000, generator=g)
    correct = torch.rand(200_000, generator=g) < confidence
    assert robust.calibration_error(confidence, correct) < 0.01
    proud = confidence.sqrt()  # E[sqrt(u) - u] = 2/3 - 1/2
    assert robust.calibration_error(proud, correct) == pytest.approx(1 / 6, abs=0.01)


@pytest.mark.parametrize(
    ("confidence", "correct", "sentence"),
    [
        (torch.tensor([0.5, 0.5]), torch.tensor([True]), "vectors of one length"),
        (torch.zeros(0), torch.zeros(0, dtype=torch.bool), "vectors of one length"),
        (torch.tensor([3.2]), torch.tensor([True]), "softmax"),
        (torch.tensor([float("nan")]), torch.tensor([True]), "softmax"),
    ],
)
def test_what_is_no_confidence_is_refused(confidence, correct, sentence):
    with pytest.raises(ValueError, match=sentence):
        robust.calibration_error(confidence, correct)


@pytest.mark.parametrize("levels", [3, 10, 10_000])
def test_auroc_is_that_of_scikit_learn_ties_included(levels):
    g = torch.Generator().manual_seed(levels)
    known, unknown = (torch.randint(levels, (n,), generator=g) / levels for n in (300, 170))
    known = known + 0.2 * (known < 0.5)
    truth, scores = [1] * 300 + [0] * 170, torch.cat([known, unknown])
    assert robust.auroc(known, unknown) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_auroc_of_nothing_is_refused():
    for known in (torch.zeros(0), torch.tensor([float("nan")])):
        with pytest.raises(ValueError, match="both kinds"):
            robust.auroc(known, torch.ones(2))


# --------------------------------------------------------- models


def test_assess_agrees_with_evaluate_and_restores_the_mode(digits):
    torch.manual_seed(0)
    model = tlc.load_checkpoint("resnet18_w8_digits").train()
    unknown = robust.unknown_inputs(digits, 50)
    table = robust.assess({"a": model, "b": model}, digits, unknown, ("contrast",), (5,))
    assert model.training
    assert list(table["kind"]) == ["clean"] * 2 + ["corrupted"] * 2 + ["unknown"] * 4
    rows = table[table["model"] == "a"].set_index("inputs")
    assert rows["test"]["clean"] == pytest.approx(tlc.evaluate(model, digits, "test").accuracy)
    worse = tlc.evaluate(model, robust.corrupted(digits, "contrast", 5), "test").accuracy
    assert rows["test"]["contrast"] == pytest.approx(worse)
    known = robust.probabilities(model, digits, digits.test.images).amax(1)
    strange = robust.probabilities(model, digits, unknown["noise"]).amax(1)
    assert rows["auroc"]["noise"] == pytest.approx(100 * robust.auroc(known, strange))
    assert rows["ece"]["clean"] < 100 and rows["auroc"].isna()["clean"]


def test_agreement_by_hand():
    one = {"relu": Gaussian(torch.tensor([1.0, -1.0, -1.0, 0.0]), torch.ones(4))}
    two = {"relu": Gaussian(torch.tensor([2.0, 1.0, -3.0, -1.0]), torch.ones(4))}
    row = robust.agreement(one, two).loc["relu"]
    assert row.tolist() == pytest.approx([0.75, 0.5, 0.75, 0.5])  # a mean of 0 is OFF
    with pytest.raises(ValueError, match="differ in layers or channels"):
        robust.agreement(one, {"relu": Gaussian(torch.ones(3), torch.ones(3))})


# --------------------------------------------------------- the study


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The smoke pieces of one seed, on digits: (pieces, runs, records)."""
    pieces = [p for p in study.plan("smoke") if "batch" not in p.what]
    out, folder = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("records")
    run_pieces(pieces, {"cifar10": "digits"}, out, folder)
    return pieces, out, folder


def test_every_piece_becomes_a_record_of_the_study(records):
    pieces, _, folder = records
    table = tlc.results(folder)
    assert set(table["what"]) == {p.what for p in pieces}
    assert set(table["study"]) == {"robust"} and set(table["width"]) == {4}
    kept = {"dense", "dense, tuned on", "tlc, on_off_affine", "random, on_off_affine"}
    assert set(table["method"]) == kept | {"sensitivity"}


def test_a_network_is_measured_clean_corrupted_and_on_the_unknown(records):
    table = tlc.results(records[2])
    for method, removed in (("dense", 0), ("tlc, on_off_affine", 2)):
        rows = table[table["method"] == method]
        kinds = rows["kind"].value_counts()
        assert (kinds["clean"], kinds["corrupted"], kinds["unknown"]) == (1, 35, 2)
        assert set(rows["removed"]) == {removed}
        assert rows[rows["kind"] == "clean"]["activations"].tolist() == [17 - removed]
        assert rows[rows["kind"] == "unknown"]["auroc"].between(0, 100).all()


def test_sensitivity_has_a_row_a_value_and_layer(records):
    table = tlc.results(records[2])
    rows = table[table["factor"] == "weight_decay"]
    assert len(rows) == 17 * len(study.values("smoke", "weight_decay"))
    base = rows[rows["value"] == study.BASE["weight_decay"]]
    assert (base["same"] == 100).all()  # the base agrees with itself
    other = rows[rows["value"] == 0.005]
    assert other["same"].between(0, 100).all() and other["off"].between(0, 100).all()


def test_a_lost_record_comes_again_the_same(records):
    pieces, out, folder = records
    for part in ("tlc_", "weight_decay"):
        piece = next(p for p in pieces if part in p.what)
        path = folder / f"{piece.what}.json"
        before = json.loads(path.read_text())
        path.unlink()
        run_pieces([piece], {"cifar10": "digits"}, out, folder)
        assert json.loads(path.read_text())["rows"] == before["rows"]


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_every_profile_has_a_plan(profile):
    pieces = study.plan(profile)
    names = [p.what for p in pieces]
    assert len(set(names)) == len(names) and all(n.startswith("robust_") for n in names)
    for factor in ("batch", "weight_decay", "lr", "epochs"):
        assert study.BASE.get(factor, study.sizes(profile)["epochs"]) in study.values(
            profile, factor
        )
    if profile == "laptop":
        assert sum(p.minutes for p in pieces) <= 25
    with pytest.raises(ValueError, match="no profile 'fast'"):
        study.plan("fast")
