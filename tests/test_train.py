"""Fitting and evaluating: repeatable, by the formula, and safe against a loss that is NaN."""

import contextlib
import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import randomize
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.train import SCHEDULES


@pytest.fixture(scope="module")
def data():
    return tlc.load_data("digits", size=16).subset(200)


def small(seed=0):
    torch.manual_seed(seed)
    return tlc.simple_cnn(width=4)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(v, b[k]) for k, v in a.items())


# ---- fit ----


def test_the_same_seed_gives_the_same_weights(data):
    models = [small() for _ in range(3)]
    losses = [
        tlc.fit(m, data, 2, seed=s, progress=None) for m, s in zip(models, (0, 0, 1), strict=True)
    ]
    assert same(models[0], models[1]) and losses[0] == losses[1]
    assert not same(models[0], models[2])


def test_it_learns_to_read_digits():
    data = tlc.load_data("digits", size=16).subset(600)
    torch.manual_seed(0)
    model = tlc.simple_cnn(width=8)
    losses = tlc.fit(model, data, 6, batch=64, progress=None)
    assert losses == sorted(losses, reverse=True) and len(losses) == 6
    assert tlc.evaluate(model, data, "test").accuracy > 80


def test_it_leaves_the_model_in_eval_mode(data):
    model = small()
    tlc.fit(model, data, 0.5, progress=None)
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize(("epochs", "steps", "means"), [(0.5, 2, 1), (1, 4, 1), (2.5, 10, 3)])
def test_epochs_may_be_a_fraction(epochs, steps, means, data):
    model = small()
    assert len(tlc.fit(model, data, epochs, batch=50, progress=None)) == means
    assert model.bn1.num_batches_tracked == steps


@pytest.mark.parametrize("taught", [False, True])
def test_the_loss_is_smoothed_cross_entropy_and_the_mean_with_the_teachers(taught, data):
    """One step on all images, unshifted: its loss by hand."""
    data = replace(data, crop=0)
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


@torch.no_grad()
def distance(model, teacher, data):
    x = data.normalize(data.val.images)
    return F.kl_div(model(x).log_softmax(1), teacher(x).log_softmax(1), log_target=True,
                    reduction="batchmean").item()  # fmt: skip


