"""A data set's fingerprint: what a look at each of its volumes finds out, from which the plan is derived."""

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

# Voxels of a case that go into the percentiles; nnU-Net takes as many. Evenly spaced, so that no chance is involved.
_SAMPLE_PER_CASE = 10_000
_PERCENTILES = (0.5, 99.5)

# Of the three world axes, the two that run along a slice: its rows' and its columns' side.
_PLANES: dict[SliceAxis, tuple[int, int]] = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}


@dataclass(frozen=True, eq=False)
class CaseFingerprint:
    """One volume's size and grid, in anatomical order (left-right, front-back, feet-head) whatever the file's order.

    Attributes:
        shape: Voxels along each axis.
        spacing_mm: Voxel spacing along each axis, in mm.
        slice_axis: Direction of the largest spacing.
        brightest: For each channel and axis, the largest intensity of each layer of voxels across that axis.
        darkest: For each channel, about the intensity that ``Percentiles()`` makes 0.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    slice_axis: SliceAxis
    brightest: tuple[tuple[NDArray[np.generic], ...], ...]
    darkest: tuple[float, ...]

    @classmethod
    def of(cls, image: Volume) -> CaseFingerprint:
        """Look at a volume of real numbers."""
        slice_axis = largest_spacing_axis(image.geometry)
        orientation = Orientation.of(image.geometry, slice_axis)
        channels = [image.channel(index) for index in range(image.channels)]
        return cls(
            shape=world_order(image.geometry, image.shape),
            spacing_mm=world_order(image.geometry, image.geometry.spacing_mm),
            slice_axis=slice_axis,
            # In canonical order, as which voxels are sampled depends on it.
            darkest=tuple(_darkest(orientation.apply(channel)) for channel in channels),
            brightest=tuple(world_order(image.geometry, _brightest(channel)) for channel in channels),
        )

    def in_plane_size(self, slice_axis: SliceAxis, rule: Window | Percentiles | None = None) -> int:
        """Return the longer side of a slice cut along an axis, in pixels.

        Args:
            slice_axis: The axis.
            rule: If given, of a slice that is cropped to the content that this rule leaves.
        """
        rows, columns = _PLANES[slice_axis]
        whole = self.shape[rows], self.shape[columns]
        if rule is None:
            return max(whole)
        return max(zoomed_sides(whole, (self._content(rows, rule), self._content(columns, rule))))

    def _content(self, axis: int, rule: Window | Percentiles) -> int:
        """Return how many layers across an axis lie between the first and last that the rule does not make 0."""
        lows = [rule.low] * len(self.darkest) if isinstance(rule, Window) else self.darkest
        layers = [profile[axis] > np.float64(low) for profile, low in zip(self.brightest, lows, strict=True)]
        bright = np.flatnonzero(np.any(layers, axis=0))
        return int(bright[-1] - bright[0]) + 1 if len(bright) else self.shape[axis]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What a data set looks like.

    Attributes:
        cases: Each volume's size and grid; at least one.
        intensity_percentiles: 0.5 % and 99.5 % percentile of all voxels, in their unit.
        foreground_percentiles: The same of the voxels inside labels; None without labels.
    """

    cases: tuple[CaseFingerprint, ...]
    intensity_percentiles: tuple[float, float]
    foreground_percentiles: tuple[float, float] | None

    @property
    def slice_axis(self) -> SliceAxis:
        """The direction in which most volumes were sliced; axial where votes are equal."""
        votes = Counter(case.slice_axis for case in self.cases)
        ranked: tuple[SliceAxis, ...] = ("axial", "coronal", "sagittal")
        return max(ranked, key=lambda axis: votes[axis])


def fingerprint(pairs: Iterable[tuple[Volume, Volume | None]], ignore_value: int | None = None) -> Fingerprint:
    """Look at every volume of a data set once; only one is held at a time.

    Args:
        pairs: Images, each with its labels where there are any. All label values but 0 are foreground.
        ignore_value: Label value of voxels without a label, which are not foreground either.

    Raises:
        InputError: There is no volume, or an image and its labels differ in shape.
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
        raise InputError("the data set holds no volume", fix="check imagesTr and dataset.json")
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
    # Two passes over the voxels do for three axes.
    over_first = array.max(axis=0)
    return array.max(axis=(1, 2)), over_first.max(axis=1), over_first.max(axis=0)


def _sample(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Take evenly spaced voxels of a flat array.

    Raises:
        InputError: One of them is not a finite real number.
    """
    step = max(1, values.size // _SAMPLE_PER_CASE)
    if values.dtype.kind not in "biuf":
        raise InputError(f"expected voxels that are real numbers, got type {values.dtype}")
    sample = values[::step].astype(np.float64)
    if not np.isfinite(sample).all():
        raise InputError("the volume holds NaN or infinite voxels", fix="repair them, or let the reader fill them")
    return sample


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)
