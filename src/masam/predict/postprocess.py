"""Convert probabilities to channel numbers, and two optional cleanings that record what they changed."""

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

# Voxels that share a face, an edge or a corner are connected, as in nnU-Net.
_TOUCHING = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Cleaning:
    """Record of a cleaning."""

    step: str
    removed: dict[int, int] = field(default_factory=dict)  # number of voxels removed from each class, by channel number
    added: dict[int, int] = field(default_factory=dict)  # number of voxels added to each class, by channel number


def most_probable(probabilities: Float[Tensor, "K H W"]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the channel numbers [H, W] of the most probable classes of [K, H, W]; the lowest one for ties."""
    channels = probabilities.argmax(dim=0).cpu().numpy()
    return channels.astype(np.uint8) if probabilities.shape[0] <= 256 else channels.astype(np.uint16)


def keep_largest_component(labels: NDArray[np.integer], classes: Sequence[int]) -> tuple[NDArray[np.integer], Cleaning]:
    """Keep the largest connected component of each class of [D, H, W] channel numbers; the others become background.

    Of components of equal size, the first in array order is kept. Returns a copy, and the voxels removed by class.
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
            smaller = (parts > 0) & (parts != sizes.argmax())
            removed[number] = int(smaller.sum())
            cleaned[smaller] = 0
    return cleaned, Cleaning("keep_largest_component", removed=removed)


def fill_holes(labels: NDArray[np.integer], classes: Sequence[int]) -> tuple[NDArray[np.integer], Cleaning]:
    """Fill background that a class encloses in 3D; other classes inside it are kept, such as a tumour in a liver.

    A hole has no path through voxel faces, outside the class, to the border of the volume. Arguments are those of
    :func:`keep_largest_component`; classes are filled in order.
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
    """Run :func:`keep_largest_component` and then :func:`fill_holes` on [D, H, W], each if it has classes."""
    cleanings = []
    for step, classes in ((keep_largest_component, keep_largest), (fill_holes, filled)):
        if classes:
            labels, cleaning = step(labels, classes)
            cleanings.append(cleaning)
    return labels, tuple(cleanings)


def channels_of_classes(scheme: LabelScheme, names: Sequence[str]) -> tuple[int, ...]:
    """Return the channel numbers of foreground classes; repeated names count once."""
    channels = {label.name: channel for channel, label in enumerate(scheme.labels) if channel > 0}
    if unknown := [name for name in names if name not in channels]:
        raise ConfigError(
            f"expected classes out of {', '.join(channels)}, got {', '.join(unknown)}", where="postprocess"
        )
    return tuple(channels[name] for name in dict.fromkeys(names))


def _check_classes(classes: Sequence[int]) -> None:
    if any(number < 1 for number in classes) or len(set(classes)) != len(classes):
        raise ConfigError(f"expected distinct foreground classes, 1 or more, got {list(classes)}", where="postprocess")
