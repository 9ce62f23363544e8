"""Order the slices of a series by their position, and check that they form a volume.

File names and instance numbers are not used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.io.dicom.frames import Frame
from masam.volume import MAX_AXIS_COSINE, Geometry

GAP_TOLERANCE, GAP_TOLERANCE_MM = 0.01, 0.01
"""Tolerance of the distance between two slices, as a fraction of the median distance or in mm, whichever is larger."""

MAX_DRIFT = 0.1
"""Maximum offset of a slice from its position on a regular grid, as a fraction of the distance; errors may add up."""

FLIP_TO_RAS = np.array([-1.0, -1.0, 1.0])
"""Signs that convert between DICOM's frame (LPS) and RAS."""

_DIRECTION_TOLERANCE = 1e-4
_SPACING_TOLERANCE = 1e-4
_RESAMPLE = "resample them to a regular grid first, and store the result as NIfTI"
_OTHER_SERIES = "use the files of one series only"


def order_slices(frames: Sequence[Frame], where: object) -> tuple[tuple[Frame, ...], Geometry]:
    """Sort the slices of a series along their normal, and return their geometry.

    Args:
        frames: The slices, in any order.
        where: Folder or file named in errors that concern several files.

    Returns:
        The slices, and the geometry of an array with the axes columns, rows and slices.

    Raises:
        InputError: The slices differ in size, spacing or orientation, share a position, have gaps, or are sheared.
    """
    first = frames[0]
    for frame in frames[1:]:
        require_same_plane(first, frame)
    normal = normal_of(first)
    positions = np.array([frame.position_lps_mm for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    ordered = [frames[n] for n in order]
    if len(frames) > 1:
        _require_regular(ordered, heights[order], where)
        step = _step(positions[order], normal, where)
    elif first.thickness_mm is None:
        raise InputError(
            "a single slice without SliceThickness and SpacingBetweenSlices is not a volume", where=first.name
        )
    else:
        step = normal * first.thickness_mm
    return tuple(ordered), geometry_of(ordered[0], step)


def normal_of(frame: Frame) -> NDArray[np.float64]:
    """Return the unit normal of a slice in DICOM's frame (LPS)."""
    return np.cross(frame.orientation[:3], frame.orientation[3:])


def geometry_of(first: Frame, step_lps_mm: NDArray[np.float64]) -> Geometry:
    """Return the geometry [columns, rows, slices] of a volume from its first slice and the step to the next."""
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing_mm[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing_mm[0]
    affine[:3, 2] = step_lps_mm
    affine[:3, 3] = first.position_lps_mm
    return Geometry(np.diag([*FLIP_TO_RAS, 1.0]) @ affine)


def require_same_plane(first: Frame, other: Frame) -> None:
    """Raise an InputError if two slices differ in size, orientation or spacing."""
    one, two = first.layout, other.layout
    if (one.rows, one.columns) != (two.rows, two.columns):
        raise InputError(
            f"expected {one.columns} x {one.rows} pixels as in {first.name}, got {two.columns} x {two.rows}",
            where=other.name,
            fix=_OTHER_SERIES,
        )
    if np.abs(np.subtract(first.orientation, other.orientation)).max() > _DIRECTION_TOLERANCE:
        raise InputError(
            f"the orientation differs from that of {first.name}; one of them may be a localizer",
            where=other.name,
            fix=_OTHER_SERIES,
        )
    if not np.allclose(first.spacing_mm, other.spacing_mm, rtol=_SPACING_TOLERANCE, atol=0):
        raise InputError(
            f"expected a PixelSpacing of {list(first.spacing_mm)} mm as in {first.name}, got {list(other.spacing_mm)}",
            where=other.name,
            fix=_OTHER_SERIES,
        )


def _require_regular(frames: Sequence[Frame], heights_mm: NDArray[np.float64], where: object) -> None:
    """Refuse repeated positions, gaps and irregular distances."""
    gaps = np.diff(heights_mm)
    median = float(np.median(gaps))
    if heights_mm[-1] - heights_mm[0] < GAP_TOLERANCE_MM:
        raise InputError(f"all {len(frames)} slices have the same position", where=where, fix="export the series again")
    repeated = np.flatnonzero(gaps < max(GAP_TOLERANCE_MM, GAP_TOLERANCE * median))
    if repeated.size:
        n = int(repeated[0])
        more = f" ({repeated.size} such pairs)" if repeated.size > 1 else ""
        raise InputError(
            f"{frames[n].name} and {frames[n + 1].name} have the same position{more}",
            where=where,
            fix="remove copies, or split phases, echoes or directions into series",
        )
    missing = np.rint(gaps / median).astype(int) - 1
    tolerance = max(GAP_TOLERANCE_MM, GAP_TOLERANCE * median) * (missing + 1)
    is_regular = bool((np.abs(gaps - (missing + 1) * median) <= tolerance).all())
    if is_regular and missing.any():
        n = int(np.flatnonzero(missing)[0])
        slices = "1 slice is" if missing.sum() == 1 else f"{missing.sum()} slices are"
        raise InputError(
            f"{slices} missing, of {len(frames) + missing.sum()}: there is a gap of {gaps[n]:.4g} mm between "
            f"{frames[n].name} and {frames[n + 1].name}, elsewhere {median:.4g} mm",
            where=where,
            fix="export the complete series again",
        )
    drift = np.abs(heights_mm - np.linspace(heights_mm[0], heights_mm[-1], len(heights_mm))).max()
    if not is_regular or drift > MAX_DRIFT * median:
        raise InputError(
            f"the distances between slices are irregular, {gaps.min():.4g} to {gaps.max():.4g} mm",
            where=where,
            fix=_RESAMPLE,
        )


def _step(positions: NDArray[np.float64], normal: NDArray[np.float64], where: object) -> NDArray[np.float64]:
    """Return the step from one slice to the next in mm; all slices must be on a line along the normal."""
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    height = float(step @ normal)
    straight = positions[0] + np.arange(len(positions))[:, None] * step
    sideways = positions - straight
    sideways -= np.outer(sideways @ normal, normal)
    if np.linalg.norm(sideways, axis=1).max() > max(GAP_TOLERANCE_MM, GAP_TOLERANCE * height):
        raise InputError("the positions of the slices are not on a straight line", where=where, fix=_RESAMPLE)
    lateral = float(np.linalg.norm(step - height * normal))
    if lateral * (len(positions) - 1) <= GAP_TOLERANCE_MM:
        return height * normal
    if lateral > MAX_AXIS_COSINE * math.hypot(height, lateral):
        raise InputError(
            f"the slices are sheared by {math.degrees(math.atan2(lateral, height)):.3g} degrees (gantry tilt)",
            where=where,
            fix=_RESAMPLE,
        )
    return step
