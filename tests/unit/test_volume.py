import numpy as np
import pytest

from masam.errors import InputError
from masam.volume import Geometry, Volume

AFFINE = np.array([[0, -0.8, 0, 90], [0.7, 0, 0, -120], [0, 0, 2.5, -400], [0, 0, 0, 1.0]])


def test_spacing_is_the_length_of_the_axes():
    assert Geometry(AFFINE).spacing_mm == pytest.approx((0.7, 0.8, 2.5))


def test_affine_is_copied_and_read_only():
    source = AFFINE.copy()
    geometry = Geometry(source)
    source[0, 3] = 7
    assert geometry.affine[0, 3] == 90
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 1


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), r"expected a 4 x 4 affine, got shape \(3, 3\)"),
        (np.diag([1, np.nan, 1, 1]), "not finite"),
        (np.diag([1, 1, 1, 2.0]), "last row to be 0 0 0 1"),
        (np.diag([1, 0, 1, 1.0]), "an axis has no length"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "axes are parallel"),
        (np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), r"sheared .* is 0.0995"),
    ],
)
def test_bad_affines_are_rejected(affine, message):
    with pytest.raises(InputError, match=message):
        Geometry(affine)


def test_geometries_match_within_a_thousandth_of_a_voxel_at_the_far_corner():
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 1] *= 1 + 1e-6
    far[0, 1] *= 1 + 1e-4
    assert Geometry(AFFINE).matches(Geometry(near), (100, 100, 20))
    assert not Geometry(AFFINE).matches(Geometry(far), (100, 100, 20))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 1, 1), (4, 0, 4), (4, 4, 4, 0)])
def test_volume_needs_three_axes_with_voxels(shape):
    with pytest.raises(InputError, match=r"three axes, or four with channels, none empty"):
        Volume(np.zeros(shape))


def test_with_array_keeps_the_grid_and_refuses_another_shape():
    volume = Volume(np.zeros((2, 3, 4), np.int16), Geometry(AFFINE))
    other = volume.with_array(np.ones((2, 3, 4), np.uint8))
    assert other.geometry is volume.geometry
    assert other.shape == (2, 3, 4)
    with pytest.raises(InputError, match=r"expected an array of shape \(2, 3, 4\)"):
        volume.with_array(np.ones((2, 3, 5)))
