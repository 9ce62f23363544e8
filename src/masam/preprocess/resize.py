"""In-plane resizing between a slice's own size and the model's square; the aspect ratio is not kept (paper.md 1.5).

Pixel centres are aligned (the outer edges of the two images coincide), and a size that does not change is the identity.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


def resize_image(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a slice with bicubic interpolation, low-pass filtered when shrinking.

    Args:
        image: [h, w] intensities.
        size: Rows and columns wanted.

    Returns:
        [H, W], within the range of the image: a cubic's overshoot at edges is clamped.
    """
    if image.shape == size:
        return image
    # A copy: torch takes no array with negative strides, which a flipped view has.
    pixels = torch.from_numpy(np.array(image, dtype=np.float32, order="C"))[None, None]
    resized = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=True)[0, 0]
    return resized.clamp(pixels.min(), pixels.max()).numpy()


def resize_labels(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    """Resize a slice of labels: each new pixel takes the value at its centre (torch's ``nearest-exact``).

    Args:
        labels: [h, w] whole numbers of any type; they are never interpolated.
        size: Rows and columns wanted.

    Returns:
        [H, W], of the same type.
    """
    if labels.shape == size:
        return labels
    rows, columns = (_nearest(old, new) for old, new in zip(labels.shape, size, strict=True))
    return labels[rows[:, None], columns]


def resize_probabilities(probabilities: Float[Tensor, "K h w"], size: tuple[int, int]) -> Float[Tensor, "K H W"]:
    """Resize class probabilities bilinearly, low-pass filtered when shrinking; they keep summing to one.

    Args:
        probabilities: [K, h, w].
        size: Rows and columns wanted.

    Returns:
        [K, H, W] float32, on the same device.
    """
    values = probabilities.float()
    if values.shape[1:] == size:
        return values
    return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """Return the old index under each new pixel's centre, floor((i + 0.5) * old / new), in whole numbers."""
    return (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)
