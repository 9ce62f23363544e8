import numpy as np
import pytest

from masam.errors import InputError
from masam.preprocess.fingerprint import CaseFingerprint, fingerprint
from masam.preprocess.intensity import Percentiles, Window
from masam.preprocess.pipeline import Preprocessing
from masam.volume import Geometry, Volume

SHAPE = (40, 50, 12)


def scan(spacing_mm=(0.8, 0.8, 5.0), channels=1):
    array = np.full((*SHAPE, channels), -1000, np.int16)
    for channel in range(channels):
        array[10 - channel : 30, 10:30, 2:10, channel] = np.linspace(50, 150, 8).astype(np.int16)
    return Volume(array if channels > 1 else array[..., 0], Geometry(np.diag([*spacing_mm, 1.0])))


def turned(volume):
    """The same scan with its axes stored in another order and direction."""
    affine = volume.geometry.affine @ np.eye(4)[:, [2, 0, 1, 3]]
    affine[:, 3] = affine @ [volume.shape[2] - 1, 0, 0, 1]
    affine[:, 0] *= -1
    return Volume(np.moveaxis(volume.array, 2, 0)[::-1], Geometry(affine))


@pytest.mark.parametrize("channels", [1, 2])
def test_fingerprint_is_in_anatomical_order_however_the_volume_is_stored(channels):
    case, same = (CaseFingerprint.of(one) for one in (scan(channels=channels), turned(scan(channels=channels))))
    assert case.shape == same.shape == SHAPE
    assert case.spacing_mm == pytest.approx((0.8, 0.8, 5.0))
    assert same.spacing_mm == pytest.approx(case.spacing_mm)
    assert case.darkest == same.darkest == (-1000,) * channels
    for ours, theirs in zip(case.brightest, same.brightest, strict=True):
        for axis, (profile, other) in enumerate(zip(ours, theirs, strict=True)):
            assert np.array_equal(profile, other[::-1] if axis == 2 else other)


@pytest.mark.parametrize("slice_axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("rule", [Window(low=0, high=100), Window(low=70, high=100), Percentiles()])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_cropped_size_agrees_with_preparation(slice_axis, rule, channels):
    volume = scan(channels=channels)
    prepared = Preprocessing(slice_axis, rule, 16, "content").prepare(volume)
    case = CaseFingerprint.of(volume)
    assert case.in_plane_size(slice_axis, rule) == max(prepared.native_size)
    whole = Preprocessing(slice_axis, rule, 16).prepare(volume)
    assert case.in_plane_size(slice_axis) == max(whole.native_size)


def test_a_constant_scan_is_not_cropped():
    case = CaseFingerprint.of(Volume(np.zeros(SHAPE, np.int16)))
    assert case.in_plane_size("axial", Window(low=0, high=1)) == 50


def test_invalid_volumes_are_refused():
    with pytest.raises(InputError, match="NaN or infinite voxels"):
        fingerprint([(Volume(np.full(SHAPE, np.nan)), None)])
    with pytest.raises(InputError, match="the data set contains no volumes"):
        fingerprint([])
    with pytest.raises(InputError, match=r"expected labels of shape \(40, 50, 12\) like the image"):
        fingerprint([(scan(), Volume(np.zeros((4, 5, 6), np.uint8)))])
