import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masam.errors import InputError
from masam.preprocess.crop import Crop, crop_to_content, zoomed_sides
from masam.preprocess.intensity import Percentiles, Scaling, Window
from masam.preprocess.pipeline import Preprocessing
from masam.volume import Geometry, Volume

WHOLE = (6, 20, 40)


def content(*inside):
    array = np.zeros(WHOLE, bool)
    for box in inside:
        array[box] = True
    return array


BODY = np.s_[2:5, 8:14, 30:36]


def test_the_box_holds_the_content_and_keeps_the_aspect_ratio_of_a_slice():
    # Six rows of content require twelve columns.
    assert crop_to_content(content(BODY)) == Crop(full_size=WHOLE, start=(2, 8, 27), size=(3, 6, 12))
    near_the_edge = crop_to_content(content(np.s_[:, 8:14, 38:40]))
    assert (near_the_edge.start, near_the_edge.size) == ((0, 8, 28), (6, 6, 12))
    assert crop_to_content(content(BODY, np.s_[0, :2, :2])).size == (5, 18, 36)


def test_without_content_nothing_is_cropped():
    assert crop_to_content(content()) == Crop.full(WHOLE)


def test_slices_come_one_by_one():
    assert crop_to_content(iter(content(BODY))) == crop_to_content(content(BODY))


sides = st.integers(1, 60)


@given(st.data(), sides, sides)
def test_the_widened_rectangle_is_the_smallest_of_its_shape_and_fits_the_slice(data, rows, columns):
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    wide = zoomed_sides((rows, columns), (height, width))
    assert height <= wide[0] <= rows
    assert width <= wide[1] <= columns
    assert height in wide[:1] or width in wide[1:]
    # Less than one pixel from the exact ratio.
    assert abs(wide[0] * columns - wide[1] * rows) < max(rows, columns)


@given(st.data())
def test_the_removed_border_is_black_and_the_rest_is_restored(data):
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(3))
    seed = data.draw(st.integers(0, 10_000))
    generator = np.random.default_rng(seed)
    # Few bright voxels, so that there is a border to remove.
    array = np.where(generator.random((*shape, 2)) < 0.03, generator.integers(-9, 9, (*shape, 2)), -9).astype(np.int16)
    volume = Volume(array, Geometry(np.diag([-1.0, -1, 1, 1])))
    whole = Preprocessing("axial", Window(low=0, high=5), 9).prepare(volume)
    crop = Preprocessing("axial", Window(low=0, high=5), 9, "content").prepare(volume).trace.crop
    cut_away = np.ones(whole.array.shape[:3], bool)
    crop.apply(cut_away)[...] = False
    shown = np.stack([scaling.apply(whole.array[..., c]) for c, scaling in enumerate(whole.trace.scalings)])
    assert not shown[:, cut_away].any()
    labels = generator.integers(0, 5, crop.full_size)
    assert np.array_equal(crop.invert(crop.apply(labels)), np.where(cut_away, 0, labels))


@given(st.integers(-100, 100), st.integers(-100, 100), st.sampled_from([np.int16, np.float32, np.float64]))
def test_nonzero_voxels_are_those_scaled_above_zero(low, high, dtype):
    array = np.arange(-120, 121).astype(dtype)
    scaling = Scaling(float(low), float(high))
    assert np.array_equal(scaling.is_nonzero(array), scaling.apply(array) > 0)


def test_a_stack_of_another_size_is_refused():
    crop = crop_to_content(content(BODY))
    with pytest.raises(InputError, match=r"label slices of shape \(3, 6, 12\), got \(6, 20, 40\)"):
        crop.invert(np.zeros((6, 20, 40), np.uint8))


@pytest.mark.parametrize("stored", [(1, 1, 1), (-1, 1, -1)])
def test_a_cropped_volume_is_enlarged_and_its_labels_are_restored(stored):
    array = np.full((32, 32, 9), -1000, np.int16)
    array[8:24, 10:26, 2:7] = np.random.default_rng(0).integers(0, 100, (16, 16, 5))
    labels = np.zeros(array.shape, np.uint8)
    labels[9:20, 12:22, 3:6] = 3
    labels[0, 0, 0] = 7  # in the black border, which the model does not see
    geometry = Geometry(np.diag([*stored, 1.0]))
    image, reference = Volume(array, geometry), Volume(labels, geometry)
    prepared = Preprocessing("axial", Window(low=-100, high=100), 16, "content").prepare(image)
    assert (prepared.depth, prepared.native_size) == (5, (16, 16))
    # The content has the model's size: nothing is resampled on either way.
    whole = Preprocessing("axial", Window(low=-100, high=100), 32).prepare(image)
    cut = prepared.trace.crop.apply(np.stack([whole.slice(k)[0] for k in range(9)]))
    assert np.array_equal(np.stack([prepared.slice(k)[0] for k in range(5)]), cut)
    back = prepared.trace.labels_to_volume(prepared.labels(reference).array)
    labels[0, 0, 0] = 0
    assert np.array_equal(back.array, labels)
    assert back.geometry is geometry
    with pytest.raises(InputError, match=r"labels of shape \(32, 32, 9\) like the image, got \(16, 16, 5\)"):
        prepared.labels(Volume(labels[8:24, 10:26, 2:7], geometry))


def test_intensities_are_fitted_before_the_crop():
    array = np.zeros((20, 20, 4), np.float32)
    array[5:15, 5:15] = np.random.default_rng(0).random((10, 10, 4)) + 1
    plain = Preprocessing("axial", Percentiles(), 16).prepare(Volume(array))
    cropped = Preprocessing("axial", Percentiles(), 16, "content").prepare(Volume(array))
    assert cropped.trace.scalings == plain.trace.scalings
    assert cropped.native_size == (10, 10)


def test_settings_without_a_crop_do_not_change():
    settings = Preprocessing("axial", Window(low=0, high=1), 16).settings
    assert set(settings) == {"slice_axis", "intensity", "image_size"}
    assert Preprocessing("axial", Window(low=0, high=1), 16, "content").settings == settings | {"crop": "content"}
