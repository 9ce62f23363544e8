"""Figure of a scan: slices with reference, prediction and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.labels import LabelScheme
from masam.report.panels import INK, Row, draw_panels, slice_weights, to_channels
from masam.report.planes import OBLIQUE_DEGREES, DisplayPlane, display_plane, select_slices
from masam.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SOFT_TISSUE_HU = (-160.0, 240.0)


@dataclass(frozen=True)
class _View:
    """Plane, crop (rows and columns of the figure) and display window of all panels."""

    plane: DisplayPlane
    crop: tuple[slice, slice]
    window: tuple[float, float]

    @property
    def size_mm(self) -> tuple[float, float]:
        rows, columns = self.crop
        return (rows.stop - rows.start) * self.plane.row_mm, (columns.stop - columns.start) * self.plane.column_mm

    def cut(self, array: NDArray[np.generic], index: int) -> NDArray[np.generic]:
        return self.plane.cut(array, index)[self.crop]

    def image(self, array: NDArray[np.generic], index: int) -> NDArray[np.float32]:
        """Return a slice with the display window scaled to 0..1."""
        low, high = self.window
        grey = np.nan_to_num(self.cut(array, index).astype(np.float32), nan=low, posinf=high, neginf=low)
        scaled: NDArray[np.float32] = (grey - np.float32(low)) / np.float32(high - low)
        return scaled


def overlay(
    image: Volume,
    labels: Sequence[tuple[str, Volume]],
    scheme: LabelScheme,
    *,
    slice_axis: int | None = None,
    slices: int = 3,
    window: tuple[float, float] | None = None,
) -> bytes:
    """Draw slices with many labels or errors, in radiological convention, as a PNG file.

    Each of at most ``slices`` rows is a slice, with a panel per label volume, the reference first, and a panel with the
    errors of each prediction. ``slice_axis`` is the array axis to slice along, as for :func:`display_plane`. ``window``
    contains the grey values shown as black and white; by default soft tissue (-160 to 240 HU) if the values are typical
    of CT, otherwise the 1st and 99.5th percentile of the voxels above the minimum.
    """
    if not labels:
        raise InputError("expected at least one label volume to draw", where="labels")
    for title, volume in labels:
        if volume.shape != image.shape or not image.geometry.matches(volume.geometry, image.shape):
            raise InputError(
                f"expected labels on the grid of the image (shape {image.shape}), got shape {volume.shape}"
                + ("" if volume.shape != image.shape else " with another affine"),
                where=title,
            )
    plane = display_plane(image.geometry, slice_axis)
    channels = [to_channels(volume.array, scheme) for _, volume in labels]
    others = tuple(axis for axis in range(3) if axis != plane.axis)
    view = _View(plane, _crop(channels, plane), window or _display_window(image.array))
    rows = [
        Row(
            f"{plane.name} {index + 1} / {image.shape[plane.axis]}",
            view.image(image.array, index),
            [view.cut(volume, index) for volume in channels],
        )
        for index in select_slices(slice_weights(channels, others), slices)
    ]

    def mark(axes: Axes, is_first: bool) -> None:
        _letters(axes, view)
        if is_first:
            _scale_bar(axes, view)

    pixel_mm = (plane.row_mm, plane.column_mm)
    titles = [title for title, _ in labels]
    return draw_panels(rows, titles, scheme, caption=_caption(image, view), pixel=pixel_mm, mark=mark)


def _letters(axes: Axes, view: _View) -> None:
    left, right, top, bottom = view.plane.letters
    positions = ((0.015, 0.5, left, "left", "center"), (0.985, 0.5, right, "right", "center"),
                 (0.5, 0.985, top, "center", "top"), (0.5, 0.015, bottom, "center", "bottom"))  # fmt: skip
    style: dict[str, Any] = {"transform": axes.transAxes, "color": "#ffd54a", "fontsize": 8, "fontweight": "bold"}
    for x, y, letter, horizontal, vertical in positions:
        axes.text(x, y, letter, ha=horizontal, va=vertical, **style)


def _scale_bar(axes: Axes, view: _View) -> None:
    height, width = view.size_mm
    length = max((n for n in (1, 2, 5, 10, 20, 50, 100, 200) if n <= width / 3), default=width / 3)
    x, y = width * 0.04, height * 0.955
    axes.plot([x, x + length], [y, y], color=INK, linewidth=2.2, solid_capstyle="butt")
    text = f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm"
    axes.text(x, y - height * 0.02, text, color=INK, fontsize=7, va="bottom")


def _caption(image: Volume, view: _View) -> str:
    low, high = view.window
    spacing = " x ".join(f"{s:.3g}" for s in image.geometry.spacing_mm)
    tilt = f"  ·  oblique by {view.plane.tilt_degrees:.0f}°" if view.plane.tilt_degrees > OBLIQUE_DEGREES else ""
    return f"grey {low:.4g} to {high:.4g}  ·  voxels {spacing} mm{tilt}"


def _crop(channels: list[NDArray[np.uint16]], plane: DisplayPlane) -> tuple[slice, slice]:
    """Return the region of all labels with a margin of a quarter of its size, at least 15 mm."""
    labelled = plane.cut(np.any([volume > 0 for volume in channels], axis=0).any(axis=plane.axis, keepdims=True), 0)
    if not labelled.any():
        return slice(0, labelled.shape[0]), slice(0, labelled.shape[1])
    crop = []
    for axis, spacing in ((0, plane.row_mm), (1, plane.column_mm)):
        inside = np.flatnonzero(labelled.any(axis=1 - axis))
        margin = int(np.ceil(max(15.0 / spacing, 0.25 * (inside[-1] - inside[0] + 1))))
        crop.append(slice(max(0, int(inside[0]) - margin), min(labelled.shape[axis], int(inside[-1]) + 1 + margin)))
    return crop[0], crop[1]


def _display_window(array: NDArray[np.generic]) -> tuple[float, float]:
    # About 100 voxels along each axis suffice for percentiles.
    steps = tuple(slice(None, None, max(1, n // 100)) for n in array.shape)
    sample = array[steps].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size or sample.min() == sample.max():
        low = float(sample[0]) if sample.size else 0.0
        return low, low + 1.0
    # Air in Hounsfield units; no other modality has values this far below zero.
    if sample.min() <= -900 and np.median(sample) < 300:
        return _SOFT_TISSUE_HU
    low, high = np.percentile(sample[sample > sample.min()], (1.0, 99.5))
    return (float(low), float(high)) if high > low else (float(sample.min()), float(sample.max()))
