"""Reorder a volume for the model: slices first, each in the radiological view.

Axes are only permuted and reversed, so voxels do not change and the inverse is exact.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from masam.volume import Geometry

Scalar = TypeVar("Scalar", bound=np.generic)
PerAxis = TypeVar("PerAxis")
SliceAxis = Literal["axial", "coronal", "sagittal"]
SliceView = Literal["axial", "coronal", "sagittal", "stored"]
"""``stored`` uses the third axis of the file, whatever its anatomical direction, as the official MA-SAM does."""

# Directions in which slices, rows and columns run. Axial: from feet to head, anterior at the top, the patient's right
# on the viewer's left (radiological view). Coronal and sagittal: head at the top.
CANONICAL_AXES: dict[SliceAxis, tuple[str, str, str]] = {
    "axial": ("S", "P", "L"),
    "coronal": ("P", "I", "L"),
    "sagittal": ("L", "I", "P"),
}

_WORLD_AXIS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_SLICE_AXIS_OF_WORLD: tuple[SliceAxis, SliceAxis, SliceAxis] = ("sagittal", "coronal", "axial")

# Volumes with spacings within this ratio are viewed axially, as most labels are drawn.
_SAME_SPACING = 1.10


@dataclass(frozen=True)
class Orientation:
    """A permutation and reversal of array axes.

    Attributes:
        order: Source axis of each canonical axis (slices, rows, columns).
        flips: Whether each canonical axis is the reversed source axis.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, geometry: Geometry, slice_axis: SliceView) -> Orientation:
        """Return the orientation of a volume; an oblique axis is assigned to the closest anatomical one."""
        if slice_axis == "stored":
            return STORED
        nearest, signs = _nearest_axes(geometry)
        axes = [_WORLD_AXIS[letter] for letter in CANONICAL_AXES[slice_axis]]
        slices, rows, columns = (nearest[world] for world, _ in axes)
        flip_slices, flip_rows, flip_columns = (signs[world] != sign for world, sign in axes)
        return cls((slices, rows, columns), (flip_slices, flip_rows, flip_columns))

    def apply(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return a source array [I, J, K, ...] as a view [slices, rows, columns, ...]."""
        return self._reverse(array.transpose(*self.order, *range(3, array.ndim)))

    def invert(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return an array [slices, rows, columns] as a view in source order [I, J, K]."""
        slices, rows, columns = np.argsort(self.order).tolist()
        return self._reverse(array).transpose(slices, rows, columns)

    def positions(self, index_ijk: NDArray[np.float64], size: tuple[int, int, int]) -> NDArray[np.float64]:
        """Convert voxel positions [..., 3], centres at integers, to slice, row and column in a volume of this size."""
        canonical = index_ijk[..., list(self.order)]
        return np.where(self.flips, np.array(size) - 1 - canonical, canonical)

    def _reverse(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        slices, rows, columns = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array[slices, rows, columns]


STORED = Orientation(order=(2, 1, 0), flips=(False, True, True))
"""Each stored slice rotated by a quarter turn and mirrored, as in the official preprocessing (paper.md, quirk 21).

For files in RAS orientation, this is the axial view.
"""


def largest_spacing_axis(geometry: Geometry) -> SliceAxis:
    """Return the anatomical direction of the largest voxel spacing, in which the volume was probably sliced.

    If the largest spacing is at most 10 % above the axial one, the result is ``"axial"``.
    """
    spacing_mm = world_order(geometry, geometry.spacing_mm)
    largest = max(spacing_mm)
    if largest <= _SAME_SPACING * spacing_mm[2]:
        return "axial"
    return _SLICE_AXIS_OF_WORLD[spacing_mm.index(largest)]


def world_order(geometry: Geometry, per_axis: tuple[PerAxis, PerAxis, PerAxis]) -> tuple[PerAxis, PerAxis, PerAxis]:
    """Reorder one value per array axis to left-right, posterior-anterior, inferior-superior."""
    (first, second, third), _ = _nearest_axes(geometry)
    return per_axis[first], per_axis[second], per_axis[third]


def _nearest_axes(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the closest array axis of each world axis (R, A, S), and its sign (1 or -1).

    All three are assigned together by the largest sum of cosines. (nibabel's ``io_orientation`` assigns them one after
    the other, so for a strongly oblique volume its result depends on the stored order of the axes.) Ties are resolved
    by the directions, rounded to six digits to be independent of the last bits of the affine.
    """
    cosines = (geometry.affine[:3, :3] / np.array(geometry.spacing_mm)).round(6)

    def quality(axes: tuple[int, ...]) -> tuple[float, ...]:
        directions = [cosines[:, axis] * (1 if cosines[world, axis] >= 0 else -1) for world, axis in enumerate(axes)]
        total = sum(float(direction[world]) for world, direction in enumerate(directions))
        return (round(total, 5), *np.concatenate(directions).tolist())

    first, second, third = max(itertools.permutations(range(3)), key=quality)
    signs = [1 if cosines[world, axis] >= 0 else -1 for world, axis in enumerate((first, second, third))]
    return (first, second, third), (signs[0], signs[1], signs[2])
