"""Surface distances between two masks, in millimetres.

HD95 has several definitions in the literature. This module uses the following:

- *Boundary voxels* are voxels of a mask with a face neighbour outside it, or at the edge of the image. Directed
  distances are measured from the centre of each boundary voxel of one mask to the nearest one of the other mask.
- ``hd95_mm``: the larger of the two directed 95th percentiles (as in MONAI, nnU-Net and most papers).
- ``hd95_pooled_mm``: the 95th percentile of the pooled distances of both directions (as in medpy), usually smaller.
- ``assd_mm``: the mean of the pooled distances (average symmetric surface distance).
- ``nsd``: normalised surface Dice, the fraction of the *area* of both surfaces that lies within the tolerance of the
  other surface. Surface elements and areas are those of DeepMind's ``surface-distance`` (``surface_elements.py``).

Percentiles are interpolated linearly (the default of NumPy). If one mask is empty, the distances are NaN and ``nsd`` is
0. If both are empty, all values are NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from masam.errors import ConfigError, InputError
from masam.evaluation.surface_elements import element_areas_mm2, filling_codes

# A distance equal to the tolerance is within it, although in floating point 3 * 0.1 > 0.3.
_TOLERANCE_SLACK = 1 + 1e-9

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class SurfaceScores:
    """Surface distances of one class in mm, and ``nsd``, as defined in this module."""

    hd95_mm: float
    hd95_pooled_mm: float
    assd_mm: float
    nsd: float


def surface_scores(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: Spacing, nsd_tolerance_mm: float = 1.0
) -> SurfaceScores:
    """Measure the distance between the surfaces of two masks.

    Time and memory depend on the common bounding box and the number of surface voxels, not on the size of the image.

    Args:
        reference: [I, J, K] mask.
        prediction: [I, J, K] mask.
        spacing_mm: Distance between neighbouring voxels along each axis.
        nsd_tolerance_mm: Distance up to which surfaces are considered equal in ``nsd``.

    Raises:
        InputError: The masks are not 3D, have different shapes, or the spacing is not positive.
        ConfigError: The tolerance is negative or not finite.
    """
    if reference.ndim != 3 or reference.shape != prediction.shape:
        raise InputError(f"expected two masks [I, J, K] of one shape, got {reference.shape} and {prediction.shape}")
    if not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise InputError(f"expected a positive spacing in mm along each axis, got {spacing_mm}")
    check_tolerance(nsd_tolerance_mm)
    union = reference | prediction
    if not union.any():
        return SurfaceScores(math.nan, math.nan, math.nan, math.nan)
    (box,) = ndimage.find_objects(union.view(np.uint8))
    padded = [np.pad(mask[box], 1) for mask in (reference, prediction)]
    if not all(mask.any() for mask in padded):
        return SurfaceScores(math.nan, math.nan, math.nan, 0.0)
    to_prediction, to_reference = _both_ways(_boundary(padded[0]), _boundary(padded[1]), spacing_mm)
    pooled = np.concatenate([to_prediction, to_reference])
    return SurfaceScores(
        hd95_mm=float(max(np.percentile(to_prediction, 95), np.percentile(to_reference, 95))),
        hd95_pooled_mm=float(np.percentile(pooled, 95)),
        assd_mm=float(pooled.mean()),
        nsd=_surface_dice(padded[0], padded[1], spacing_mm, nsd_tolerance_mm),
    )


def check_tolerance(nsd_tolerance_mm: float) -> None:
    """Raise ConfigError if a tolerance is negative or not finite."""
    if not (math.isfinite(nsd_tolerance_mm) and nsd_tolerance_mm >= 0):
        raise ConfigError(f"expected a tolerance of 0 mm or more, got {nsd_tolerance_mm}", where="nsd_tolerance_mm")


def _boundary(padded: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels that have a face neighbour outside the mask."""
    core = padded[1:-1, 1:-1, 1:-1]
    interior = core.copy()
    for axis, step in product(range(3), (0, 2)):
        window = [slice(1, -1)] * 3
        window[axis] = slice(step, padded.shape[axis] - 2 + step)
        interior &= padded[tuple(window)]
    return core & ~interior


def _both_ways(
    one: NDArray[np.bool_], other: NDArray[np.bool_], spacing_mm: Spacing
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance in mm from each marked voxel of ``one`` to the nearest of ``other``, and the reverse."""
    return _directed(one, other, spacing_mm), _directed(other, one, spacing_mm)


def _directed(source: NDArray[np.bool_], target: NDArray[np.bool_], spacing_mm: Spacing) -> NDArray[np.float64]:
    """Return the distance from each marked voxel of ``source``, in array order, to the nearest one of ``target``."""
    spacing = np.array(spacing_mm)
    apart = ~target[source]  # the distance of voxels that are marked in both is 0
    distance = np.zeros(len(apart))
    if not apart.any():
        return distance
    start, end = np.argwhere(source)[apart], np.argwhere(target)
    # A k-d tree of the surface is much faster than a distance transform of the box (benchmarks/evaluate.py). Balancing
    # it is slow because grid points have many equal coordinates.
    _, nearest = KDTree(end * spacing, balanced_tree=False, compact_nodes=False).query(start * spacing)
    # Computed from index differences, because in floating point 3 * 0.7 - 2 * 0.7 is not 0.7.
    distance[apart] = np.sqrt((((start - end[nearest]) * spacing) ** 2).sum(axis=1))
    return distance


def _surface_dice(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: Spacing, tolerance_mm: float
) -> float:
    """Return the fraction of the area of both surfaces that lies within the tolerance of the other surface."""
    codes = [filling_codes(mask) for mask in (reference, prediction)]
    marked = [(code != 0) & (code != 255) for code in codes]
    areas_mm2 = element_areas_mm2(spacing_mm)
    limit_mm = tolerance_mm * _TOLERANCE_SLACK
    within = total = 0.0
    for code, mask, distance in zip(codes, marked, _both_ways(marked[0], marked[1], spacing_mm), strict=True):
        area = areas_mm2[code[mask]]
        within += float(area[distance <= limit_mm].sum())
        total += float(area.sum())
    return within / total
