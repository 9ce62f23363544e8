"""A simulated user who knows the reference: boxes around an object, and clicks that correct a prediction.

All prompts are in voxels of the scan, the input of ``masam predict``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from masam.prompts.correction import deepest, largest_error
from masam.prompts.records import Box3D, Click
from masam.prompts.simulation import JITTER

RELAXED = (0.05, 0.1, 0.2)
"""Expansion of relaxed boxes at each end, as fractions of the side length."""

BOXES = ("tight box", *(f"box relaxed by {100 * fraction:g} %" for fraction in RELAXED), "jittered box")
"""Names of the boxes, in table order."""


def draw_boxes(
    reference: NDArray[np.bool_], seen: NDArray[np.bool_], class_name: str, generator: np.random.Generator
) -> dict[str, Box3D]:
    """Draw one box of each kind, by its name in ``BOXES``, around an object [I, J, K], clipped to the crop.

    - tight: from the first to the last voxel of the object.
    - relaxed by 5, 10, 20 %: each of the six faces moved outwards by that fraction of the side length, rounded to
      voxels with halves outwards (5 % of 9 voxels is 0, of 10 voxels 1).
    - jittered: each face moved independently, normally distributed with a standard deviation of 10 % of the side
      length as in training, rounded to voxels with halves to even.

    ``seen`` [I, J, K] is the box of the scan that remains after cropping. Without an object in it, there are no boxes.
    """
    inside = reference & seen
    if not inside.any():
        return {}
    corners, border = _extent(inside), _extent(seen)
    length = corners[1] - corners[0] + 1
    outwards = np.array([[-1], [1]])
    moves = [0 * outwards, *(outwards * np.floor(fraction * length + 0.5) for fraction in RELAXED)]
    moves.append(np.rint(generator.normal(0, JITTER, (2, 3)) * length))
    boxes = {}
    for name, move in zip(BOXES, moves, strict=True):
        # Jitter may invert a thin box.
        ends = np.sort(np.clip(corners + move, *border), axis=0)
        boxes[name] = Box3D(tuple(ends.ravel().tolist()), class_name=class_name)
    return boxes


def correct(
    reference: NDArray[np.bool_],
    answer: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    class_name: str,
    earlier: Sequence[Click] = (),
) -> Click | None:
    """Click on the deepest voxel of the largest connected error of a prediction [I, J, K]; deterministic.

    The click is positive in a false negative region and negative in a false positive one; None without an error. Voxels
    of earlier clicks count as correct, so that clicks do not repeat and keep a distance from each other.
    """
    answer = answer.copy()
    for click in earlier:
        voxel = tuple(map(int, click.position))
        answer[voxel] = reference[voxel]
    region, is_missed = largest_error(reference, answer)
    return None if region is None else Click(deepest(region, spacing_mm), is_missed, class_name=class_name)


def _extent(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the first and last voxel [2, 3] of a non-empty mask."""
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return np.array([[axis.start for axis in box], [axis.stop - 1 for axis in box]])
