"""Intensity rules, which scale voxel values to 0..1.

A rule is fitted to a volume once, and the resulting scaling is applied slice by slice. A volume without contrast
becomes 0, and no rule produces NaN. The rule for the colours of video frames requires no fit.
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

# Above this number of voxels, percentiles use every n-th row and column of each slice: a fifth to a quarter of the
# voxels of a 512 x 512 x 300 CT. Minimum and maximum (percentiles 0 and 100) always use all voxels.
_MAX_SAMPLE = 1 << 24

SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)
"""Mean and standard deviation of red, green and blue (0..255) in SAM's training."""


@dataclass(frozen=True)
class Scaling:
    """A fitted rule: clip to ``low``..``high``, then scale linearly to 0..1.

    Attributes:
        low: Intensity mapped to 0, in the unit of the volume.
        high: Intensity mapped to 1; if it equals ``low``, everything is mapped to 0.
    """

    low: float
    high: float

    def apply(self, array: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the array scaled to 0..1, of the same shape."""
        if not self._half_span > 0:
            return np.zeros(array.shape, np.float32)
        values = np.clip(array.astype(np.float64), self.low, self.high) / 2
        # For a tiny span, the quotient can round to slightly above 1.
        return np.clip((values - self.low / 2) / self._half_span, 0, 1).astype(np.float32)

    def is_nonzero(self, array: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Return the mask of voxels mapped to more than 0."""
        if not self._half_span > 0:
            return np.zeros(array.shape, bool)
        return np.greater(array, np.float64(self.low))

    @property
    def _half_span(self) -> float:
        # Halved, so that the difference of two values near the largest float64 is finite.
        return self.high / 2 - self.low / 2


class _Range(Settings):
    """A rule with a lower and an upper limit."""

    kind: str
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> _Range:
        if not self.low < self.high:
            raise ValueError(f"expected low below high, got {self.low} and {self.high}")
        return self


class Window(_Range):
    """A fixed range of intensities, for CT, whose Hounsfield units are absolute."""

    kind: Literal["window"] = Field(default="window", description="name of this rule")
    low: float = Field(description="intensity mapped to 0, in HU for CT")
    high: float = Field(description="intensity mapped to 1, in HU for CT")

    def fit(self, array: NDArray[np.generic]) -> Scaling:
        """Return the scaling of the window; InputError if the array does not contain finite real numbers."""
        _finite_range(array)
        return Scaling(self.low, self.high)


class Percentiles(_Range):
    """A range between two percentiles of all voxels of the volume, for MR and other arbitrary units.

    ``Percentiles(low=0, high=99)`` is the paper's rule for MR (paper.md 1.5).
    """

    kind: Literal["percentiles"] = Field(default="percentiles", description="name of this rule")
    low: float = Field(default=0.5, ge=0, le=100, description="percentile of the voxels mapped to 0, in %")
    high: float = Field(default=99.5, ge=0, le=100, description="percentile of the voxels mapped to 1, in %")

    def fit(self, array: NDArray[np.generic]) -> Scaling:
        """Return the scaling between the percentiles of a volume [slices, rows, columns] of finite real numbers."""
        minimum, maximum = _finite_range(array)
        step = math.ceil(math.sqrt(array.size / _MAX_SAMPLE))
        sample = array[:, ::step, ::step]
        inner = [q for q in (self.low, self.high) if 0 < q < 100]
        # float64, since float16 or large integers would lose digits in the interpolation; halved as in Scaling.
        values = dict(zip(inner, 2 * np.percentile(sample.astype(np.float64) / 2, inner), strict=True)) if inner else {}
        return Scaling(float(values.get(self.low, minimum)), float(values.get(self.high, maximum)))


class Rgb(Settings):
    """The scaling of colours of video frames, which is the same for every video."""

    kind: Literal["rgb"] = Field(default="rgb", description="name of this rule")
    normalisation: Literal["unit", "sam"] = Field(
        default="unit",
        description="unit: 0..255 becomes 0..1; sam: each colour is normalised by the mean and standard deviation of "
        "SAM's training",
    )

    def apply(self, pixels: NDArray[np.generic]) -> NDArray[np.float32]:
        """Scale the colours of a frame [H, W, 3] of uint8 to 0..1, or to about -2.1..2.6 with ``sam``."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise InputError(f"expected a frame [H, W, 3] of uint8, got {list(pixels.shape)} of {pixels.dtype}")
        values = pixels.astype(np.float32)
        return values / np.float32(255) if self.normalisation == "unit" else _as_sam(values, axis=2)

    def from_unit(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale colours [S, 3, H, W] from 0 to 1 as ``apply`` scales those from 0 to 255."""
        return images if self.normalisation == "unit" else _as_sam(images * np.float32(255), axis=1)

    def fit(self, array: NDArray[np.generic]) -> Scaling:
        """Raise an InputError, as a volume has no colours."""
        raise InputError(
            f"expected the frames of a video, got a volume of shape {list(array.shape)}", fix="use a plan for volumes"
        )


def _as_sam(colours: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    shape = [3 if number == axis else 1 for number in range(colours.ndim)]
    mean, deviation = (np.array(one, np.float32).reshape(shape) for one in (SAM_MEAN, SAM_STD))
    scaled: NDArray[np.float32] = (colours - mean) / deviation
    return scaled


IntensityRule = Annotated[Window | Percentiles | Rgb, Field(discriminator="kind")]


def minmax_per_window(window: NDArray[np.floating], *, jointly: bool = False) -> NDArray[np.float32]:
    """Scale one window of slices from its minimum..maximum to 0..1, as for the published checkpoints.

    Args:
        window: [S, C, H, W] finite intensities, scaled by the rule.
        jointly: Scale all channels together, which keeps hues; otherwise each channel is scaled separately.

    Returns:
        [S, C, H, W], 0 to 1; constant values become 0.

    Source: paper.md, quirk 18: (x - min) / (max - min + 1e-8), after an affine map that cancels out (quirk 19).
    """
    values = np.asarray(window, dtype=np.float32)
    low, high = (end(axis=None if jointly else (0, 2, 3), keepdims=True) for end in (values.min, values.max))
    scaled: NDArray[np.float32] = values - low
    scaled /= high - low + np.float32(1e-8)
    return scaled


def _finite_range(array: NDArray[np.generic]) -> tuple[float, float]:
    """Return minimum and maximum; InputError if the array does not contain finite real numbers."""
    if array.dtype.kind not in "biuf":
        raise InputError(f"expected real voxel values, got type {array.dtype}", fix="convert the volume to greyscale")
    minimum, maximum = float(array.min()), float(array.max())
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        raise InputError("the volume contains NaN or infinite voxels", fix="repair the file")
    return minimum, maximum
