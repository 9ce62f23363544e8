"""Boxes and points that move along with their window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masam.augment.geometry import Warp
from masam.errors import InputError

NO_POINT = -1
"""Label of a point that counts for nothing, as in SAM."""


@dataclass(frozen=True, eq=False)
class WindowPrompts:
    """Prompts of a window, in pixels, x before y; the first pixel's centre is 0.

    Attributes:
        boxes: [S, 4] x0, y0, x1, y1, the first and the last pixel that belong to it; NaN where a slice has none.
        points: [S, P, 2] x and y.
        point_labels: [S, P] 1 on the object, 0 beside it, -1 where there is no point.
        box_channel: The class that the boxes enclose. Moved boxes are then read off the moved labels, so they stay
            tight; None takes the hull of the moved corners, which is looser where the image is turned.

    Raises:
        InputError: Shapes do not fit together.
    """

    boxes: NDArray[np.float32]
    points: NDArray[np.float32]
    point_labels: NDArray[np.int64]
    box_channel: int | None = None

    def __post_init__(self) -> None:
        s = len(self.boxes)
        if (
            self.boxes.shape != (s, 4)
            or self.points.shape != (s, *self.point_labels.shape[1:], 2)
            or self.point_labels.ndim != 2
            or len(self.point_labels) != s
        ):
            raise InputError(
                "expected boxes [S, 4], points [S, P, 2] and point labels [S, P], got "
                f"{self.boxes.shape}, {self.points.shape} and {self.point_labels.shape}",
                where="prompts",
            )


def move_prompts(prompts: WindowPrompts, warp: Warp, labels: NDArray[np.signedinteger]) -> WindowPrompts:
    """Move prompts as their window was moved.

    Args:
        prompts: Prompts of the source.
        warp: How the window was moved.
        labels: [S, H, W], the moved window's labels.

    Returns:
        Boxes cut to the image, NaN where nothing of them is left; points outside the image are no points any more
        (label -1, at 0). A slice without a box gets none.

    Raises:
        InputError: The prompts are of another number of slices than the labels.
    """
    if len(prompts.boxes) != len(labels):
        raise InputError(f"expected prompts of {len(labels)} slices, got {len(prompts.boxes)}", where="prompts")
    if prompts.box_channel is None:
        boxes = prompts.boxes if warp.is_identity else _hulls(prompts.boxes, warp)
    else:
        boxes = boxes_of(labels == prompts.box_channel)
        boxes[np.isnan(prompts.boxes).any(axis=1)] = np.nan
    points, kinds = prompts.points, prompts.point_labels
    if not warp.is_identity:
        height, width = warp.size
        moved = warp.points(points)
        inside = ((moved >= -0.5) & (moved < [width - 0.5, height - 0.5])).all(axis=-1) & (kinds != NO_POINT)
        points = np.where(inside[..., None], moved, 0).astype(np.float32)
        kinds = np.where(inside, kinds, NO_POINT)
    return WindowPrompts(boxes, points, kinds, prompts.box_channel)


def boxes_of(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the tight box of each mask.

    Args:
        masks: [S, H, W].

    Returns:
        [S, 4], NaN where a mask is empty.
    """
    boxes = np.full((len(masks), 4), np.nan, np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1], rows[-1]
    return boxes


def _hulls(boxes: NDArray[np.float32], warp: Warp) -> NDArray[np.float32]:
    """Return the hull of each box's moved outline, cut to the image."""
    height, width = warp.size
    # Pixels have an extent: the outline runs half a pixel outside the first and the last centre.
    x0, y0, x1, y1 = (boxes + np.array([-0.5, -0.5, 0.5, 0.5], np.float32)).T
    # Corners are enough where lines stay straight; a deformation bends the sides, so they are followed.
    steps = np.linspace(0, 1, 2 if warp.deformation is None else 17)[:, None]
    sides = [(x0 + steps * (x1 - x0), y) for y in (y0, y1)] + [(x, y0 + steps * (y1 - y0)) for x in (x0, x1)]
    outline = np.concatenate([np.stack(np.broadcast_arrays(x, y), axis=-1) for x, y in sides])
    moved = warp.points(outline)
    low = np.maximum(moved.min(axis=0) + 0.5, 0)
    high = np.minimum(moved.max(axis=0) - 0.5, [width - 1, height - 1])
    hulls = np.concatenate([low, high], axis=1).astype(np.float32)
    # Half a pixel of tolerance: a box of one pixel may come out as less.
    hulls[(high - low < -0.5).any(axis=1)] = np.nan
    return hulls
