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
from masam.preprocess.orientation import CANONICAL_AXES, Orientation, SliceAxis, world_order
from masam.volume import Geometry

_OPPOSITE = {"L": "R", "P": "A", "I": "S"}

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
        orientation: Array axes to slices in stored order, rows from top to bottom, columns from left to right.
        row_mm: Distance between neighbouring rows.
        column_mm: Distance between neighbouring columns.
        letters: Anatomical directions at the left, right, top and bottom.
        tilt_degrees: Largest angle between an array axis and its nearest anatomical axis.
    """

    axis: int
    name: SliceAxis
    orientation: Orientation
    row_mm: float
    column_mm: float
    letters: tuple[str, str, str, str]
    tilt_degrees: float

    def cut(self, array: NDArray[np.generic], index: int) -> NDArray[np.generic]:
        """Return slice ``index`` of [I, J, K] voxels as [rows, columns] of the figure."""
        plane: NDArray[np.generic] = self.orientation.apply(array)[index]
        return plane


def display_plane(geometry: Geometry, axis: int | None = None) -> DisplayPlane:
    """Return the orientation of the slices of a volume along an array axis.

    By default, this is the axis with the largest spacing, for the highest in-plane resolution, and among equal spacings
    the one nearest to the head-foot axis.
    """
    if axis is not None and axis not in (0, 1, 2):
        raise InputError(f"expected a slice axis of 0, 1 or 2, got {axis}", where="slice_axis")
    spacing = np.array(geometry.spacing_mm)
    candidates = np.flatnonzero(spacing * _SAME_SPACING >= spacing.max()).tolist() if axis is None else [axis]
    # Axial comes first, so it is preferred among equal spacings.
    views = {name: Orientation.of(geometry, name) for name in CANONICAL_AXES}
    name = next(name for name, view in views.items() if view.order[0] in candidates)
    (axis, row_axis, column_axis), (_, *flips) = views[name].order, views[name].flips
    _, down, right = CANONICAL_AXES[name]
    nearest = list(world_order(geometry, (0, 1, 2)))
    cosines = np.abs((geometry.affine[:3, :3] / spacing)[range(3), nearest])
    return DisplayPlane(
        axis=axis,
        name=name,
        orientation=Orientation((axis, row_axis, column_axis), (False, flips[0], flips[1])),
        row_mm=float(spacing[row_axis]),
        column_mm=float(spacing[column_axis]),
        letters=(_OPPOSITE[right], right, _OPPOSITE[down], down),
        tilt_degrees=math.degrees(math.acos(min(float(cosines.min()), 1.0))),
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
