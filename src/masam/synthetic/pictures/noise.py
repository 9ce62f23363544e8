"""Random fields with a power-law spectrum."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Field = NDArray[np.float32]
"""One value per pixel of the image [H, W], or of the box around a shape."""


def spectrum_noise(generator: np.random.Generator, side: int, exponent: float) -> NDArray[np.float32]:
    """Draw two independent fields whose amplitude is proportional to 1 / frequency ** exponent.

    Args:
        generator: Source of randomness.
        side: Rows and columns, in pixels.
        exponent: 0 gives white noise, 1 the spectrum of natural images, 2 and more clouds.

    Returns:
        [2, side, side], periodic in both directions, with mean 0 and an expected standard deviation of 1.

    Source:
        Field, Relations between the statistics of natural images (J. Opt. Soc. Am. A, 1987), for exponent 1.
    """
    # Real and imaginary part of the inverse transform are two independent fields.
    waves = generator.standard_normal((side, side, 2), np.float32).view(np.complex64)[..., 0]
    waves *= _amplitudes(side, round(exponent, 2))
    fields = fft.ifft2(waves, norm="forward", overwrite_x=True, workers=1)
    both: NDArray[np.float32] = np.ascontiguousarray(np.moveaxis(fields.view(np.float32).reshape(side, side, 2), 2, 0))
    return both


@lru_cache(maxsize=256)
def _amplitudes(side: int, exponent: float) -> Field:
    frequency = np.fft.fftfreq(side).astype(np.float32) * side
    squared = frequency[:, None] ** 2 + frequency**2
    squared[0, 0] = 1
    amplitude: Field = squared ** np.float32(-exponent / 2)
    amplitude[0, 0] = 0
    amplitude /= np.sqrt((amplitude.astype(np.float64) ** 2).sum())
    amplitude.setflags(write=False)
    return amplitude


def cut(field: Field, rows: slice, columns: slice, offset: tuple[int, int]) -> Field:
    """Return a box of a periodic field [H, W] after a shift by ``offset`` rows and columns."""
    height, width = field.shape
    down = np.arange(rows.start + offset[0], rows.stop + offset[0]) % height
    right = np.arange(columns.start + offset[1], columns.stop + offset[1]) % width
    return field[down[:, None], right]
