"""From probabilities to a label map, and two cleanings that are off unless asked for; each says what it changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from masam.errors import ConfigError
from masam.labels import LabelScheme

# Voxels that share a face, an edge or a corner hang together, as in nnU-Net.
_TOUCHING = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Cleaning:
    """What a cleaning did, for the manifest.

    Attributes:
        step: Name of the function.
        removed: Voxels that a class lost, by channel number.
        added: Voxels that a class gained, by channel number.
    """

    step: str
    removed: dict[int, int] = field(default_factory=dict)
    added: dict[int, int] = field(default_factory=dict)


def most_probable(probabilities: Float[Tensor, "K H W"]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the channel number of the most probable class of each pixel; the lower one of equals.

    Args:
        probabilities: [K, H, W].

    Returns:
        [H, W], 0 (background) to K - 1.
    """
    channels = probabilities.argmax(dim=0).cpu().numpy()
    return channels.astype(np.uint8) if probabilities.shape[0] <= 256 else channels.astype(np.uint16)


def keep_largest_component(labels: NDArray[np.integer], classes: Sequence[int]) -> tuple[NDArray[np.integer], Cleaning]:
    """Keep the largest connected part of each class; the rest becomes background.

    Parts that share a face, an edge or a corner are one. Of parts of equal size the first in array order stays.

    Args:
        labels: [D, H, W] channel numbers; not changed.
        classes: Channel numbers to clean.

    Returns:
        The cleaned copy, and the voxels removed by class.

    Raises:
        ConfigError: A class is the background or less, or comes twice.
    """
    _check_classes(classes)
    cleaned = labels.copy()
    removed = {}
    for number in classes:
        parts, count = ndimage.label(labels == number, structure=_TOUCHING)
        removed[number] = 0
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            lost = (parts > 0) & (parts != sizes.argmax())
            removed[number] = int(lost.sum())
            cleaned[lost] = 0
    return cleaned, Cleaning("keep_largest_component", removed=removed)


def fill_holes(labels: NDArray[np.integer], classes: Sequence[int]) -> tuple[NDArray[np.integer], Cleaning]:
    """Give a class the background that it encloses on all sides; other classes inside it stay (a tumour in a liver).

    A hole is enclosed in 3D: background from which a path through voxel faces, free of the class, leads to the edge of
    the volume is none.

    Args:
        labels: [D, H, W] channel numbers; not changed.
        classes: Channel numbers to fill, in this order.

    Returns:
        The filled copy, and the voxels added by class.

    Raises:
        ConfigError: A class is the background or less, or comes twice.
    """
    _check_classes(classes)
    filled = labels.copy()
    added = {}
    for number in classes:
        holes = ndimage.binary_fill_holes(filled == number) & (filled == 0)
        added[number] = int(holes.sum())
        filled[holes] = number
    return filled, Cleaning("fill_holes", added=added)


def clean(
    labels: NDArray[np.integer], keep_largest: Sequence[int], filled: Sequence[int]
) -> tuple[NDArray[np.integer], tuple[Cleaning, ...]]:
    """Apply the cleanings that have classes.

    Args:
        labels: [D, H, W] channel numbers; not changed.
        keep_largest: Channel numbers for :func:`keep_largest_component`.
        filled: Channel numbers for :func:`fill_holes`, which runs after it.

    Returns:
        The cleaned channel numbers, and what each cleaning changed.

    Raises:
        ConfigError: A class is the background or less, or comes twice.
    """
    cleanings = []
    for step, classes in ((keep_largest_component, keep_largest), (fill_holes, filled)):
        if classes:
            labels, cleaning = step(labels, classes)
            cleanings.append(cleaning)
    return labels, tuple(cleanings)


def channels_of_classes(scheme: LabelScheme, names: Sequence[str]) -> tuple[int, ...]:
    """Return the channel numbers of classes.

    Args:
        scheme: Classes of the model.
        names: Names of foreground classes; repeated names count once.

    Raises:
        ConfigError: A name is unknown.
    """
    channels = {label.name: channel for channel, label in enumerate(scheme.labels) if channel > 0}
    if unknown := [name for name in names if name not in channels]:
        raise ConfigError(
            f"expected classes out of {', '.join(channels)}, got {', '.join(unknown)}", where="postprocess"
        )
    return tuple(channels[name] for name in dict.fromkeys(names))


def _check_classes(classes: Sequence[int]) -> None:
    if any(number < 1 for number in classes) or len(set(classes)) != len(classes):
        raise ConfigError(f"expected distinct foreground classes, 1 or more, got {list(classes)}", where="postprocess")