def test_a_teacher_draws_its_pupil_nearer(data):
    teacher = small(1)
    tlc.fit(teacher, data, 6, batch=50, progress=None)
    untaught, taught = small(), small()
    tlc.fit(untaught, data, 4, batch=50, progress=None)
    before = copy.deepcopy(teacher.state_dict())
    tlc.fit(taught, data, 4, batch=50, teacher=teacher, progress=None)
    assert distance(taught, teacher, data) < distance(untaught, teacher, data)
    assert all(torch.equal(v, teacher.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("case", ["batch=1", "one image"])
def test_a_batch_of_one_is_refused(case, data):
    options = dict(batch=1) if case == "batch=1" else {}
    with pytest.raises(ValueError, match="at least two images"):
        tlc.fit(small(), data if options else data.subset(1), 1, progress=None, **options)


class Bomb(nn.Module):
    """A network whose output becomes NaN at one step; it remembers its weights before ``good``."""

    def __init__(self, good: int, bad: int):
        super().__init__()
        self.net, self.good, self.bad, self.step, self.kept = small(), good, bad, 0, None

    def forward(self, x):
        if self.step == self.good:
            self.kept = copy.deepcopy(self.net.state_dict())
        bad = self.training and self.step == self.bad
        self.step += self.training
        return self.net(x) * (torch.nan if bad else 1)


@pytest.mark.parametrize("bad", [8, 10, 11])
def test_a_nan_loss_stops_with_its_step_and_the_last_good_epoch(bad, data):
    model = Bomb(good=8, bad=bad)  # four steps an epoch: step 8 is the first of the third
    with pytest.raises(FloatingPointError, match=rf"NaN or infinite at step {bad}\b"):
        tlc.fit(model, data, 5, batch=50, progress=None)
    assert all(torch.equal(v, model.kept[k]) for k, v in model.net.state_dict().items())
    assert all(p.isfinite().all() for p in model.parameters())


def test_nan_in_the_weights_is_seen_at_the_first_step(data):
    model = small()
    model.conv3.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="at step 0: lower lr"):
        tlc.fit(model, data, 1, progress=None)


def test_weights_ruined_by_the_last_step_of_an_epoch_are_not_kept_as_good(data):
    """The loss is taken before the step: a huge one is followed by weights that are no use."""
    model = small()
    before = tlc.evaluate(model, data).loss
    with pytest.raises(FloatingPointError):
        tlc.fit(model, data, 4, lr=1e30, batch=200, progress=None)
    assert tlc.evaluate(model, data).loss == pytest.approx(before, rel=1)


def test_a_network_ruined_by_the_very_last_step_is_not_returned_in_silence(data):
    model = small()
    with contextlib.suppress(FloatingPointError):
        tlc.fit(model, data, 1, lr=1e38, batch=200, progress=None)
    loss = tlc.evaluate(model, data).loss
    assert loss == loss and loss < float("inf")


def test_schedules_by_hand():
    cosine, steps = (SCHEDULES[n] for n in ("cosine", "steps"))
    assert [cosine(i / 100, 100) for i in (0, 4, 9)] == pytest.approx([0.1, 0.5, 0.98], abs=0.01)
    assert cosine(0.5, 100) == pytest.approx(0.5) and cosine(1, 100) == pytest.approx(0)
    rates = [steps(e / 160, 1) for e in (0, 79, 80, 119, 120, 159)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_an_unknown_schedule_is_refused(data):
    with pytest.raises(ValueError, match="no schedule 'linear'; there are: cosine, steps"):
        tlc.fit(small(), data, 1, schedule="linear", progress=None)


# ---- evaluate ----


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_evaluate_by_hand(split, data):
    model = randomize(small(), dtype=torch.float32).train()
    images, labels = getattr(data, split)
    score = tlc.evaluate(model, data, split, batch=7)
    assert model.training, "the mode is put back"
    with torch.no_grad():
        out = model.eval()(data.normalize(images))
    assert score.loss == pytest.approx(F.cross_entropy(out, labels).item(), rel=1e-5)
    hits = sum(int(o.argmax() == y) for o, y in zip(out, labels, strict=True))
    assert score.accuracy == pytest.approx(100 * hits / len(labels))


# ---- augmentation ----


def positions(data, count=4000, row=8, column=3):
    """Where a single bright pixel of an image lands, (count, 2)."""
    data = replace(data, mean=torch.zeros(3), std=torch.ones(3))
    images = torch.zeros(count, 1, 16, 16, dtype=torch.uint8)
    images[:, :, row, column] = 255
    x = data.augment(images, torch.Generator().manual_seed(0))
    assert x.shape == (count, 3, 16, 16) and torch.equal(x.sum((2, 3)), torch.ones(count, 3))
    return x[:, 0].nonzero()[:, 1:]


def test_digits_are_shifted_evenly_and_never_mirrored(data):
    assert (data.flip, data.crop) == (False, 2)
    offsets = positions(data) - torch.tensor([8, 3])
    assert offsets.abs().max() == 2
    each = torch.bincount((offsets[:, 0] + 2) * 5 + offsets[:, 1] + 2, minlength=25)
    assert each.min() > 160 - 5 * 12.4 and each.max() < 160 + 5 * 12.4  # binomial, five sigma


def test_photographs_are_mirrored_half_of_the_time(data):
    column = positions(replace(data, flip=True))[:, 1]
    assert set(column.tolist()) == {1, 2, 3, 4, 5, 10, 11, 12, 13, 14}
    assert (column > 8).double().mean() == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)


def test_shifts_are_the_generators(data):
    images = data.train.images[:20]
    one, again, other = (data.augment(images, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_without_shift_augmentation_is_normalisation(data):
    x = replace(data, crop=0).augment(data.train.images[:5], torch.Generator())
    assert torch.equal(x, data.normalize(data.train.images[:5]))


# ---- profile ----


def test_the_profile_is_that_of_the_environment(monkeypatch):
    for name in ("smoke", "laptop", "paper"):
        monkeypatch.setenv("TLC_PROFILE", name)
        assert tlc.profile() == name
    monkeypatch.setenv("TLC_PROFILE", "fast")
    with pytest.raises(ValueError, match="'fast'; it may be smoke, laptop or paper"):
        tlc.profile()


@pytest.mark.parametrize("value", [None, ""])
def test_without_one_the_machine_decides(value, monkeypatch):
    monkeypatch.delenv("TLC_PROFILE", raising=False)
    if value is not None:
        monkeypatch.setenv("TLC_PROFILE", value)
    assert tlc.profile() == ("paper" if torch.cuda.is_available() else "laptop")
