"""How a volume is laid on a page: which way up a slice is shown, and which slices tell most.

Radiological convention: the patient is looked at from the feet (axial) or the front (coronal), so the patient's right
is on the left of the page; anterior is up in axial slices, superior in coronal and sagittal ones, anterior left in
sagittal ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.volume import Geometry

_NAMES = ("sagittal", "coronal", "axial")  # by the RAS axis that the slices are stacked along
_LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))  # start and end of a page axis that shows RAS axis 0, 1, 2

# Below this angle an anatomical letter is simply true; above it the caption says how far the slice is tilted.
OBLIQUE_DEGREES = 5.0

# Spacings this close are one spacing: rounding must not decide which way a case is cut.
_SAME_SPACING = 1.05


@dataclass(frozen=True)
class DisplayPlane:
    """The way slices along one array axis are shown.

    Attributes:
        axis: Array axis the slices are stacked along.
        name: "axial", "coronal" or "sagittal", by the nearest anatomical axis.
        row_axis: Array axis that runs down the page.
        column_axis: Array axis that runs to the right.
        flip_rows: Whether the row axis is reversed for that.
        flip_columns: Whether the column axis is reversed for that.
        row_mm: Distance of neighbouring rows.
        column_mm: Distance of neighbouring columns.
        letters: Anatomical direction at the left, right, top and bottom of the page.
        tilt_degrees: Largest angle between an array axis and the anatomical axis it is named after.
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
        """Return slice ``index`` of [I, J, K] voxels as [rows, columns] of the page."""
        plane: NDArray[np.generic] = np.take(array, index, axis=self.axis)
        if self.row_axis > self.column_axis:
            plane = plane.T
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in (self.flip_rows, self.flip_columns))
        return plane[rows, columns]


def display_plane(geometry: Geometry, axis: int | None = None) -> DisplayPlane:
    """Choose how to show the slices of a volume.

    Args:
        geometry: Where the voxels lie.
        axis: Array axis to cut along; by default the one of largest spacing (the axis the scanner stacked slices along,
            whose slices are the sharpest), and the one nearest to head-foot where spacings are the same.

    Raises:
        InputError: There is no such axis.
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
    row, column = {0: (2, 1), 1: (2, 0), 2: (1, 0)}[normal]  # RAS axes shown down the page and to the right
    row_axis, column_axis = anatomical.index(row), anatomical.index(column)
    cosines = [abs(float(directions[anatomical[a], a])) for a in range(3)]
    return DisplayPlane(
        axis=axis,
        name=_NAMES[normal],
        row_axis=row_axis,
        column_axis=column_axis,
        # Down the page runs towards P or I, to the right towards L or P: against RAS in every case.
        flip_rows=bool(directions[row, row_axis] > 0),
        flip_columns=bool(directions[column, column_axis] > 0),
        row_mm=float(spacing[row_axis]),
        column_mm=float(spacing[column_axis]),
        letters=(*_LETTERS[column], *_LETTERS[row]),
        tilt_degrees=math.degrees(math.acos(min(min(cosines), 1.0))),
    )


def telling_slices(weights: NDArray[np.floating], count: int) -> list[int]:
    """Choose slices that show most, spread over the extent of what there is to see.

    Args:
        weights: How much there is to see in each slice, 0 or more.
        count: Number of slices wanted.

    Returns:
        At most ``count`` ascending slice indices, one from the middle of each equal part of the extent; the
        volume's middle slice if there is nothing to see.
    """
    filled = np.flatnonzero(weights > 0)
    if not len(filled):
        return [len(weights) // 2]
    edges = np.linspace(filled[0], filled[-1] + 1, min(count, len(filled)) + 1).round().astype(int)
    best = []
    for start, end in pairwise(edges):
        margin = (end - start) // 5  # neighbouring parts must not both choose the slices at their common edge
        inner = weights[start + margin : end - margin]
        best.append(int(start + margin + np.argmax(inner)))
    return [index for index in best if weights[index] > 0]


def _nearest_axes(directions: NDArray[np.float64]) -> list[int]:
    """Assign to each array axis its own anatomical axis, 0 to 2, so that the cosines' sum is largest."""
    from scipy.optimize import linear_sum_assignment

    _, anatomical = linear_sum_assignment(-np.abs(directions).T)
    return [int(a) for a in anatomical]
