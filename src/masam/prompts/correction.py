"""Where an answer is wrong most, and the place in it to click on: what a user does who corrects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def largest_part(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected part of a region; all of it where it is empty.

    Args:
        region: Of any number of axes. Voxels that share a face hang together; of equal parts the first counts.
    """
    parts, count = ndimage.label(region)
    if count <= 1:
        return region
    sizes = np.bincount(parts.ravel())
    largest: NDArray[np.bool_] = parts == 1 + int(sizes[1:].argmax())
    return largest


def largest_error(reference: NDArray[np.bool_], answer: NDArray[np.bool_]) -> tuple[NDArray[np.bool_] | None, bool]:
    """Return the largest connected part of what an answer missed, or took too much.

    Args:
        reference: The object.
        answer: What was predicted, of the same shape.

    Returns:
        The part, None where the answer is right, and whether it was missed; of equal parts the missed one counts.
    """
    missed, false = largest_part(reference & ~answer), largest_part(answer & ~reference)
    counts = np.count_nonzero(missed), np.count_nonzero(false)
    if not any(counts):
        return None, True
    return (missed, True) if counts[0] >= counts[1] else (false, False)


def deepest(region: NDArray[np.bool_], spacing: Sequence[float] | None = None) -> tuple[int, ...]:
    """Return the index that lies furthest from the rim of a region.

    A plate of one slice is everywhere as deep as that slice is thick: of equal places the one nearest to their mean
    counts, and of those the first.

    Args:
        region: Not empty. The border of the array is a rim, so that the place is in the middle of what is seen.
        spacing: Distance from one voxel to the next along each axis; 1 by default.
    """
    (box,) = ndimage.find_objects(region.astype(np.uint8))
    depth = ndimage.distance_transform_edt(np.pad(region[box], 1), sampling=spacing)
    places = np.argwhere(depth == depth.max())
    away = (places - places.mean(axis=0)) * (1.0 if spacing is None else np.array(spacing))
    index = places[int((away**2).sum(axis=1).argmin())]
    return tuple(int(place) - 1 + axis.start for place, axis in zip(index, box, strict=True))
