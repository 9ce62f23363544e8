import numpy as np
import pytest
from scipy import ndimage

from masam.augment import Variation
from masam.augment.intensity import changes_intensity, erased_box, vary_intensity
from masam.augment.variation import Erase

VARIATIONS = {
    "shading": Variation(shading=1.0, seed=1),
    "gamma": Variation(gamma=2.0),
    "erase": Variation(erase=Erase(0.04, 2.0, (0.5, 0.5)), seed=1),
    "posterize": Variation(posterize_bits=2),
    "contrast": Variation(contrast=1.3),
    "contrast about the mean": Variation(contrast=0.7, contrast_grey=None),
    "brightness": Variation(brightness=0.7),
    "brightness_shift": Variation(brightness_shift=0.08),
    "sharpen": Variation(sharpness=1.9),
    "smooth": Variation(sharpness=0.1),
    "blur": Variation(blur_pixels=1.0),
    "low resolution": Variation(low_resolution=2.0),
    "noise": Variation(noise=0.05, seed=1),
}


def window(seed=0, shape=(2, 3, 20, 24)):
    return np.random.default_rng(seed).random(shape, np.float32)


def varied(images, variation):
    changed = images.copy()
    vary_intensity(changed, variation)
    return changed


@pytest.mark.parametrize("name", VARIATIONS)
def test_each_operation_changes_pixels_and_stays_between_zero_and_one(name):
    images = window()
    changed = varied(images, VARIATIONS[name])
    assert changes_intensity(VARIATIONS[name])
    assert not np.array_equal(changed, images)
    assert changed.dtype == np.float32
    assert (changed.min() >= 0, changed.max() <= 1, np.isfinite(changed).all()) == (True, True, True)


@pytest.mark.parametrize("name", [name for name in VARIATIONS if name != "noise"])
def test_identical_slices_and_channels_stay_identical(name):
    images = np.repeat(np.repeat(window(shape=(1, 1, 20, 24)), 3, axis=0), 2, axis=1)
    changed = varied(images, VARIATIONS[name])
    assert all(np.array_equal(changed[0, 0], changed[s, c]) for s in range(3) for c in range(2))


@pytest.mark.parametrize("name", ["gamma", "contrast", "contrast about the mean", "brightness", "posterize"])
def test_brighter_stays_brighter_over_the_whole_window(name):
    images = window()
    changed = varied(images, VARIATIONS[name])
    assert (np.diff(changed.ravel()[np.argsort(images, axis=None)]) >= 0).all()


def test_neutral_variations_change_nothing():
    images = window()
    assert not changes_intensity(Variation(rotation_degrees=3.0, scale=2.0, flip="rows"))
    assert np.array_equal(varied(images, Variation()), images)


