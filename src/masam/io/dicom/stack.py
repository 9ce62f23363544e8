"""Whether slices make a volume: they are judged by where they say they lie, never by their names or numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.io.dicom.frames import Frame
from masam.volume import MAX_AXIS_COSINE, Geometry

GAP_TOLERANCE, GAP_TOLERANCE_MM = 0.01, 0.01
"""How far a distance of slices may be from their median: this share of it or so many mm, whichever is more."""

MAX_DRIFT = 0.1
"""How far a slice may be from where even distances put it, as a share of the distance: small errors can add up."""

_DIRECTION_TOLERANCE = 1e-4
_SPACING_TOLERANCE = 1e-4
_FLIP_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def order_slices(frames: Sequence[Frame], where: object) -> tuple[tuple[Frame, ...], Geometry]:
    """Sort the slices of a series along their normal, and say where their voxels lie.

    Args:
        frames: The slices, in any order.
        where: Folder or file to name where no single file is at fault.

    Returns:
        The slices, and the geometry of an array whose axes are columns, rows and slices in this order.

    Raises:
        InputError: They differ in size, spacing or direction, lie at one place, leave gaps, or are sheared.
    """
    first = frames[0]
    for frame in frames[1:]:
        _require_alike(first, frame)
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    positions = np.array([frame.position_lps_mm for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    ordered = [frames[n] for n in order]
    if len(frames) == 1:
        if first.thickness_mm is None:
            raise InputError(
                "one slice, with neither SliceThickness nor SpacingBetweenSlices, is no volume", where=first.name
            )
        step = normal * first.thickness_mm
    else:
        _require_even(ordered, heights[order], where)
        step = _step(positions[order], normal, where)
    affine = np.eye(4)
    affine[:3, 0] = row * first.spacing_mm[1]
    affine[:3, 1] = column * first.spacing_mm[0]
    affine[:3, 2] = step
    affine[:3, 3] = ordered[0].position_lps_mm
    return tuple(ordered), Geometry(_FLIP_TO_RAS @ affine)


def _require_alike(first: Frame, other: Frame) -> None:
    one, two = first.layout, other.layout
    if (one.rows, one.columns) != (two.rows, two.columns):
        raise InputError(
            f"expected {one.columns} x {one.rows} voxels as in {first.name}, got {two.columns} x {two.rows}",
            where=other.name,
            fix="remove what does not belong to the series",
        )
    if np.abs(np.subtract(first.orientation, other.orientation)).max() > _DIRECTION_TOLERANCE:
        raise InputError(
            f"it lies in another direction than {first.name}; is one of them a localizer?",
            where=other.name,
            fix="remove what does not belong to the series",
        )
    if not np.allclose(first.spacing_mm, other.spacing_mm, rtol=_SPACING_TOLERANCE, atol=0):
        raise InputError(
            f"expected a PixelSpacing of {list(first.spacing_mm)} mm as in {first.name}, got {list(other.spacing_mm)}",
            where=other.name,
        )


def _require_even(frames: Sequence[Frame], heights_mm: NDArray[np.float64], where: object) -> None:
    """Refuse slices at one place, gaps, and uneven distances."""
    gaps = np.diff(heights_mm)
    median = float(np.median(gaps))
    if heights_mm[-1] - heights_mm[0] < GAP_TOLERANCE_MM:
        raise InputError(f"all {len(frames)} slices lie at one position", where=where, fix="export the series again")
    doubled = np.flatnonzero(gaps < max(GAP_TOLERANCE_MM, GAP_TOLERANCE * median))
    if doubled.size:
        n = int(doubled[0])
        more = f" ({doubled.size} such pairs)" if doubled.size > 1 else ""
        raise InputError(
            f"{frames[n].name} and {frames[n + 1].name} lie at one position{more}",
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
            fix="export the whole series again",
        )
    drift = np.abs(heights_mm - np.linspace(heights_mm[0], heights_mm[-1], len(heights_mm))).max()
    if is_regular and drift <= MAX_DRIFT * median:
        return
    raise InputError(
        f"the slices lie unevenly, {gaps.min():.4g} to {gaps.max():.4g} mm from one to the next",
        where=where,
        fix="resample them to even distances first, and store the result as NIfTI",
    )


def _step(positions: NDArray[np.float64], normal: NDArray[np.float64], where: object) -> NDArray[np.float64]:
    """Return the way from one slice to the next, in mm; it must be straight and along the normal."""
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    height = float(step @ normal)
    straight = positions[0] + np.arange(len(positions))[:, None] * step
    sideways = positions - straight
    sideways -= np.outer(sideways @ normal, normal)
    if np.linalg.norm(sideways, axis=1).max() > max(GAP_TOLERANCE_MM, GAP_TOLERANCE * height):
        raise InputError(
            "the slices do not lie above one another in a straight line",
            where=where,
            fix="resample them to one grid first, and store the result as NIfTI",
        )
    lateral = float(np.linalg.norm(step - height * normal))
    if lateral * (len(positions) - 1) <= GAP_TOLERANCE_MM:
        return height * normal
    if lateral > MAX_AXIS_COSINE * math.hypot(height, lateral):
        raise InputError(
            f"the slices are sheared by {math.degrees(math.atan2(lateral, height)):.3g} degrees (gantry tilt)",
            where=where,
            fix="resample them to a right-angled grid first, and store the result as NIfTI",
        )
    return step
