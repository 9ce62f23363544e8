import numpy as np
import pytest

from masam.errors import ConfigError, InputError
from masam.preprocess.intensity import Percentiles, Window
from masam.preprocess.pipeline import Preprocessing
from masam.volume import Geometry, Volume


def test_a_slice_is_oriented_scaled_and_resized():
    array = np.zeros((6, 8, 3), np.int16)
    array[0, 7, 2] = 250  # identity affine: the patient's left (low i), front (high j), top
    prepared = Preprocessing("axial", Window(low=0, high=250), 16).prepare(Volume(array))
    assert (prepared.depth, prepared.native_size) == (3, (8, 6))
    top = prepared.slice(2)[0]
    assert (top.shape, top.dtype) == ((16, 16), np.float32)
    # Anterior is the first row, the patient's left the last column.
    assert top.argmax() // 16 in (0, 1)
    assert top.argmax() % 16 in (14, 15)
    assert not prepared.slice(0).any()
    assert array.sum() == 250


def test_nothing_but_the_source_array_is_held():
    volume = Volume(np.zeros((64, 64, 200), np.int16))
    prepared = Preprocessing("axial", Percentiles(), 512).prepare(volume)
    assert np.shares_memory(prepared.array, volume.array)


def test_native_size_of_the_model_is_not_resampled():
    array = np.random.default_rng(0).integers(0, 100, (16, 16, 2)).astype(np.uint8)
    prepared = Preprocessing("axial", Window(low=0, high=100), 16).prepare(
        Volume(array, Geometry(np.diag([-1.0, -1, 1, 1])))
    )
    assert np.array_equal(prepared.slice(1), (array[:, :, 1].T / 100).astype(np.float32)[None])


def test_channels_are_scaled_each_by_itself():
    array = np.random.default_rng(0).integers(0, 100, (16, 16, 2, 2)).astype(np.float32)
    array[..., 1] *= 1000
    volume = Volume(array, Geometry(np.diag([-1.0, -1, 1, 1])))
    prepared = Preprocessing("axial", Percentiles(low=0, high=100), 16).prepare(volume)
    assert (prepared.channels, prepared.native_size) == (2, (16, 16))
    both = prepared.slice(1)
    assert both.shape == (2, 16, 16)
    for channel in range(2):
        alone = Preprocessing("axial", Percentiles(low=0, high=100), 16).prepare(
            Volume(array[..., channel], volume.geometry)
        )
        assert np.array_equal(both[channel], alone.slice(1)[0])


def test_bad_size_and_bad_voxels_are_refused():
    with pytest.raises(ConfigError, match="image size of 1 pixel or more, got 0"):
        Preprocessing("axial", Percentiles(), 0)
    with pytest.raises(InputError, match="NaN or infinite voxels"):
        Preprocessing("axial", Percentiles(), 16).prepare(Volume(np.full((2, 2, 2), np.nan)))