def test_values():
    images = window()
    np.testing.assert_allclose(varied(images, Variation(gamma=2.0)), np.sqrt(images), atol=1e-6)
    np.testing.assert_allclose(
        varied(images, Variation(contrast=0.7, contrast_grey=None)),
        images.mean() + 0.7 * (images - images.mean()),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        varied(images, Variation(contrast=1.2)), np.clip(0.5 + 1.2 * (images - 0.5), 0, 1), atol=1e-6
    )
    np.testing.assert_allclose(
        varied(images, Variation(brightness=1.3, brightness_shift=-0.1)), np.clip(1.3 * images - 0.1, 0, 1), atol=1e-6
    )


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_posterize_keeps_black_white_and_the_number_of_levels(bits):
    images = np.linspace(0, 1, 4096, dtype=np.float32).reshape(1, 1, 64, 64)
    changed = varied(images, Variation(posterize_bits=bits))
    levels, counts = np.unique(changed, return_counts=True)
    np.testing.assert_allclose(levels, np.linspace(0, 1, 2**bits), atol=1e-6)
    assert counts.max() - counts.min() <= 2


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.9])
def test_sharpness_is_a_blend_with_the_smoothed_image(factor):
    images = window()
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    for before, after in zip(images.reshape(-1, 20, 24), varied(images, Variation(sharpness=factor)).reshape(-1, 20, 24), strict=True):  # fmt: skip # noqa: E501
        smooth = ndimage.convolve(before.astype(float), kernel)
        expected = np.clip(smooth + factor * (before - smooth), 0, 1)
        np.testing.assert_allclose(after[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-6)
        edge = np.ones(before.shape, bool)
        edge[1:-1, 1:-1] = False
        assert np.array_equal(after[edge], before[edge])


def test_a_strip_of_two_pixels_is_not_sharpened():
    images = window(shape=(1, 1, 2, 9))
    assert np.array_equal(varied(images, Variation(sharpness=0.1)), images)


def test_blur_and_low_resolution_reduce_variance_and_keep_the_mean():
    images = window(shape=(1, 1, 64, 64))
    for variation in (Variation(blur_pixels=1.5), Variation(low_resolution=2.0)):
        changed = varied(images, variation)
        assert changed.std() < 0.6 * images.std()
        assert abs(changed.mean() - images.mean()) < 0.01


def test_a_constant_image_has_no_detail_to_lose():
    images = np.full((1, 2, 16, 16), 0.25, np.float32)
    for variation in (Variation(blur_pixels=1.5), Variation(low_resolution=2.0), Variation(sharpness=0.1)):
        np.testing.assert_allclose(varied(images, variation), 0.25, atol=1e-6)


def test_noise_has_its_strength_and_differs_between_slices():
    images = np.full((2, 1, 100, 100), 0.5, np.float32)
    changed = varied(images, Variation(noise=0.05, seed=3))
    assert abs((changed - 0.5).std() - 0.05) < 0.001
    assert not np.array_equal(changed[0], changed[1])
    assert np.array_equal(changed, varied(images, Variation(noise=0.05, seed=3)))
    assert not np.array_equal(changed, varied(images, Variation(noise=0.05, seed=4)))


def test_the_box_of_noise_is_the_same_on_every_slice():
    images = np.zeros((2, 2, 50, 80), np.float32)
    erase = Erase(0.05, 2.0, (0.3, 0.9))
    changed = varied(images, Variation(erase=erase, seed=1))
    rows, columns = erased_box(erase, (50, 80))
    inside = changed[:, :, rows, columns]
    assert abs(inside.mean() - 0.5) < 0.1
    assert inside.min() < 0.05 < 0.95 < inside.max()
    assert all(np.array_equal(inside[0, 0], inside[s, c]) for s in range(2) for c in range(2))
    changed[:, :, rows, columns] = 0
    assert not changed.any()


@pytest.mark.parametrize("place", [(0.0, 0.0), (1 - 1e-9, 1 - 1e-9), (0.5, 0.2)])
@pytest.mark.parametrize("aspect", [0.3, 1.0, 3.3])
def test_the_box_has_its_area_and_lies_inside(place, aspect):
    rows, columns = erased_box(Erase(0.04, aspect, place), (512, 512))
    height, width = rows.stop - rows.start, columns.stop - columns.start
    assert abs(height * width / 512**2 - 0.04) < 0.001
    assert abs(width / height - aspect) < 0.03 * aspect
    assert 0 <= rows.start < rows.stop <= 512
    assert 0 <= columns.start < columns.stop <= 512


def test_a_box_longer_than_the_image_is_clipped():
    rows, columns = erased_box(Erase(0.5, 3.3, (0.5, 0.5)), (40, 10))
    assert (columns.start, columns.stop) == (0, 10)
    assert rows.stop - rows.start == round((0.5 * 400 / 3.3) ** 0.5)


def test_shading_is_a_smooth_factor_of_the_given_range():
    images = np.ones((2, 1, 64, 48), np.float32)
    factor = varied(images, Variation(shading=1.5, seed=4))[0, 0]
    assert (factor.max(), factor.min()) == pytest.approx((1, np.exp(-1.5)))
    # A cubic through 4 points a side: no step between neighbours, as of noise.
    steps = np.abs(np.diff(np.log(factor), axis=0)).max(), np.abs(np.diff(np.log(factor), axis=1)).max()
    assert max(steps) < 0.15
    assert not np.array_equal(factor, varied(images, Variation(shading=1.5, seed=5))[0, 0])
    # Black stays black, and a window of one pixel has no brighter side.
    assert not varied(np.zeros((1, 1, 8, 8), np.float32), Variation(shading=1.5, seed=4)).any()
    assert varied(np.ones((1, 1, 1, 1), np.float32), Variation(shading=1.5, seed=4)) == 1
