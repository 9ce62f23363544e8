"""Image degradation: blur, low resolution, noise, low contrast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def degrade(generator: np.random.Generator, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply random degradations to an image [C, H, W] and clip it to 0..1; a third change in contrast at most."""
    chance = generator.random(4)
    gamma, gain, shift = generator.uniform(0.6, 1.6), generator.uniform(0.55, 1.2), generator.uniform(-0.1, 0.2)
    blur, coarse, noise = generator.uniform(0.4, 1.6), generator.uniform(1.3, 3.0), generator.exponential(0.03)
    if chance[0] < 0.35:
        image = ndimage.gaussian_filter(image, (0, blur, blur), truncate=2.5)
    if chance[1] < 0.15:
        image = _resampled(image, coarse)
    if chance[2] < 0.3:
        image = image + np.float32(noise) * generator.standard_normal(image.shape, np.float32)
    image = np.clip(image, 0, 1)
    if chance[3] < 0.5:
        image = np.clip(image ** np.float32(gamma) * np.float32(gain) + np.float32(shift), 0, 1)
    return image


def _resampled(image: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Reduce the resolution by a factor and enlarge the result to the original size."""
    side = image.shape[-1]
    small = max(2, round(side / factor))
    centres = (np.arange(small) + 0.5) * (side / small) - 0.5
    nearest = np.clip(np.rint(centres), 0, side - 1).astype(np.intp)
    smooth = ndimage.uniform_filter(image, (0, round(factor), round(factor)))
    coarse = smooth[:, nearest[:, None], nearest]
    back = (np.arange(side) + 0.5) * (small / side) - 0.5
    low = np.clip(np.floor(back), 0, small - 2).astype(np.intp)
    share = np.clip(back - low, 0, 1).astype(np.float32)
    rows = coarse[:, low] * (1 - share)[:, None] + coarse[:, low + 1] * share[:, None]
    full: NDArray[np.float32] = rows[:, :, low] * (1 - share) + rows[:, :, low + 1] * share
    return full
