"""The drawn pictures: the same each time, as many of every kind, and no kind is another."""

import numpy as np
import pytest

from tlc_minimal import evaluate, load_checkpoint, load_data
from tlc_minimal.lessons import pictures as p


def test_they_load_as_any_data_do(monkeypatch):
    draw = p.pictures
    monkeypatch.setattr(p, "pictures", lambda count, seed: draw(count // 40, seed))
    data = load_data("pictures", root="/nowhere", size=16)
    assert data.train.images.shape == (180, 3, 16, 16) and data.classes == p.CLASSES
    assert data.flip and data.crop == 2 and data.test.labels.bincount().tolist() == [5] * 10
    assert data.sha256 == load_data("pictures", size=16).sha256
    assert evaluate(load_checkpoint("resnet18_w8_pictures"), load_data("pictures"), "test")[1] > 90
    assert not np.array_equal(draw(3, 0)[0], draw(3, 1)[0])


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
