"""One window, varied: moved, then changed in intensity, its prompts along with it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from masam.augment.geometry import NO_LABEL, Warp
from masam.augment.intensity import changes_intensity, erased_box, vary_intensity
from masam.augment.prompts import WindowPrompts, move_prompts
from masam.augment.settings import AugmentSettings
from masam.augment.variation import Variation, draw_variation
from masam.errors import InputError

DEFAULT = AugmentSettings()


class Augmented(NamedTuple):
    """A varied window.

    Attributes:
        images: [S, C, H, W], 0 to 1.
        labels: [S, H, W] channel numbers, -100 where there is none.
        prompts: The moved prompts, None where none were given.
        variation: What was done.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.signedinteger]
    prompts: WindowPrompts | None
    variation: Variation


def augment(
    images: NDArray[np.float32],
    labels: NDArray[np.signedinteger],
    generator: np.random.Generator,
    settings: AugmentSettings = DEFAULT,
) -> tuple[NDArray[np.float32], NDArray[np.signedinteger]]:
    """Vary a window; every slice and every channel alike.

    Args:
        images: [S, C, H, W], 0 to 1.
        labels: [S, H, W] channel numbers, -100 where there is none.
        generator: Source of all draws.
        settings: Probabilities and ranges.

    Returns:
        The varied window, images 0 to 1. The input is not changed; what nothing was done to is the input itself.

    Raises:
        InputError: Shapes do not fit together.
    """
    done = augment_window(images, labels, generator, settings)
    return done.images, done.labels


def augment_window(
    images: NDArray[np.float32],
    labels: NDArray[np.signedinteger],
    generator: np.random.Generator,
    settings: AugmentSettings = DEFAULT,
    prompts: WindowPrompts | None = None,
) -> Augmented:
    """Vary a window and its prompts.

    Args:
        images: [S, C, H, W], 0 to 1.
        labels: [S, H, W] channel numbers, -100 where there is none.
        generator: Source of all draws.
        settings: Probabilities and ranges.
        prompts: Boxes and points to move along.

    Raises:
        InputError: Shapes do not fit together.
    """
    return apply_variation(images, labels, draw_variation(settings, generator), settings, prompts)


def apply_variation(
    images: NDArray[np.float32],
    labels: NDArray[np.signedinteger],
    variation: Variation,
    settings: AugmentSettings = DEFAULT,
    prompts: WindowPrompts | None = None,
) -> Augmented:
    """Do what was drawn; no chance is involved.

    Args:
        images: [S, C, H, W], 0 to 1.
        labels: [S, H, W] channel numbers, -100 where there is none.
        variation: What to do.
        settings: How images are read between pixels, and which label comes from outside and into an erased box.
        prompts: Boxes and points to move along.

    Raises:
        InputError: Shapes do not fit together.
    """
    if images.ndim != 4 or labels.shape != (len(images), *images.shape[2:]):
        raise InputError(
            f"expected images [S, C, H, W] and labels [S, H, W], got {images.shape} and {labels.shape}", where="window"
        )
    warp = Warp.of(variation, (images.shape[2], images.shape[3]))
    moved, moved_labels = images, labels
    if not warp.is_identity:
        moved, moved_labels = warp.move(images, labels, settings.interpolation, _label(settings.outside))
    if changes_intensity(variation):
        # vary_intensity works in place; the input stays as it is.
        moved = images.copy() if moved is images else moved
        vary_intensity(moved, variation)
    if variation.erase is not None:
        rows, columns = erased_box(variation.erase, warp.size)
        moved_labels = labels.copy() if moved_labels is labels else moved_labels
        moved_labels[:, rows, columns] = _label(settings.erase_label)
    moved_prompts = None if prompts is None else move_prompts(prompts, warp, moved_labels)
    return Augmented(moved, moved_labels, moved_prompts, variation)


def _label(name: str) -> int:
    return NO_LABEL if name == "ignore" else 0
