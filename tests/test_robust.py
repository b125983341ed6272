"""Corruptions, calibration, unknown inputs, the agreement of states, and the recorded study."""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from helpers import residual, same
from PIL import Image
from sklearn.calibration import calibration_curve
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.experiments import pieces as runner
from tlc_minimal.experiments import robust as study
from tlc_minimal.gaussian import Gaussian
from tlc_minimal.lessons import robust
from tlc_minimal.lessons.corruptions import CORRUPTIONS, corrupt


@pytest.fixture(scope="module")
def images():
    """Smooth colour images with dark and bright parts, uint8 (16, 3, 32, 32)."""
    coarse = torch.rand(16, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic")
    return (255 * smooth).clamp(0, 255).byte()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_severity_and_is_the_same_for_the_same_seed(name, images):
    before, state = images.clone(), torch.get_rng_state()
    outs = [corrupt(images, name, severity, seed=1) for severity in (1, 3, 5)]
    errors = [(out.float() - images.float()).square().mean() for out in outs]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert all(out.shape == images.shape and out.dtype == torch.uint8 for out in outs)
    assert corrupt(images[:, :1], name, 5).shape == (16, 1, 32, 32)
    assert torch.equal(outs[1], corrupt(images, name, 3, seed=1))
    assert torch.equal(outs[1], corrupt(images, name, 3, seed=2)) == ("noise" not in name)
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)


def test_noise_contrast_brightness_and_blur_by_hand():
    flat = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    normal = corrupt(flat, "gaussian_noise", 5).double() / 255
    assert normal.std().item() == pytest.approx(0.10, rel=0.01)
    shot = corrupt(flat, "shot_noise", 5).double() / 255  # Poisson: variance = mean / photons
    assert shot.mean().item() == pytest.approx(128 / 255, rel=0.005)
    assert shot.std().item() == pytest.approx(math.sqrt(128 / 255 / 50), rel=0.01)
    x = torch.tensor([0, 100, 100, 200], dtype=torch.uint8).view(1, 1, 2, 2)
    assert corrupt(x, "contrast", 2).flatten().tolist() == [50, 100, 100, 150]
    grey = torch.tensor([0, 100, 250], dtype=torch.uint8).view(1, 1, 1, 3)
    assert corrupt(grey, "brightness", 2).flatten().tolist() == [26, 126, 255]  # 25.5 more
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in (200, 100, 50)))
    want = [round(255 * c) for c in colorsys.hsv_to_rgb(h, s, v + 0.1)]  # the hue stays
    assert corrupt(colour, "brightness", 2).flatten().tolist() == want
    point = torch.zeros(1, 1, 33, 33, dtype=torch.uint8)
    point[0, 0, 16, 16] = 255
    row = corrupt(point, "gaussian_blur", 5)[0, 0, 16, 14:19].tolist()
    bell = [math.exp(-d * d / 2) / (2 * math.pi) for d in (-2, -1, 0, 1, 2)]
    assert row == pytest.approx([255 * b for b in bell], abs=1)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_pixelate_and_jpeg_are_those_of_pillow(severity, images):
    """Pillow did it for CIFAR-10-C."""
    picture = Image.fromarray(images[3].permute(1, 2, 0).numpy())
    side = int(32 * CORRUPTIONS["pixelate"][1][severity - 1])
    want = picture.resize((side, side), Image.Resampling.BOX)
    want = np.array(want.resize((32, 32), Image.Resampling.BOX)).astype(int)
    got = corrupt(images, "pixelate", severity)[3].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(got - want).max() <= 1  # Pillow rounds twice
    picture.save(file := io.BytesIO(), "JPEG", quality=CORRUPTIONS["jpeg"][1][severity - 1])
    got = corrupt(images, "jpeg", severity)[3].permute(1, 2, 0).numpy()
    assert np.array_equal(got, np.array(Image.open(file)))


