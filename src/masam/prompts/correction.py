"""The largest error of a prediction and its deepest point, where a user would place a corrective click."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def largest_part(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected component of a region of any dimension; the first of equal ones.

    Voxels are connected if they share a face. An empty region is returned as it is.
    """
    parts, count = ndimage.label(region)
    if count <= 1:
        return region
    sizes = np.bincount(parts.ravel())
    largest: NDArray[np.bool_] = parts == 1 + int(sizes[1:].argmax())
    return largest


def largest_error(reference: NDArray[np.bool_], answer: NDArray[np.bool_]) -> tuple[NDArray[np.bool_] | None, bool]:
    """Return the largest connected false negative or false positive region.

    The first value is None without an error; the second is whether it is a false negative, which also wins ties.
    """
    missed, false = largest_part(reference & ~answer), largest_part(answer & ~reference)
    counts = np.count_nonzero(missed), np.count_nonzero(false)
    if not any(counts):
        return None, True
    return (missed, True) if counts[0] >= counts[1] else (false, False)


def deepest(region: NDArray[np.bool_], spacing: Sequence[float] | None = None) -> tuple[int, ...]:
    """Return the index with the largest distance to the border of a region.

    In a plate of one slice many voxels are equally deep; ties go to the voxel nearest to their mean, then to the first.
    The region is not empty, and the border of the array counts as a border. ``spacing`` is that of the voxels.
    """
    (box,) = ndimage.find_objects(region.astype(np.uint8))
    depth = ndimage.distance_transform_edt(np.pad(region[box], 1), sampling=spacing)
    candidates = np.argwhere(depth == depth.max())
    offset = (candidates - candidates.mean(axis=0)) * (1.0 if spacing is None else np.array(spacing))
    index = candidates[int((offset**2).sum(axis=1).argmin())]
    return tuple(int(position) - 1 + axis.start for position, axis in zip(index, box, strict=True))
