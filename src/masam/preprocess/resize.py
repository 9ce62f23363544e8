"""Resize slices between their native size and the model's square input; the aspect ratio is not kept (paper.md 1.5).

The outer edges of both images coincide; resizing to the same size is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


def resize_image(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a slice [h, w] to ``size`` (rows, columns) with bicubic interpolation and anti-aliasing.

    The result is clamped to the range of the image, as bicubic interpolation overshoots at edges.
    """
    if image.shape == size:
        return image
    # A copy, since torch does not support negative strides, which a flipped view has.
    pixels = torch.from_numpy(np.array(image, dtype=np.float32, order="C"))[None, None]
    resized = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=True)[0, 0]
    return resized.clamp(pixels.min(), pixels.max()).numpy()


def resize_labels(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    """Resize integer labels [h, w] to ``size`` (rows, columns) with nearest-neighbour interpolation.

    Equal to torch's ``nearest-exact``, for all integer types.
    """
    if labels.shape == size:
        return labels
    # floor((i + 0.5) * old / new) for each new index i, in integer arithmetic.
    rows, columns = (
        (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new) for old, new in zip(labels.shape, size, strict=True)
    )
    return labels[rows[:, None], columns]


def resize_probabilities(probabilities: Float[Tensor, "K h w"], size: tuple[int, int]) -> Float[Tensor, "K H W"]:
    """Resize class probabilities to ``size`` (rows, columns) with bilinear interpolation and anti-aliasing.

    The result is float32 on the same device; probabilities still sum to one.
    """
    values = probabilities.float()
    if values.shape[1:] == size:
        return values
    return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


@dataclass(frozen=True, eq=False)
class ResizedLabels:
    """Label slices that are resized on access.

    Attributes:
        array: [D, H, W] integers.
        size: Rows and columns of a resized slice.
    """

    array: NDArray[np.integer]
    size: tuple[int, int]

    @property
    def depth(self) -> int:
        """Number of slices D."""
        return len(self.array)

    def slice(self, index: int) -> NDArray[np.integer]:
        """Return the resized slice ``index``."""
        return resize_labels(self.array[index], self.size)