def test_unknown_inputs_have_the_shape_of_the_data(digits):
    found = robust.unknown_inputs(digits, 20)
    assert list(found) == ["photographs", "noise"]  # digits are no strangers to digits
    assert all(x.shape == (20, 1, 32, 32) and x.dtype == torch.uint8 for x in found.values())
    colour = tlc.Data(**{**vars(digits), "name": "photos"})
    assert robust.unknown_inputs(colour, 20)["digits"].shape == (1797, 1, 32, 32)
    assert same(robust.unknown_inputs(digits, 20), found)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reliability_is_scikit_learns_calibration_curve_of_probabilities_and_answers(seed):
    draw = torch.Generator().manual_seed(seed)
    confidence = torch.rand(200, generator=draw) ** 0.5
    confidence = torch.cat([confidence, torch.arange(31) / 30])  # edges of bins, too
    correct = torch.rand(231, generator=draw) < confidence
    points = robust.reliability(confidence, correct)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15)
    assert points["accuracy"].tolist() == pytest.approx(accuracy.tolist())
    assert points["confidence"].tolist() == pytest.approx(mean.tolist())
    share, gaps = points["share"], (points["accuracy"] - points["confidence"]).abs()
    assert share.sum() == pytest.approx(1)
    assert (share * points["accuracy"]).sum() == pytest.approx(correct.double().mean().item())
    assert robust.calibration_error(confidence, correct) == pytest.approx((share * gaps).sum())


def test_auroc_counts_the_pairs_ties_one_half():
    known, unknown = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.1, 0.5])
    assert robust.auroc(known, unknown) == pytest.approx((1 + 1 + 1 + 0.5 + 1) / 6)


def test_assess_agrees_with_evaluate_and_restores_the_mode(digits):
    model = tlc.load_checkpoint("resnet18_w8_digits").train()
    unknown = robust.unknown_inputs(digits, 50)
    grey = nn.Sequential(nn.Conv2d(1, 10, 32), nn.Flatten()).double()
    assert len(robust.assess({"grey": grey}, digits, None, ())) == 1
    table = robust.assess({"a": model, "b": model}, digits, unknown, ("contrast",), (5,))
    assert model.training
    assert list(table["kind"]) == ["clean"] * 2 + ["corrupted"] * 2 + ["unknown"] * 4
    rows = table[table["model"] == "a"].set_index("inputs")
    assert rows["test"]["clean"] == pytest.approx(tlc.evaluate(model, digits, "test").accuracy)
    test = digits.test._replace(images=corrupt(digits.test.images, "contrast", 5))
    worse = tlc.evaluate(model, tlc.Data(**{**vars(digits), "test": test}), "test").accuracy
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


def test_the_study_measures_networks_and_has_a_row_a_value_and_layer(tmp_path, monkeypatch):
    """The smoke pieces, few digits, at most two values a factor and a network of five activations:
    clean, corrupted and on the unknown; then how far states agree when training changes."""
    two = {"batch": (128,), "weight_decay": (5e-4, 5e-3), "lr": (0.1, 0.3), "epochs": (1 / 2, 1)}
    monkeypatch.setattr(runner, "load_data", {"digits": tlc.load_data("digits", size=16)}.get)
    monkeypatch.setattr(study, "resnet18", residual)
    monkeypatch.setattr(study, "VALUES", two | {"seed": (0, 1)})
    monkeypatch.setitem(study.SIZES, "smoke", study.SIZES["smoke"] | {"images": 200, "few": 150})
    pieces = study.plan("smoke")
    runner.run_pieces(pieces, {"cifar10": "digits"}, tmp_path / "runs", tmp_path / "records")
    table = tlc.results(tmp_path / "records")
    assert set(table["what"]) == {p.what for p in pieces}
    assert set(table["study"]) == {"robust"} and set(table["width"]) == {4}
    networks = {"dense", "dense, tuned on", "tlc, on_off_affine", "random, on_off_affine"}
    assert set(table["method"]) == networks | {"sensitivity"}
    for method, removed in (("dense", 0), ("tlc, on_off_affine", 2)):
        rows = table[table["method"] == method]
        kinds = rows["kind"].value_counts()
        assert (kinds["clean"], kinds["corrupted"], kinds["unknown"]) == (1, 35, 2)
        assert set(rows["removed"]) == {removed}
        assert rows[rows["kind"] == "clean"]["activations"].tolist() == [5 - removed]
        assert rows[rows["kind"] == "unknown"]["auroc"].between(0, 100).all()
    rows = table[table["factor"] == "weight_decay"]
    assert len(rows) == 5 * 2
    itself = rows["value"] == study.BASE["weight_decay"]
    assert (rows[itself]["same"] == 100).all() and rows["off"].between(0, 100).all()
