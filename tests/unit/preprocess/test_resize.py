import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masam.preprocess.resize import resize_image, resize_labels, resize_probabilities

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(SIZES, st.integers(0, 2**32 - 1))
def test_the_same_size_is_the_identity(size, seed):
    generator = np.random.default_rng(seed)
    image = generator.random(size, dtype=np.float32)
    labels = generator.integers(0, 9, size)
    probabilities = torch.from_numpy(generator.random((3, *size), dtype=np.float32))
    assert np.array_equal(resize_image(image, size), image)
    assert np.array_equal(resize_labels(labels, size), labels)
    assert torch.equal(resize_probabilities(probabilities, size), probabilities)


@given(SIZES, SIZES, st.floats(0, 1, width=32))
@settings(deadline=None)
def test_a_constant_stays_constant(old, new, value):
    image = resize_image(np.full(old, value, np.float32), new)
    assert image.shape == new
    assert (image == np.float32(value)).all()


@given(SIZES, SIZES, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_images_keep_their_range_and_probabilities_their_sum(old, new, seed):
    generator = np.random.default_rng(seed)
    image = generator.random(old, dtype=np.float32)
    resized = resize_image(image, new)
    assert resized.min() >= image.min()
    assert resized.max() <= image.max()
    probabilities = torch.from_numpy(generator.random((4, *old), dtype=np.float32)).softmax(0)
    resized = resize_probabilities(probabilities, new)
    assert resized.shape == (4, *new)
    assert torch.allclose(resized.sum(0), torch.ones(new), atol=1e-5)


@given(SIZES, SIZES)
@settings(deadline=None)
def test_labels_are_torchs_nearest_exact(old, new):
    labels = np.arange(old[0] * old[1], dtype=np.int16).reshape(old)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(labels)[None, None].double(), size=new, mode="nearest-exact"
    )
    ours = resize_labels(labels, new)
    assert ours.dtype == np.int16
    # torch rounds the scale to float; where a centre falls on a border it may take the pixel on the other side.
    rows_and_columns = np.stack(np.divmod(ours, old[1])) - np.stack(np.divmod(exact[0, 0].numpy(), old[1]))
    assert np.abs(rows_and_columns).max() <= 1


def test_labels_are_never_mixed_and_any_integer_type_is_kept():
    labels = np.array([[0, 65535], [-100, 7]])
    assert resize_labels(labels, (4, 4)).tolist() == [
        [0, 0, 65535, 65535], [0, 0, 65535, 65535], [-100, -100, 7, 7], [-100, -100, 7, 7],
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (50, 20)])
def test_pixel_centres_are_aligned(size):
    # A linear ramp over the image stays the same ramp in the coordinates of its outer edges.
    ramp = ((np.arange(32, dtype=np.float32) + 0.5) / 32)[None].repeat(32, 0)
    expected = (np.arange(size[1]) + 0.5) / size[1]
    inner = slice(size[1] // 4, -(size[1] // 4))
    for resized in (resize_image(ramp, size), resize_probabilities(torch.from_numpy(ramp)[None], size)[0].numpy()):
        assert np.abs(resized - expected)[:, inner].max() < 0.05 / size[1]


def test_shrinking_averages_instead_of_picking():
    checker = np.indices((64, 64)).sum(0).astype(np.float32) % 2
    assert np.abs(resize_image(checker, (16, 16))[2:-2, 2:-2] - 0.5).max() < 0.02
    assert (resize_probabilities(torch.from_numpy(checker)[None], (16, 16))[0, 2:-2, 2:-2] - 0.5).abs().max() < 0.02


def test_a_smooth_image_survives_resizing_and_back():
    rows, columns = np.mgrid[0:48, 0:48] / 48
    image = (0.5 + 0.5 * np.sin(6 * rows) * np.cos(5 * columns)).astype(np.float32)
    assert np.abs(resize_image(resize_image(image, (96, 96)), (48, 48)) - image).max() < 0.01


def test_views_are_taken_and_not_changed():
    image = np.random.default_rng(0).random((8, 8), dtype=np.float32)
    before = image.copy()
    assert np.array_equal(
        resize_image(image[::-1, ::-1].T, (16, 12)), resize_image(image[::-1, ::-1].T.copy(), (16, 12))
    )
    assert np.array_equal(image, before)


def test_half_precision_probabilities_come_back_in_float32():
    probabilities = torch.full((2, 4, 4), 0.5, dtype=torch.bfloat16)
    for size in ((4, 4), (9, 7)):
        resized = resize_probabilities(probabilities, size)
        assert resized.dtype == torch.float32
        assert (resized == 0.5).all()
