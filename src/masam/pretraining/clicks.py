"""Simulated prompts: boxes around objects, clicks on them, and clicks at errors of a prediction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from masam.prompts.correction import deepest, largest_error

_BOX_NOISE, _MOST_BOX_NOISE = 0.1, 20.0
"""Standard deviation of the sides of a box as a fraction of its size, and its limit in pixels (SAM, appendix A)."""


class Click(NamedTuple):
    """One click."""

    x: float  # column in pixels
    y: float  # row in pixels
    label: int  # 1 on the object, 0 off the object


def tight_box(mask: Bool[NDArray[np.bool_], "H W"]) -> NDArray[np.float32]:
    """Return x0, y0, x1, y1 of the first and last pixel of a mask that is not empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)


def loose_box(mask: Bool[NDArray[np.bool_], "H W"], generator: np.random.Generator) -> NDArray[np.float32]:
    """Return the box of a mask that is not empty, with noise on each side, clipped to the picture."""
    box = tight_box(mask)
    size = np.tile(box[2:] - box[:2] + 1, 2)
    moved = box + generator.standard_normal(4) * np.minimum(_BOX_NOISE * size, _MOST_BOX_NOISE)
    height, width = mask.shape
    moved = np.clip(moved, 0, [width - 1, height - 1, width - 1, height - 1])
    low, high = np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])
    return np.concatenate([low, high]).astype(np.float32)


def click_in(region: Bool[NDArray[np.bool_], "H W"], label: int, generator: np.random.Generator | None = None) -> Click:
    """Return a click in a region that is not empty, by default at the pixel farthest from its border."""
    if generator is None:
        row, column = deepest(region)
    else:
        pixels = np.flatnonzero(region)
        row, column = map(int, np.unravel_index(int(pixels[generator.integers(len(pixels))]), region.shape))
    return Click(float(column), float(row), label)


def corrective_click(
    mask: Bool[NDArray[np.bool_], "H W"],
    prediction: Bool[NDArray[np.bool_], "H W"],
    generator: np.random.Generator | None = None,
) -> Click:
    """Return a click in the largest connected error of a prediction, or on the object if there is no error."""
    region, is_missed = largest_error(mask, prediction)
    return click_in(mask if region is None else region, int(is_missed), generator)
