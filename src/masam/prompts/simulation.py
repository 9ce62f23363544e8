"""Simulated prompts for training, drawn from the augmented labels of a window so that they match exactly.

The paper's prompt generator was not released (paper.md 1.9); this one draws the prompts that ``masam predict`` accepts.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from masam.augment.prompts import boxes_of
from masam.prompts.projection import MASK_LOGIT, as_mask_prompt

Kind = Literal["tight", "relaxed", "jittered", "clicks", "mask"]
KINDS: tuple[Kind, ...] = ("tight", "relaxed", "jittered", "clicks", "mask")

MOST_RELAXED = 0.2
"""Largest expansion of a relaxed box at each end, as a fraction of the side length; it may also gain end slices."""

JITTER = 0.1
"""Standard deviation of the independent shift of each side of a jittered box, as a fraction of the side length."""

MOST_POINTS = 4
"""Maximum number of clicks on a slice; the first is on the object."""


class DrawnPrompts(NamedTuple):
    """Prompts of a window, the input of ``Masam.decode_each``."""

    boxes: NDArray[np.float32]
    """[S, 4] x0, y0, x1, y1 in pixels, NaN for slices without a box."""
    points: NDArray[np.float32]
    """[S, P, 2] x and y."""
    point_labels: NDArray[np.int64]
    """[S, P] 1 on the object, 0 outside, -1 padding."""
    masks: NDArray[np.float32]
    """[S, 1, H / 4, W / 4] logits, NaN for slices without a mask."""


def no_prompts(slices: int, rows: int, columns: int) -> DrawnPrompts:
    """Return empty prompts for a window [S, H, W]; H and W are multiples of 4."""
    return DrawnPrompts(
        np.full((slices, 4), np.nan, np.float32),
        np.zeros((slices, MOST_POINTS, 2), np.float32),
        np.full((slices, MOST_POINTS), -1, np.int64),
        np.full((slices, 1, rows // 4, columns // 4), np.nan, np.float32),
    )


def draw_prompts(labels: NDArray[np.signedinteger], rate: float, generator: np.random.Generator) -> DrawnPrompts:
    """Draw the prompts of one training window: none, or one kind of prompt for one class in the window.

    ``labels`` [S, H, W] are channel numbers, -100 to ignore; ``rate`` is the share of windows with prompts, 0 to 1.
    """
    if generator.random() >= rate or not (labels > 0).any():
        return no_prompts(*labels.shape)
    masks = labels == generator.choice(np.unique(labels[labels > 0]))
    kind = KINDS[int(generator.integers(len(KINDS)))]
    if kind == "clicks":
        return draw_clicks(masks, labels >= 0, generator)
    return draw_mask(masks, generator) if kind == "mask" else draw_box(masks, kind, generator)


def draw_box(masks: NDArray[np.bool_], kind: Kind, generator: np.random.Generator) -> DrawnPrompts:
    """Draw a 3D box around an object [S, H, W]: one rectangle on all slices from its first to its last."""
    box = _rectangle(masks)
    sides = (box[2:] - box[:2] + 1)[[0, 1, 0, 1]]
    if kind == "relaxed":
        box += np.array([-1, -1, 1, 1]) * sides * generator.uniform(0, MOST_RELAXED)
    elif kind == "jittered":
        box += sides * generator.normal(0, JITTER, 4)
    height, width = masks.shape[1:]
    box = np.clip(box, 0, np.array([width, height, width, height]) - 1)
    # Jitter may invert a thin box.
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    prompts = no_prompts(*masks.shape)
    shown = np.flatnonzero(masks.any(axis=(1, 2)))
    # Users often include an extra slice, so the model must learn that a box may be empty.
    before, after = generator.integers(0, 2, 2).tolist() if kind == "relaxed" else (0, 0)
    prompts.boxes[max(0, shown[0] - before) : shown[-1] + after + 1] = np.concatenate([low, high])
    return prompts


def draw_clicks(
    masks: NDArray[np.bool_], is_labelled: NDArray[np.bool_], generator: np.random.Generator
) -> DrawnPrompts:
    """Draw clicks on one slice of an object [S, H, W]: one on it, and up to three more on it or close to it.

    The object is not empty; ``is_labelled`` [S, H, W] is false where the label is unknown.
    """
    index = int(generator.choice(np.flatnonzero(masks.any(axis=(1, 2)))))
    mask = masks[index]
    x0, y0, x1, y1 = _rectangle(masks[index : index + 1]).astype(int)
    around = np.zeros_like(mask)
    margin_y, margin_x = (y1 - y0) // 2 + 2, (x1 - x0) // 2 + 2
    around[max(0, y0 - margin_y) : y1 + margin_y + 1, max(0, x0 - margin_x) : x1 + margin_x + 1] = True
    beside = around & ~mask & is_labelled[index]
    prompts = no_prompts(*masks.shape)
    for number in range(int(generator.integers(1, MOST_POINTS + 1))):
        is_on = number == 0 or not beside.any() or generator.random() < 0.5
        y, x = generator.choice(np.argwhere(mask if is_on else beside))
        prompts.points[index, number] = x, y
        prompts.point_labels[index, number] = int(is_on)
    return prompts


def draw_mask(masks: NDArray[np.bool_], generator: np.random.Generator) -> DrawnPrompts:
    """Draw a mask of an object [S, H, W] on one slice: exact, or dilated or eroded by a pixel."""
    index = int(generator.choice(np.flatnonzero(masks.any(axis=(1, 2)))))
    change, mask = int(generator.integers(-1, 2)), masks[index]
    if change > 0:
        mask = ndimage.binary_dilation(mask)
    elif change < 0 and (eroded := ndimage.binary_erosion(mask)).any():
        mask = eroded
    prompts = no_prompts(*masks.shape)
    prompts.masks[index, 0] = (as_mask_prompt(mask, prompts.masks.shape[2:]).astype(np.float32) * 2 - 1) * MASK_LOGIT
    return prompts


def _rectangle(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return x0, y0, x1, y1 of the union of all slices."""
    return boxes_of(np.any(masks, axis=0, keepdims=True))[0].astype(np.float64)
