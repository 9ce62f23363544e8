"""Augmentation of a window: spatial transform, then intensity transforms, prompts included."""

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
    """An augmented window.

    Attributes:
        images: [S, C, H, W], 0 to 1.
        labels: [S, H, W] channel numbers, -100 to ignore.
        prompts: Transformed prompts, or None.
        variation: Transforms that were applied.
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
    """Augment a window, see :func:`augment_window`; return images and labels."""
    augmented = augment_window(images, labels, generator, settings)
    return augmented.images, augmented.labels


def augment_window(
    images: NDArray[np.float32],
    labels: NDArray[np.signedinteger],
    generator: np.random.Generator,
    settings: AugmentSettings = DEFAULT,
    prompts: WindowPrompts | None = None,
) -> Augmented:
    """Augment a window and its prompts with randomly drawn transforms.

    Args:
        images: [S, C, H, W], 0 to 1.
        labels: [S, H, W] channel numbers, -100 to ignore.
        generator: Source of randomness.
        settings: Probabilities and ranges.
        prompts: Boxes and points to transform along.

    Returns:
        The augmented window, images 0 to 1. Inputs are not modified; unchanged parts are returned without a copy.

    Raises:
        InputError: Shapes do not match.
    """
    return apply_variation(images, labels, draw_variation(settings, generator), settings, prompts)


def apply_variation(
    images: NDArray[np.float32],
    labels: NDArray[np.signedinteger],
    variation: Variation,
    settings: AugmentSettings = DEFAULT,
    prompts: WindowPrompts | None = None,
) -> Augmented:
    """Apply given transforms to a window and its prompts; arguments and result as for :func:`augment_window`."""
    if images.ndim != 4 or labels.shape != (len(images), *images.shape[2:]):
        raise InputError(
            f"expected images [S, C, H, W] and labels [S, H, W], got {images.shape} and {labels.shape}", where="window"
        )
    warp = Warp.of(variation, (images.shape[2], images.shape[3]))
    moved, moved_labels = images, labels
    if not warp.is_identity:
        moved, moved_labels = warp.move(images, labels, settings.interpolation, _label(settings.outside))
    if changes_intensity(variation):
        # vary_intensity works in place.
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
