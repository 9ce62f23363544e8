"""A user who knows the reference: boxes about an object in a scan, and clicks that correct an answer.

All in the scan's own voxels, as ``masam predict`` takes them.
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
"""How far the sides of relaxed boxes are moved out, as fractions of the side."""

BOXES = ("tight box", *(f"box relaxed by {100 * fraction:g} %" for fraction in RELAXED), "jittered box")
"""Names of the boxes, in the order of a table."""


def draw_boxes(
    reference: NDArray[np.bool_], seen: NDArray[np.bool_], class_name: str, generator: np.random.Generator
) -> dict[str, Box3D]:
    """Draw one box of each kind about an object.

    A side's length counts its voxels, the first and the last included. Moves are rounded to the nearest whole voxel,
    halves outwards (relaxed) or to the even one (jittered): 5 % of a side of 9 voxels is none, of 10 it is one.

    - tight: from the first to the last voxel of the object, along each axis of the array.
    - relaxed by 5, 10, 20 %: each side moved outwards by that fraction of its length, along all three axes.
    - jittered: each of the six sides moved by itself, normally distributed with a standard deviation of 0.1 of
      the length, as in training.

    All are cut to what the model sees.

    Args:
        reference: [I, J, K] the object.
        seen: [I, J, K] what the model sees of the scan: a box without what a plan crops away.
        class_name: Class of the object.
        generator: Source of the jitter.

    Returns:
        Name out of ``BOXES`` to box, in voxels; none where the model sees nothing of the object.
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
        # Jitter may turn a thin box over.
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
    """Click on the deepest place of the largest connected error, in three dimensions.

    Nothing is drawn at random. A voxel that was clicked on counts as right, so that none is clicked on twice and the
    next click keeps away from those before.

    Args:
        reference: [I, J, K] the object.
        answer: [I, J, K] what was predicted.
        spacing_mm: Size of a voxel along each axis, for the depth.
        class_name: Class of the object.
        earlier: Clicks that were made.

    Returns:
        A click on the object where the error was missed, beside it where it was taken too much; None without an error.
    """
    answer = answer.copy()
    for click in earlier:
        place = tuple(map(int, click.position))
        answer[place] = reference[place]
    region, is_missed = largest_error(reference, answer)
    return None if region is None else Click(deepest(region, spacing_mm), is_missed, class_name=class_name)


def _extent(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the first and the last voxel [2, 3] of a mask that is not empty."""
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return np.array([[axis.start for axis in box], [axis.stop - 1 for axis in box]])
