"""The fingerprint of a data set: sizes, spacings and intensities, from which the plan is derived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.preprocess.crop import zoomed_sides
from masam.preprocess.intensity import Percentiles, Window
from masam.preprocess.orientation import Orientation, SliceAxis, largest_spacing_axis, world_order
from masam.volume import Volume

# Evenly spaced voxels per case for the percentiles, as many as nnU-Net samples.
_SAMPLE_PER_CASE = 10_000
_PERCENTILES = (0.5, 99.5)

# World axes along the rows and columns of a slice.
_PLANES: dict[SliceAxis, tuple[int, int]] = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}


@dataclass(frozen=True, eq=False)
class CaseFingerprint:
    """Size and grid of one volume, in anatomical order (left-right, posterior-anterior, inferior-superior).

    Attributes:
        shape: Voxels along each axis.
        spacing_mm: Voxel spacing along each axis, in mm.
        slice_axis: Direction of the largest spacing.
        brightest: Largest intensity of each layer of voxels across each axis, for each channel.
        darkest: Approximate intensity that ``Percentiles()`` maps to 0, for each channel.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    slice_axis: SliceAxis
    brightest: tuple[tuple[NDArray[np.generic], ...], ...]
    darkest: tuple[float, ...]

    @classmethod
    def of(cls, image: Volume) -> CaseFingerprint:
        """Return the fingerprint of a volume of real numbers."""
        slice_axis = largest_spacing_axis(image.geometry)
        orientation = Orientation.of(image.geometry, slice_axis)
        channels = [image.channel(index) for index in range(image.channels)]
        return cls(
            shape=world_order(image.geometry, image.shape),
            spacing_mm=world_order(image.geometry, image.geometry.spacing_mm),
            slice_axis=slice_axis,
            # In canonical order, so that the sample does not depend on the stored order.
            darkest=tuple(_darkest(orientation.apply(channel)) for channel in channels),
            brightest=tuple(world_order(image.geometry, _brightest(channel)) for channel in channels),
        )

    def in_plane_size(self, slice_axis: SliceAxis, rule: Window | Percentiles | None = None) -> int:
        """Return the longer side in pixels of a slice across an axis, cropped to the content of a rule if given."""
        rows, columns = _PLANES[slice_axis]
        size = self.shape[rows], self.shape[columns]
        if rule is None:
            return max(size)
        return max(zoomed_sides(size, (self._content(rows, rule), self._content(columns, rule))))

    def _content(self, axis: int, rule: Window | Percentiles) -> int:
        """Return the number of layers across an axis from the first to the last that the rule maps above 0."""
        lows = [rule.low] * len(self.darkest) if isinstance(rule, Window) else self.darkest
        layers = [profile[axis] > np.float64(low) for profile, low in zip(self.brightest, lows, strict=True)]
        bright = np.flatnonzero(np.any(layers, axis=0))
        return int(bright[-1] - bright[0]) + 1 if len(bright) else self.shape[axis]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The fingerprint of a data set.

    Attributes:
        cases: Size and grid of each volume, at least one.
        intensity_percentiles: 0.5 % and 99.5 % percentile of all voxels, in their unit.
        foreground_percentiles: The same for foreground voxels; None without labels.
    """

    cases: tuple[CaseFingerprint, ...]
    intensity_percentiles: tuple[float, float]
    foreground_percentiles: tuple[float, float] | None

    @property
    def slice_axis(self) -> SliceAxis:
        """The direction in which most volumes were sliced; axial is preferred in a tie."""
        votes = Counter(case.slice_axis for case in self.cases)
        ranked: tuple[SliceAxis, ...] = ("axial", "coronal", "sagittal")
        return max(ranked, key=lambda axis: votes[axis])


def fingerprint(pairs: Iterable[tuple[Volume, Volume | None]], ignore_value: int | None = None) -> Fingerprint:
    """Return the fingerprint of a data set of images with labels or None; one volume is held at a time.

    Label values other than 0 and ``ignore_value`` are foreground.
    """
    cases, overall, inside = [], [], []
    for image, labels in pairs:
        overall.append(_sample(image.array.reshape(-1)))
        cases.append(CaseFingerprint.of(image))
        if labels is not None:
            if labels.shape != image.shape:
                raise InputError(f"expected labels of shape {image.shape} like the image, got {labels.shape}")
            inside.append(_sample(image.array[(labels.array != 0) & (labels.array != ignore_value)].reshape(-1)))
    if not cases:
        raise InputError("the data set contains no volumes", fix="check imagesTr and dataset.json")
    pooled = np.concatenate(inside) if inside else np.empty(0)
    return Fingerprint(
        cases=tuple(cases),
        intensity_percentiles=_percentiles(np.concatenate(overall)),
        foreground_percentiles=_percentiles(pooled) if pooled.size else None,
    )


def _darkest(array: NDArray[np.generic]) -> float:
    """Return the 0.5 % percentile of evenly spaced voxels of an array [slices, rows, columns]."""
    step = max(1, round((array.size / _SAMPLE_PER_CASE) ** (1 / 3)))
    return float(np.percentile(array[::step, ::step, ::step].astype(np.float64), _PERCENTILES[0]))


def _brightest(array: NDArray[np.generic]) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]:
    """Return the largest intensity of each layer of voxels across each axis of an array [I, J, K]."""
    # Two passes over the voxels suffice for three axes.
    over_first = array.max(axis=0)
    return array.max(axis=(1, 2)), over_first.max(axis=1), over_first.max(axis=0)


def _sample(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return evenly spaced voxels of a flat array; InputError if they are not finite real numbers."""
    step = max(1, values.size // _SAMPLE_PER_CASE)
    if values.dtype.kind not in "biuf":
        raise InputError(f"expected real voxel values, got type {values.dtype}")
    sample = values[::step].astype(np.float64)
    if not np.isfinite(sample).all():
        raise InputError("the volume contains NaN or infinite voxels", fix="repair the file")
    return sample


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)
