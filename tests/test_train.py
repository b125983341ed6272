"""Fitting and evaluating: repeatable, by the formula, and safe against a loss that is NaN."""

import contextlib
import copy
import importlib
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import Net, digits, interrupted, kept, randomize, refused, same, untrained
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.files import save_weights
from tlc_minimal.train import SCHEDULES

train = importlib.import_module("tlc_minimal.train")
larger = pytest.fixture(scope="module")(lambda: digits(200, size=16))


def small(seed=0):
    torch.manual_seed(seed)
    return tlc.simple_cnn(width=4)


# ---- fit ----


def test_it_learns_to_read_digits():
    data = digits(600, size=16)
    model = tlc.simple_cnn(width=8)
    losses = tlc.fit(model, data, 6, batch=64, progress=None)
    assert losses == sorted(losses, reverse=True) and len(losses) == 6
    assert tlc.evaluate(model, data, "test").accuracy > 80


@pytest.mark.parametrize(("epochs", "steps", "means"), [(0.5, 2, 1), (1, 4, 1), (2.5, 10, 3)])
def test_epochs_may_be_a_fraction(epochs, steps, means, larger):
    model = small()
    assert len(tlc.fit(model, larger, epochs, batch=50, progress=None)) == means
    assert model.bn1.num_batches_tracked == steps
    assert not any(m.training for m in model.modules()), "left in eval mode"


@pytest.mark.parametrize("taught", [False, True])
def test_the_loss_is_smoothed_cross_entropy_and_the_mean_with_the_teachers(taught, larger):
    """One step on all images, unshifted: its loss by hand."""
    data = replace(larger, crop=0)
    model, teacher = small(), randomize(small(1), dtype=torch.float32) if taught else None
    x, y = data.normalize(data.train.images), data.train.labels
    out = copy.deepcopy(model).train()(x)
    want = F.cross_entropy(out, y, label_smoothing=0.1)
    if taught:
        p = (teacher(x) / 2).softmax(1)
        soft = -(p * (out / 2).log_softmax(1)).sum(1).mean()
        want = (want + 4 * soft) / 2
    (got,) = tlc.fit(model, data, 1, batch=200, smoothing=0.1, teacher=teacher, progress=None)
    assert got == pytest.approx(want.item(), rel=1e-4)


@pytest.mark.parametrize("bad", [8, 10, 11])
def test_a_nan_loss_stops_with_its_step_and_the_last_good_epoch(bad, larger):
    steps = []  # the weights before each; four an epoch: step 8 is the first of the third

    def run(net, x):
        steps.extend([kept(net)] * net.training)
        return net.inner(x) * (torch.nan if len(steps) == bad + 1 and net.training else 1)

    model = Net(run, inner=small())
    with pytest.raises(FloatingPointError, match=rf"NaN or infinite at step {bad}\b"):
        tlc.fit(model, larger, 5, batch=50, progress=None)
    assert same(model, steps[8])
    assert all(p.isfinite().all() for p in model.parameters())


def test_weights_ruined_by_the_last_step_of_an_epoch_are_not_kept_as_good(larger):
    """The loss is taken before the step: a huge one is followed by weights that are no use."""
    model = small()
    before = tlc.evaluate(model, larger).loss
    with pytest.raises(FloatingPointError):
        tlc.fit(model, larger, 4, lr=1e30, batch=200, progress=None)
    assert tlc.evaluate(model, larger).loss == pytest.approx(before, rel=1)
    with contextlib.suppress(FloatingPointError):  # nor by the very last one
        tlc.fit(model, larger, 1, lr=1e38, batch=200, progress=None)
    assert math.isfinite(tlc.evaluate(model, larger).loss)


