"""Prompts for training, read off a window's labels as they are after the augmentation, so that they fit them exactly.

The paper's generator was not released (paper.md 1.9); what is drawn here is what ``masam predict`` can be asked.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from masam.prompts.projection import MASK_LOGIT, as_mask_prompt

Kind = Literal["tight", "relaxed", "jittered", "clicks", "mask"]
KINDS: tuple[Kind, ...] = ("tight", "relaxed", "jittered", "clicks", "mask")

MOST_RELAXED = 0.2
"""A relaxed box is larger by up to this fraction of its side on each side, and often by a slice at either end."""

JITTER = 0.1
"""Standard deviation of a jittered box's sides, each moved by itself, as a fraction of the side across."""

MOST_POINTS = 4
"""Clicks on a slice at most; the first is on the object."""


class DrawnPrompts(NamedTuple):
    """Prompts of a window, as ``Masam.decode_each`` takes them."""

    boxes: NDArray[np.float32]
    """[S, 4] x0, y0, x1, y1 in pixels, NaN where a slice has none."""
    points: NDArray[np.float32]
    """[S, P, 2] x and y."""
    point_labels: NDArray[np.int64]
    """[S, P] 1 on the object, 0 beside it, -1 after a slice's own."""
    masks: NDArray[np.float32]
    """[S, 1, H / 4, W / 4] logits, NaN where a slice has none."""


def no_prompts(slices: int, rows: int, columns: int) -> DrawnPrompts:
    """Return the prompts of a window without any.

    Args:
        slices: Slices S of the window.
        rows: H, a multiple of 4.
        columns: W, a multiple of 4.
    """
    return DrawnPrompts(
        np.full((slices, 4), np.nan, np.float32),
        np.zeros((slices, MOST_POINTS, 2), np.float32),
        np.full((slices, MOST_POINTS), -1, np.int64),
        np.full((slices, 1, rows // 4, columns // 4), np.nan, np.float32),
    )


def draw_prompts(labels: NDArray[np.signedinteger], rate: float, generator: np.random.Generator) -> DrawnPrompts:
    """Draw the prompts of one training window: none, or those of one class and one kind.

    Args:
        labels: [S, H, W] channel numbers, -100 where there is none.
        rate: Share of the windows that get prompts, 0 to 1.
        generator: Source of all draws.

    Returns:
        Prompts of one of the classes that are in the window; none where there is no class.
    """
    if generator.random() >= rate:
        return no_prompts(*labels.shape)
    present = np.unique(labels[labels > 0])
    if len(present) == 0:
        return no_prompts(*labels.shape)
    masks = labels == generator.choice(present)
    kind = KINDS[int(generator.integers(len(KINDS)))]
    if kind == "clicks":
        return draw_clicks(masks, labels >= 0, generator)
    return draw_mask(masks, generator) if kind == "mask" else draw_box(masks, kind, generator)


def draw_box(masks: NDArray[np.bool_], kind: Kind, generator: np.random.Generator) -> DrawnPrompts:
    """Draw a box in 3D: one rectangle, from the first slice that shows the object to the last.

    Args:
        masks: [S, H, W] the object, not empty.
        kind: ``tight``, ``relaxed`` or ``jittered``.
        generator: Source of all draws.
    """
    box = _rectangle(masks)
    sides = (box[2:] - box[:2] + 1)[[0, 1, 0, 1]]
    if kind == "relaxed":
        box += np.array([-1, -1, 1, 1]) * sides * generator.uniform(0, MOST_RELAXED)
    elif kind == "jittered":
        box += sides * generator.normal(0, JITTER, 4)
    height, width = masks.shape[1:]
    box = np.clip(box, 0, np.array([width, height, width, height]) - 1)
    # Jitter may turn a thin box over.
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    prompts = no_prompts(*masks.shape)
    shown = np.flatnonzero(masks.any(axis=(1, 2)))
    # Boxes that people draw reach a slice too far: the model must learn that one may hold nothing.
    before, after = generator.integers(0, 2, 2).tolist() if kind == "relaxed" else (0, 0)
    prompts.boxes[max(0, shown[0] - before) : shown[-1] + after + 1] = np.concatenate([low, high])
    return prompts


def draw_clicks(
    masks: NDArray[np.bool_], is_labelled: NDArray[np.bool_], generator: np.random.Generator
) -> DrawnPrompts:
    """Draw clicks on one slice of the object: one on it, and up to three more on it or close beside it.

    Args:
        masks: [S, H, W] the object, not empty.
        is_labelled: [S, H, W] where it is known what is the object and what is not.
        generator: Source of all draws.
    """
    index = int(generator.choice(np.flatnonzero(masks.any(axis=(1, 2)))))
    mask = masks[index]
    x0, y0, x1, y1 = _rectangle(masks[index : index + 1]).astype(int)
    around = np.zeros_like(mask)
    margin_y, margin_x = (y1 - y0) // 2 + 2, (x1 - x0) // 2 + 2
    around[max(0, y0 - margin_y) : y1 + margin_y + 1, max(0, x0 - margin_x) : x1 + margin_x + 1] = True
    beside = around & ~mask & is_labelled[index]
    prompts = no_prompts(*masks.shape)
    for place in range(int(generator.integers(1, MOST_POINTS + 1))):
        is_on = place == 0 or not beside.any() or generator.random() < 0.5
        y, x = generator.choice(np.argwhere(mask if is_on else beside))
        prompts.points[index, place] = x, y
        prompts.point_labels[index, place] = int(is_on)
    return prompts


def draw_mask(masks: NDArray[np.bool_], generator: np.random.Generator) -> DrawnPrompts:
    """Draw the object on one of its slices as a user would: as it is, or a pixel too large or too small all around.

    Args:
        masks: [S, H, W] the object, not empty.
        generator: Source of all draws.
    """
    index = int(generator.choice(np.flatnonzero(masks.any(axis=(1, 2)))))
    change, mask = int(generator.integers(-1, 2)), masks[index]
    if change > 0:
        mask = ndimage.binary_dilation(mask)
    elif change < 0:
        smaller = ndimage.binary_erosion(mask)
        mask = smaller if smaller.any() else mask
    prompts = no_prompts(*masks.shape)
    prompts.masks[index, 0] = (as_mask_prompt(mask, prompts.masks.shape[2:]).astype(np.float32) * 2 - 1) * MASK_LOGIT
    return prompts


def _rectangle(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return x0, y0, x1, y1 of the first and the last pixel of all slices together."""
    rows, columns = np.flatnonzero(masks.any(axis=(0, 2))), np.flatnonzero(masks.any(axis=(0, 1)))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float64)
