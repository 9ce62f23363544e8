"""Intensity rules: from the scanner's numbers to 0..1.

A rule is fitted to a volume once; the scaling that comes out is applied slice by slice. A volume without contrast
becomes 0 everywhere, and no rule ever makes a NaN. The rule for the colours of video frames needs no fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from masam.config import Settings
from masam.errors import InputError

# Above this many voxels a percentile is taken of every n-th row and column of each slice. On a 512 x 512 x 300 CT that
# keeps a fifth to a quarter of the voxels; the minimum and maximum (percentiles 0 and 100) always see all of them.
_MAX_SAMPLE = 1 << 24

SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)
"""Mean and deviation of red, green and blue on 0..255 that SAM's own weights were trained with."""


@dataclass(frozen=True)
class Scaling:
    """The fitted rule: clip to ``low``..``high``, then linear to 0..1.

    Attributes:
        low: Intensity that becomes 0, in the volume's unit.
        high: Intensity that becomes 1; where it equals ``low`` everything becomes 0.
    """

    low: float
    high: float

    def apply(self, array: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the array scaled to 0..1, of the same shape."""
        if not self._half_span > 0:
            return np.zeros(array.shape, np.float32)
        values = np.clip(array.astype(np.float64), self.low, self.high) / 2
        # The quotient of values near a tiny span can round to just above 1.
        return np.clip((values - self.low / 2) / self._half_span, 0, 1).astype(np.float32)

    def shows(self, array: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Say which voxels become more than 0; an array of the same shape."""
        if not self._half_span > 0:
            return np.zeros(array.shape, bool)
        return np.greater(array, np.float64(self.low))

    @property
    def _half_span(self) -> float:
        # Halves, so that the difference of two values near the largest float64 stays finite.
        return self.high / 2 - self.low / 2


class _Range(Settings):
    """A rule with two ends; each kind says what they are."""

    kind: str
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> _Range:
        if not self.low < self.high:
            raise ValueError(f"expected low below high, got {self.low} and {self.high}")
        return self


class Window(_Range):
    """A fixed range, as radiologists set it on CT, where a Hounsfield unit means the same in every scan."""

    kind: Literal["window"] = Field(default="window", description="names this rule")
    low: float = Field(description="intensity that becomes 0, in HU for CT")
    high: float = Field(description="intensity that becomes 1, in HU for CT")

    def fit(self, array: NDArray[np.generic]) -> Scaling:
        """Return the window's scaling, which does not depend on the volume.

        Raises:
            InputError: The array does not hold finite real numbers.
        """
        _finite_range(array)
        return Scaling(self.low, self.high)


class Percentiles(_Range):
    """A range between two percentiles of the volume's own voxels, for MR and others whose unit is arbitrary.

    All voxels count, air too. ``Percentiles(low=0, high=99)`` is the paper's rule for MR: capped at the 99 % quantile,
    then minimum..cap to 0..1 (paper.md 1.5).
    """

    kind: Literal["percentiles"] = Field(default="percentiles", description="names this rule")
    low: float = Field(default=0.5, ge=0, le=100, description="percentile of the voxels that becomes 0, in %")
    high: float = Field(default=99.5, ge=0, le=100, description="percentile of the voxels that becomes 1, in %")

    def fit(self, array: NDArray[np.generic]) -> Scaling:
        """Measure the percentiles of a volume [slices, rows, columns].

        Raises:
            InputError: The array does not hold finite real numbers.
        """
        least, most = _finite_range(array)
        step = math.ceil(math.sqrt(array.size / _MAX_SAMPLE))
        sample = array[:, ::step, ::step]
        inner = [q for q in (self.low, self.high) if 0 < q < 100]
        # float64, as float16 or large integers would be interpolated with too few digits; halves, as in Scaling.
        found = dict(zip(inner, 2 * np.percentile(sample.astype(np.float64) / 2, inner), strict=True)) if inner else {}
        return Scaling(float(found.get(self.low, least)), float(found.get(self.high, most)))


class Rgb(Settings):
    """The colours of a video frame, whose unit is the same in every video, so nothing is fitted."""

    kind: Literal["rgb"] = Field(default="rgb", description="names this rule")
    normalisation: Literal["unit", "sam"] = Field(
        default="unit",
        description="unit: 0..255 becomes 0..1; sam: less the mean and divided by the deviation that SAM was trained "
        "with, a colour at a time",
    )

    def apply(self, pixels: NDArray[np.generic]) -> NDArray[np.float32]:
        """Scale the colours of a frame.

        Args:
            pixels: [H, W, 3] red, green and blue.

        Returns:
            [H, W, 3], 0 to 1, or about -2.1 to 2.6 for ``sam``.

        Raises:
            InputError: It is no such frame.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise InputError(f"expected a frame [H, W, 3] of uint8, got {list(pixels.shape)} of {pixels.dtype}")
        values = pixels.astype(np.float32)
        return values / np.float32(255) if self.normalisation == "unit" else _as_sam(values, axis=2)

    def from_unit(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale colours [S, 3, H, W] of 0 to 1 as ``apply`` scales those of 0 to 255."""
        return images if self.normalisation == "unit" else _as_sam(images * np.float32(255), axis=1)

    def fit(self, array: NDArray[np.generic]) -> Scaling:
        """Refuse a volume.

        Raises:
            InputError: Always: a volume of grey values has no colours.
        """
        raise InputError(
            f"expected the frames of a video, got a volume of shape {list(array.shape)}",
            fix="take a plan for volumes",
        )


def _as_sam(colours: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    shape = [3 if number == axis else 1 for number in range(colours.ndim)]
    mean, deviation = (np.array(one, np.float32).reshape(shape) for one in (SAM_MEAN, SAM_STD))
    scaled: NDArray[np.float32] = (colours - mean) / deviation
    return scaled


IntensityRule = Annotated[Window | Percentiles | Rgb, Field(discriminator="kind")]


def minmax_per_window(window: NDArray[np.floating], *, jointly: bool = False) -> NDArray[np.float32]:
    """Scale one window of slices to its own minimum..maximum, as the published checkpoints were trained.

    Args:
        window: [S, C, H, W] finite intensities, after the clip of the rule.
        jointly: Over all channels, which keeps the hues of colours; else each channel is scaled by itself.

    Returns:
        [S, C, H, W], 0 to 1; what is constant becomes 0.

    Source: paper.md, quirk 18: (x - min) / (max - min + 1e-8), after an affine map that cancels out (quirk 19).
    """
    values = np.asarray(window, dtype=np.float32)
    low, high = (end(axis=None if jointly else (0, 2, 3), keepdims=True) for end in (values.min, values.max))
    scaled: NDArray[np.float32] = values - low
    scaled /= high - low + np.float32(1e-8)
    return scaled


def _finite_range(array: NDArray[np.generic]) -> tuple[float, float]:
    """Return the smallest and largest value.

    Raises:
        InputError: The array is not of real numbers, or holds NaN or infinity.
    """
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"expected voxels that are real numbers, got type {array.dtype}",
            fix="convert the volume to one grey value a voxel",
        )
    least, most = float(array.min()), float(array.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise InputError("the volume holds NaN or infinite voxels", fix="repair them, or let the reader fill them")
    return least, most