def test_schedules_by_hand():
    cosine, steps = (SCHEDULES[n] for n in ("cosine", "steps"))
    assert [cosine(i / 100, 100) for i in (0, 4, 9)] == pytest.approx([0.1, 0.5, 0.98], abs=0.01)
    assert [cosine(i / 18, 18) for i in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])  # short
    assert [cosine(0, n) for n in (1, 2, 4, 9)] == [1, 1, 0.5, 0.25]
    assert cosine(0.5, 100) == pytest.approx(0.5) and cosine(1, 100) == pytest.approx(0)
    rates = [steps(e / 160, 1) for e in (0, 79, 80, 119, 120, 159)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


# ---- a training that is killed ----

HOW = dict(epochs=2.5, lr=0.05, batch=16, progress=None)  # of 64 images: ten steps


def dropped(seed=0):
    """A network that throws dice when it trains, and has all that a state must hold."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(4, 4, 3)
    return nn.Sequential(*conv, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 10))


def test_a_fit_killed_at_any_step_ends_in_the_same_and_when_finished_is_kept(data, tmp_path):
    teacher, full, other = dropped(7), dropped(), dropped()
    losses = tlc.fit(full, data, **HOW, teacher=teacher)
    assert len(losses) == 3
    tlc.fit(other, data, **HOW, teacher=teacher, seed=1)
    assert not same(full, other)
    for step in range(1, 11):
        how, model = HOW | {"state": tmp_path / f"{step}.state"}, dropped()
        with interrupted(step) as steps:
            with pytest.raises(KeyboardInterrupt):
                tlc.fit(model, data, **how, teacher=teacher)
            assert not model.training and how["state"].exists()
            again = dropped()
            assert tlc.fit(again, data, **how, teacher=teacher) == losses
            assert len(steps) == step + 10 - (step - 1) // 4 * 4, "an epoch at most is repeated"
        assert same(again, full), step
        pairs = zip(again.parameters(), full.parameters(), strict=True)
        assert all(a.stride() == b.stride() for a, b in pairs)
        finished = dropped()
        with untrained():
            assert tlc.fit(finished, data, **how, teacher=teacher) == losses
        assert same(finished, full)


OTHERS = {
    "epochs": {"epochs": 3}, "lr": {"lr": 0.1}, "batch": {"batch": 32}, "seed": {"seed": 1},
    "weight_decay": {"weight_decay": 0.0}, "smoothing": {"smoothing": 0.0},
    "schedule": {"schedule": "steps"}, "teacher": {"teacher": dropped(8)}, "start": {}, "data": {},
    "images": {}, "precision": {}, "learning": {},
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_the_state_of_another_training_is_refused(what, data, tmp_path, monkeypatch):
    """And nothing is changed, neither the files nor the network."""
    model, how = dropped(), HOW | {"epochs": 1, "state": tmp_path / "fit.state"}
    tlc.fit(model, data, **how, teacher=dropped(7))
    model = dropped(5 if what == "start" else 0)
    next(model.parameters()).requires_grad_(what != "learning")
    before = kept(model)
    others = {"data": {"val": data.test}, "images": {"train": data.subset(60).train}}
    data = replace(data, **others.get(what, {}))
    said = {"images": "data"}.get(what, what)
    if what == "precision":
        monkeypatch.setattr(train, "precision", lambda device=None: torch.float64)
    with refused(ValueError, rf"fit\.state .* different {said}: nothing was changed", tmp_path):
        tlc.fit(model, data, **how | {"teacher": dropped(7)} | OTHERS[what])
    assert same(model, before)


def test_a_damaged_state_is_named_and_heals_when_it_is_deleted(data, tmp_path):
    path, full, model = tmp_path / "fit.state", dropped(), dropped()
    tlc.fit(full, data, **HOW, state=path)
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    with refused(ValueError, r"fit\.state is damaged .*: delete it", tmp_path):
        tlc.fit(model, data, **HOW, state=path)
    assert same(model, dropped())
    path.unlink()
    tlc.fit(model, data, **HOW, state=path)
    assert same(model, full)
    save_weights(dropped(), path)  # a foreign file is no state
    with refused(ValueError, "a training with different epochs, lr", tmp_path):
        tlc.fit(dropped(), data, **HOW, state=path)


# ---- what it computes in ----


@pytest.mark.parametrize("can, cuda, native", [
    ({"avx512_bf16": True}, None, True), ({"amx_bf16": True}, None, True), ({}, None, False),
    ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, None, False),
    (None, None, False), ({}, (7, 5), False), ({}, (8, 0), True), ({}, (9, 0), True),
])  # fmt: skip
def test_bfloat16_where_the_device_multiplies_it(can, cuda, native, monkeypatch):
    """What the CPU can (None: a torch that does not say), and from Ampere on."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    if can is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: cuda)
    want, name = torch.bfloat16 if native else torch.float32, "cuda" if cuda else "cpu"
    assert tlc.precision() is tlc.precision(name) is tlc.precision(torch.device(name)) is want


def test_in_bfloat16_the_same_seed_gives_the_same_weights_too(data, monkeypatch):
    models, losses = [dropped() for _ in range(3)], []
    for model, dtype in zip(models, (torch.float32, torch.bfloat16, torch.bfloat16)):
        monkeypatch.setattr(train, "precision", lambda device=None, dtype=dtype: dtype)
        losses.append(tlc.fit(model, data, **HOW, teacher=dropped(7)))
    assert same(models[1], models[2]) and losses[1] == losses[2]
    assert not same(models[0], models[1]), "it is another arithmetic"
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert all(p.dtype == torch.float32 for p in models[1].parameters())
    assert models[1](data.example).dtype == torch.float32, "its forward is as it was"


def test_taps_that_see_only_padding_do_not_learn():
    """On maps of one pixel eight of nine do; in bfloat16 on a CPU they got NaN."""
    data = digits(40, size=16)
    pixel = lambda split: split._replace(images=split.images[:, :, :1, :1])
    one = {k: pixel(getattr(data, k)) for k in ("train", "val", "test")}
    for mode, taps in (("zeros", 1), ("circular", 9)):  # which see the pixel again
        conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False, padding_mode=mode)
        model, before = nn.Sequential(conv, nn.Flatten(), nn.Linear(8, 10)), kept(conv)["weight"]
        tlc.fit(model, replace(data, crop=0, **one), 2, weight_decay=0.0, progress=None)
        assert (conv.weight != before).any(0).any(0).sum() == taps
        assert not conv.weight._backward_hooks


