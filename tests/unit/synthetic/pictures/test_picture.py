"""Synthetic images: properties of each, and statistics of many."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masam.errors import ConfigError
from masam.reproducibility import picture_generator
from masam.synthetic.pictures.looks import LOOKS
from masam.synthetic.pictures.picture import Picture, make_picture
from masam.synthetic.pictures.scene import ARRANGEMENTS


def digest(picture):
    parts = (picture.image.tobytes(), picture.visible.tobytes(), repr(picture.parents).encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.fixture(scope="module", params=[(60, 64), pytest.param((150, 128), marks=pytest.mark.slow)], ids=str)
def many(request):
    count, side = request.param
    return [make_picture(picture_generator(5, index), side) for index in range(count)]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    side=st.sampled_from([32, 48, 96, 160]),
    look=st.sampled_from(LOOKS),
    arrangement=st.sampled_from(ARRANGEMENTS),
)
def test_every_picture_is_valid(seed, side, look, arrangement):
    picture = make_picture(picture_generator(seed, 0), side, look, arrangement)
    assert picture.image.shape == (3, side, side)
    assert picture.image.dtype == np.float32
    assert np.isfinite(picture.image).all()
    assert picture.image.min() >= 0
    assert picture.image.max() <= 1
    assert (picture.look, picture.arrangement) == (look, arrangement)
    if look != "colour":
        np.testing.assert_array_equal(picture.image[0], picture.image[2])
    masks = picture.masks
    assert masks.shape == (len(picture.parents), side, side)
    assert len(masks) >= 1
    assert masks.any(axis=(1, 2)).all()
    # A partition: every pixel belongs to one object or to the background, and each object is visible.
    assert set(np.unique(picture.visible)) - {0} == set(range(1, len(masks) + 1))
    np.testing.assert_array_equal(masks.any(axis=0), picture.visible > 0)
    for number, parent in enumerate(picture.parents, start=1):
        assert parent < number
        own = picture.visible == number
        assert (masks[number - 1] & own).sum() == own.sum()
        if parent:
            assert not (masks[number - 1] & ~masks[parent - 1]).any()
        for other in range(1, number):
            shared = masks[other - 1] & own
            assert shared.sum() == (own.sum() if other in ancestors(picture, number) else 0)


def ancestors(picture, number):
    found = []
    while number := picture.parents[number - 1]:
        found.append(number)
    return found


def test_a_picture_is_its_seed_and_number():
    first = [digest(make_picture(picture_generator(1, index), 64)) for index in range(6)]
    backwards = [digest(make_picture(picture_generator(1, index), 64)) for index in reversed(range(6))]
    assert first == backwards[::-1]
    assert len(set(first)) == 6
    others = [digest(make_picture(picture_generator(1, index, held_out=True), 64)) for index in range(6)]
    assert not set(first) & set(others)
    assert digest(make_picture(picture_generator(2, 0), 64)) != first[0]


def test_parts_belong_to_the_whole():
    visible = np.array([[0, 1, 1], [2, 2, 3]], np.int16)
    picture = Picture(np.zeros((3, 2, 3), np.float32), visible, (0, 1, 2), "ct", "body")
    np.testing.assert_array_equal(
        picture.masks,
        np.array([[[0, 1, 1], [1, 1, 1]], [[0, 0, 0], [1, 1, 1]], [[0, 0, 0], [0, 0, 1]]], bool),
    )


def test_many_pictures_show_everything(many):
    assert {picture.look for picture in many} == set(LOOKS)
    assert {picture.arrangement for picture in many} == set(ARRANGEMENTS)
    shares = np.concatenate([picture.masks.mean(axis=(1, 2)) for picture in many])
    assert np.quantile(shares, 0.1) < 0.01 < np.quantile(shares, 0.6)
    assert np.quantile(shares, 0.95) > 0.1
    assert 4 < np.mean([len(picture.parents) for picture in many]) < 16
    assert any(any(picture.parents) for picture in many)


def test_objects_have_varied_contrast(many):
    contrasts = []
    for picture in many:
        grey = picture.image.mean(axis=0)
        inside, outside = grey[picture.visible == len(picture.parents)], grey[picture.visible == 0]
        if len(outside):
            contrasts.append(abs(inside.mean() - outside.mean()))
    assert 0.05 < np.median(contrasts) < 0.35
    assert np.quantile(contrasts, 0.2) < 0.1 < np.quantile(contrasts, 0.8)
    # Black or white images would be useless for training.
    spread = np.array([np.ptp(np.quantile(picture.image, (0.02, 0.98))) for picture in many])
    assert (spread > 0.04).mean() > 0.95


def test_too_small_a_side_is_rejected():
    with pytest.raises(ConfigError, match=r"^side: expected 32 pixels or more, got 31$"):
        make_picture(picture_generator(0, 0), 31)
