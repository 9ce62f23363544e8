"""Spatial augmentation of boxes and points along with their window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masam.augment.geometry import Warp
from masam.errors import InputError

NO_POINT = -1
"""Label of padding points, as in SAM."""


@dataclass(frozen=True, eq=False)
class WindowPrompts:
    """Prompts of a window, in pixels, x before y; the first pixel's centre is 0.

    Attributes:
        boxes: [S, 4] x0, y0, x1, y1, the first and last pixel inside; NaN for slices without a box.
        points: [S, P, 2] x and y.
        point_labels: [S, P] 1 on the object, 0 outside, -1 padding.
        box_channel: Class inside the boxes, whose transformed labels then give tight boxes. With None a box becomes the
            bounding box of its transformed outline, which is larger under rotation.

    Raises:
        InputError: Shapes do not match.
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
    """Transform prompts along with their window, whose transformed labels are [S, H, W].

    Boxes are clipped to the image, NaN if nothing remains; points outside the image become padding (label -1, at 0).
    """
    if len(prompts.boxes) != len(labels):
        raise InputError(f"expected prompts for {len(labels)} slices, got {len(prompts.boxes)}", where="prompts")
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
    """Return the tight boxes [S, 4] of masks [S, H, W], NaN for empty masks."""
    boxes = np.full((len(masks), 4), np.nan, np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1], rows[-1]
    return boxes


def _hulls(boxes: NDArray[np.float32], warp: Warp) -> NDArray[np.float32]:
    """Return the bounding box of each transformed box, clipped to the image."""
    height, width = warp.size
    # The outline is half a pixel outside the first and last pixel centre.
    x0, y0, x1, y1 = (boxes + np.array([-0.5, -0.5, 0.5, 0.5], np.float32)).T
    # Corners suffice for affine transforms; a deformation bends the sides, so these are sampled.
    steps = np.linspace(0, 1, 2 if warp.deformation is None else 17)[:, None]
    sides = [(x0 + steps * (x1 - x0), y) for y in (y0, y1)] + [(x, y0 + steps * (y1 - y0)) for x in (x0, x1)]
    outline = np.concatenate([np.stack(np.broadcast_arrays(x, y), axis=-1) for x, y in sides])
    moved = warp.points(outline)
    low = np.maximum(moved.min(axis=0) + 0.5, 0)
    high = np.minimum(moved.max(axis=0) - 0.5, [width - 1, height - 1])
    hulls = np.concatenate([low, high], axis=1).astype(np.float32)
    # A tolerance of half a pixel keeps boxes of one pixel.
    hulls[(high - low < -0.5).any(axis=1)] = np.nan
    return hulls
