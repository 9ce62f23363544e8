"""Orientation of the slices of a volume in a figure, and selection of slices.

Slices are shown in radiological convention: axial slices are seen from the feet and coronal slices from the front, so
the patient's right is on the left of the image. Anterior is at the top of axial slices and on the left of sagittal
slices; superior is at the top of coronal and sagittal slices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.volume import Geometry

_NAMES = ("sagittal", "coronal", "axial")  # by the RAS axis along which the slices are stacked
_LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))  # start and end of a figure axis that shows RAS axis 0, 1, 2

OBLIQUE_DEGREES = 5.0
"""Tilt of a slice above which it is stated in the caption."""

# Ratio of spacings that are considered equal, so that rounding does not change the slice axis.
_SAME_SPACING = 1.05


@dataclass(frozen=True)
class DisplayPlane:
    """Orientation of the slices along one array axis.

    Attributes:
        axis: Array axis along which the slices are stacked.
        name: "axial", "coronal" or "sagittal", according to the nearest anatomical axis.
        row_axis: Array axis shown from top to bottom.
        column_axis: Array axis shown from left to right.
        flip_rows: Whether the row axis is reversed.
        flip_columns: Whether the column axis is reversed.
        row_mm: Distance between neighbouring rows.
        column_mm: Distance between neighbouring columns.
        letters: Anatomical directions at the left, right, top and bottom.
        tilt_degrees: Largest angle between an array axis and its nearest anatomical axis.
    """

    axis: int
    name: str
    row_axis: int
    column_axis: int
    flip_rows: bool
    flip_columns: bool
    row_mm: float
    column_mm: float
    letters: tuple[str, str, str, str]
    tilt_degrees: float

    def cut(self, array: NDArray[np.generic], index: int) -> NDArray[np.generic]:
        """Return slice ``index`` of [I, J, K] voxels as [rows, columns] of the figure."""
        plane: NDArray[np.generic] = np.take(array, index, axis=self.axis)
        if self.row_axis > self.column_axis:
            plane = plane.T
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in (self.flip_rows, self.flip_columns))
        return plane[rows, columns]


def display_plane(geometry: Geometry, axis: int | None = None) -> DisplayPlane:
    """Return the orientation of the slices of a volume.

    Args:
        geometry: Geometry of the volume.
        axis: Array axis to slice along; by default the one with the largest spacing, which has the highest in-plane
            resolution, and among equal spacings the one nearest to the head-foot axis.

    Raises:
        InputError: The axis does not exist.
    """
    if axis is not None and axis not in (0, 1, 2):
        raise InputError(f"expected a slice axis of 0, 1 or 2, got {axis}", where="slice_axis")
    spacing = np.array(geometry.spacing_mm)
    directions = geometry.affine[:3, :3] / spacing
    anatomical = _nearest_axes(directions)
    if axis is None:
        thick = [a for a in range(3) if spacing[a] * _SAME_SPACING >= spacing.max()]
        axis = max(thick, key=lambda a: anatomical[a])
    normal = anatomical[axis]
    row, column = {0: (2, 1), 1: (2, 0), 2: (1, 0)}[normal]  # RAS axes shown downwards and to the right
    row_axis, column_axis = anatomical.index(row), anatomical.index(column)
    cosines = [abs(float(directions[anatomical[a], a])) for a in range(3)]
    return DisplayPlane(
        axis=axis,
        name=_NAMES[normal],
        row_axis=row_axis,
        column_axis=column_axis,
        # Downwards is towards P or I, to the right is towards L or P: always opposite to RAS.
        flip_rows=bool(directions[row, row_axis] > 0),
        flip_columns=bool(directions[column, column_axis] > 0),
        row_mm=float(spacing[row_axis]),
        column_mm=float(spacing[column_axis]),
        letters=(*_LETTERS[column], *_LETTERS[row]),
        tilt_degrees=math.degrees(math.acos(min(min(cosines), 1.0))),
    )


def select_slices(weights: NDArray[np.floating], count: int) -> list[int]:
    """Select slices with large weights that are distributed over the range of slices with positive weights.

    Returns:
        Ascending slice indices, at most one from each of ``count`` equal parts of the range; the middle slice if all
        weights are 0.
    """
    filled = np.flatnonzero(weights > 0)
    if not len(filled):
        return [len(weights) // 2]
    edges = np.linspace(filled[0], filled[-1] + 1, min(count, len(filled)) + 1).round().astype(int)
    best = []
    for start, end in pairwise(edges):
        margin = (end - start) // 5  # avoids adjacent slices from neighbouring parts
        best.append(int(start + margin + np.argmax(weights[start + margin : end - margin])))
    return [index for index in best if weights[index] > 0]


def _nearest_axes(directions: NDArray[np.float64]) -> list[int]:
    """Assign a different anatomical axis, 0 to 2, to each array axis, with the largest sum of cosines."""
    from scipy.optimize import linear_sum_assignment

    _, anatomical = linear_sum_assignment(-np.abs(directions).T)
    return [int(a) for a in anatomical]