# ---- evaluate, augmentation, profile ----


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_evaluate_by_hand(split, larger):
    model = randomize(small(), dtype=torch.float32).train()
    images, labels = getattr(larger, split)
    score = tlc.evaluate(model, larger, split, batch=7)
    assert model.training, "the mode is put back"
    out = model.eval()(larger.normalize(images))
    assert score.loss == pytest.approx(F.cross_entropy(out, labels).item(), rel=1e-5)
    hits = sum(int(o.argmax() == y) for o, y in zip(out, labels, strict=True))
    assert score.accuracy == pytest.approx(100 * hits / len(labels))


def positions(data):
    """Where the single bright pixel of an image lands, (4000, 2)."""
    data = replace(data, mean=torch.zeros(3), std=torch.ones(3))
    images = torch.zeros(4000, 1, 16, 16, dtype=torch.uint8)
    images[:, :, 8, 3] = 255
    x = data.augment(images, torch.Generator().manual_seed(0))
    assert x.shape == (4000, 3, 16, 16) and torch.equal(x.sum((2, 3)), torch.ones(4000, 3))
    return x[:, 0].nonzero()[:, 1:]


def test_digits_are_shifted_evenly_and_photographs_mirrored_half_of_the_time(larger):
    assert (larger.flip, larger.crop) == (False, 2)
    offsets = positions(larger) - torch.tensor([8, 3])
    assert offsets.abs().max() == 2
    each = torch.bincount((offsets[:, 0] + 2) * 5 + offsets[:, 1] + 2, minlength=25)
    assert each.min() > 160 - 5 * 12.4 and each.max() < 160 + 5 * 12.4  # binomial, five sigma
    column = positions(replace(larger, flip=True))[:, 1]
    assert set(column.tolist()) == {1, 2, 3, 4, 5, 10, 11, 12, 13, 14}
    assert (column > 8).double().mean() == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)
    # The generator decides; and without shifts it is normalisation.
    images, drawn = larger.train.images[:20], (torch.Generator().manual_seed(s) for s in (0, 0, 1))
    one, again, other = (larger.augment(images, generator) for generator in drawn)
    assert torch.equal(one, again) and not torch.equal(one, other)
    x = replace(larger, crop=0).augment(images, torch.Generator())
    assert torch.equal(x, larger.normalize(images))


def test_the_profile_is_that_of_the_environment_and_without_one_the_machine_decides(monkeypatch):
    for name in ("smoke", "laptop", "paper"):
        monkeypatch.setenv("TLC_PROFILE", name)
        assert tlc.profile() == name
    monkeypatch.setenv("TLC_PROFILE", "fast")
    with pytest.raises(ValueError, match="'fast'; it may be smoke, laptop or paper"):
        tlc.profile()
    monkeypatch.setenv("TLC_PROFILE", "")
    for _ in range(2):
        assert tlc.profile() == ("paper" if torch.cuda.is_available() else "laptop")
        monkeypatch.delenv("TLC_PROFILE", raising=False)
