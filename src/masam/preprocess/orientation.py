"""Bring a volume into the order in which the model sees it: slices first, each slice as a radiologist views it.

Only axes are swapped and reversed, so no voxel changes and the way back is exact.
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
"""``stored`` takes a file's third axis, whatever its anatomical direction, as the official MA-SAM does."""

# Towards where slices, rows and columns run. Axial: from the feet to the head, front at the top, the patient's right on
# the viewer's left (the radiological view). Coronal and sagittal have the head at the top.
CANONICAL_AXES: dict[SliceAxis, tuple[str, str, str]] = {
    "axial": ("S", "P", "L"),
    "coronal": ("P", "I", "L"),
    "sagittal": ("L", "I", "P"),
}

_WORLD_AXIS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_SLICE_AXIS_OF_WORLD: tuple[SliceAxis, SliceAxis, SliceAxis] = ("sagittal", "coronal", "axial")

# Spacings this close count as one: nearly isotropic volumes are viewed axially, as most labels were drawn.
_SAME_SPACING = 1.10


@dataclass(frozen=True)
class Orientation:
    """A permutation of array axes and the reversal of some.

    Attributes:
        order: For each canonical axis (slices, rows, columns), the source axis it is.
        flips: For each canonical axis, whether it runs against its source axis.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, geometry: Geometry, slice_axis: SliceView) -> Orientation:
        """Find the way of a volume to canonical order; an oblique axis goes to the closest anatomical one."""
        if slice_axis == "stored":
            return STORED
        nearest, signs = _nearest_axes(geometry)
        wanted = [_WORLD_AXIS[letter] for letter in CANONICAL_AXES[slice_axis]]
        slices, rows, columns = (nearest[world] for world, _ in wanted)
        flip_slices, flip_rows, flip_columns = (signs[world] != sign for world, sign in wanted)
        return cls((slices, rows, columns), (flip_slices, flip_rows, flip_columns))

    def apply(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return a view of a source array [I, J, K] as [slices, rows, columns]; a fourth axis stays the last."""
        return self._reverse(array.transpose(*self.order, *range(3, array.ndim)))

    def invert(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return a view of an array [slices, rows, columns] in source order [I, J, K]."""
        slices, rows, columns = np.argsort(self.order).tolist()
        return self._reverse(array).transpose(slices, rows, columns)

    def positions(self, index_ijk: NDArray[np.float64], whole: tuple[int, int, int]) -> NDArray[np.float64]:
        """Return where voxel positions lie in the canonical order.

        Args:
            index_ijk: [..., 3] positions in a source array; voxel k's centre is k.
            whole: Slices, rows and columns of the whole volume.

        Returns:
            [..., 3] slice, row and column.
        """
        canonical = index_ijk[..., list(self.order)]
        return np.where(self.flips, np.array(whole) - 1 - canonical, canonical)

    def _reverse(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        slices, rows, columns = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array[slices, rows, columns]


STORED = Orientation(order=(2, 1, 0), flips=(False, True, True))
"""A quarter turn and a mirroring of each stored slice, as the official preprocessing has them (paper.md, quirk 21).

For files whose axes run to the patient's right, front and head, it is the axial view.
"""


def largest_spacing_axis(geometry: Geometry) -> SliceAxis:
    """Return the anatomical direction in which a volume was sliced: that of its largest voxel spacing.

    Where the largest spacing is not more than 10 % above the smallest, or above the axial one, it is ``"axial"``.
    """
    spacing_mm = world_order(geometry, geometry.spacing_mm)
    largest = max(spacing_mm)
    if largest <= _SAME_SPACING * spacing_mm[2]:
        return "axial"
    return _SLICE_AXIS_OF_WORLD[spacing_mm.index(largest)]


def world_order(geometry: Geometry, per_axis: tuple[PerAxis, PerAxis, PerAxis]) -> tuple[PerAxis, PerAxis, PerAxis]:
    """Reorder three things, one an array axis, to left-right, front-back, feet-head."""
    (first, second, third), _ = _nearest_axes(geometry)
    return per_axis[first], per_axis[second], per_axis[third]


def _nearest_axes(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For each world axis (R, A, S), find the array axis closest to it and the sign (1 or -1) it runs in.

    All three are assigned at once, by the largest sum of cosines. (nibabel's ``io_orientation`` assigns one array axis
    after the other, so for a strongly oblique volume the answer depends on the order in which its axes are stored.)
    Between equal sums the directions decide; rounding to six digits keeps the last bit of an affine from deciding.
    """
    cosines = (geometry.affine[:3, :3] / np.array(geometry.spacing_mm)).round(6)

    def quality(axes: tuple[int, ...]) -> tuple[float, ...]:
        directions = [cosines[:, axis] * (1 if cosines[world, axis] >= 0 else -1) for world, axis in enumerate(axes)]
        total = sum(float(direction[world]) for world, direction in enumerate(directions))
        return (round(total, 5), *np.concatenate(directions).tolist())

    first, second, third = max(itertools.permutations(range(3)), key=quality)
    signs = [1 if cosines[world, axis] >= 0 else -1 for world, axis in enumerate((first, second, third))]
    return (first, second, third), (signs[0], signs[1], signs[2])
