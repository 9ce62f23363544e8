"""Random variation of training samples; every slice of a window is varied alike."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

_OUTSIDE = -100
"""Label of pixels that come from outside the image: they have no class, and the loss ignores them."""


def augment(
    images: NDArray[np.float32], labels: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Vary a window: rotation, scale, shift (images linear, labels nearest), then gamma, contrast and noise.

    Anatomy has a left and a right, so nothing is mirrored.

    Args:
        images: [S, C, H, W], 0 to 1.
        labels: [S, H, W] channel numbers.
        generator: Source of all draws.

    Returns:
        The varied window, images 0 to 1.
    """
    if generator.random() < 0.7:
        images, labels = _move(images, labels, generator)
    if generator.random() < 0.5:
        images = images ** np.float32(math.exp(generator.uniform(-0.5, 0.5)))
    if generator.random() < 0.5:
        contrast, brightness = generator.uniform(0.8, 1.2), generator.uniform(-0.08, 0.08)
        images = (images - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness)
    if generator.random() < 0.3:
        noise = generator.standard_normal(images.shape, dtype=np.float32)
        images = images + np.float32(generator.uniform(0, 0.05)) * noise
    return np.clip(images, 0, 1), labels


def _move(
    images: NDArray[np.float32], labels: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rotate by up to 15 degrees, scale by 0.8 to 1.25 and shift by up to a tenth of the side."""
    angle = math.radians(generator.uniform(-15, 15))
    zoom = math.exp(generator.uniform(-math.log(1.25), math.log(1.25)))
    shift_x, shift_y = generator.uniform(-0.2, 0.2, size=2)  # the grid's side is 2
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    theta = torch.tensor([[cos, -sin, shift_x], [sin, cos, shift_y]], dtype=torch.float32)
    grid = F.affine_grid(theta[None], [1, 1, *images.shape[2:]], align_corners=False)
    planes = torch.from_numpy(images).flatten(0, 1)[None]
    moved = F.grid_sample(planes, grid, padding_mode="zeros", align_corners=False)
    # One is added so that what lies outside, which becomes 0, is told from every class and from the ignore label.
    shifted = torch.from_numpy(labels - _OUTSIDE)[None].float()
    nearest = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved[0].unflatten(0, images.shape[:2]).numpy(), nearest[0].numpy().astype(np.int64) + _OUTSIDE
