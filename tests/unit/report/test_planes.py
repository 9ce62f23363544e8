"""Display of slices: all orientations of a volume look the same."""

from itertools import permutations, product

import numpy as np
import pytest

from masam.errors import InputError
from masam.report.planes import display_plane, select_slices
from masam.volume import Geometry

SHAPE = (5, 6, 7)
# One voxel each at the patient's right, front and head end, in an array whose axes run to R, A and S.
RAS = np.zeros(SHAPE, dtype=np.uint8)
RAS[4, 2, 3], RAS[2, 5, 3], RAS[2, 2, 6] = 1, 2, 3


def turned(order, flips):
    """The same patient with the array's axes in another order and direction."""
    affine = np.eye(4)[:, [*order, 3]] * [2.0, 3.0, 4.0, 1.0]
    array = RAS.transpose(order)
    for axis in range(3):
        if flips[axis]:
            array = np.flip(array, axis)
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
    return array, Geometry(affine)


def page(array, geometry, name):
    """All slices of the plane of that name, as pages, summed."""
    (plane,) = (p for p in (display_plane(geometry, axis) for axis in range(3)) if p.name == name)
    return plane, np.max([plane.cut(array, n) for n in range(array.shape[plane.axis])], axis=0)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product((False, True), repeat=3)))
def test_radiological_convention_from_any_of_48_orientations(order, flips):
    array, geometry = turned(order, flips)
    plane, axial = page(array, geometry, "axial")
    assert plane.letters == ("R", "L", "A", "P")
    assert axial.shape == (6, 5)
    assert (axial[3, 0], axial[0, 2]) == (1, 2)  # right on the left, front on top
    plane, coronal = page(array, geometry, "coronal")
    assert plane.letters == ("R", "L", "S", "I")
    assert (coronal[3, 0], coronal[0, 2]) == (1, 3)  # right on the left, head on top
    plane, sagittal = page(array, geometry, "sagittal")
    assert plane.letters == ("A", "P", "S", "I")
    assert (sagittal[3, 0], sagittal[0, 3]) == (2, 3)  # front on the left, head on top


def test_slices_are_cut_along_the_largest_spacing_and_else_axially():
    assert display_plane(Geometry(np.diag([1.0, 4.0, 2.0, 1.0]))).name == "coronal"
    plane = display_plane(Geometry(np.diag([1.0, 1.0, 1.01, 1.0])))
    assert (plane.name, plane.axis, plane.row_mm, plane.column_mm) == ("axial", 2, 1.0, 1.0)
    plane = display_plane(Geometry(np.diag([0.5, 0.7, 3.0, 1.0])))
    assert (plane.row_mm, plane.column_mm) == (0.7, 0.5)


def test_tilt_of_an_oblique_volume():
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    plane = display_plane(Geometry(affine))
    assert plane.name == "axial"
    assert plane.tilt_degrees == pytest.approx(20)
    assert display_plane(Geometry(np.eye(4))).tilt_degrees == pytest.approx(0, abs=1e-5)


def test_unknown_axis_is_refused():
    with pytest.raises(InputError, match="slice_axis: expected a slice axis of 0, 1 or 2, got 3"):
        display_plane(Geometry(np.eye(4)), 3)


def test_selected_slices_are_spread_and_have_weight():
    weights = np.zeros(30)
    weights[5:25] = 1
    weights[[6, 14, 15, 16]] = (9, 8, 9, 8)
    chosen = select_slices(weights, 3)
    assert chosen == sorted(chosen)
    assert len(chosen) == 3
    assert 6 in chosen
    assert 15 in chosen
    assert all(weights[n] > 0 for n in chosen)
    assert select_slices(np.zeros(9), 3) == [4]
    assert select_slices(np.array([0.0, 2.0, 0.0]), 3) == [1]
