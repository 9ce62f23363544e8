"""A scan on a page: reference and prediction side by side, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.labels import LabelScheme
from masam.report.panels import INK, Row, draw_panels, telling_weight, to_channels
from masam.report.planes import OBLIQUE_DEGREES, DisplayPlane, display_plane, telling_slices
from masam.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SOFT_TISSUE_HU = (-160.0, 240.0)


@dataclass(frozen=True)
class _View:
    """What all panels of a figure share: plane, crop (rows and columns of the page) and display window."""

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
        """Return a slice with the display window as 0 to 1."""
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
    """Draw the most telling slices of a case in radiological convention.

    A row a slice; a panel for each label volume, then, for each one after the first, a panel of its errors against it.

    Args:
        image: Grey values.
        labels: Title and label volume, the reference first; values as in label files.
        scheme: Names and colours of the classes.
        slice_axis: Array axis to cut along; by default the one of largest spacing.
        slices: Most slices to show.
        window: Grey values shown as black and as white; by default soft tissue (-160 to 240 HU) if the image holds
            values that only CT has, else the 1st and 99.5th percentile of the voxels above the minimum.

    Returns:
        A PNG file.

    Raises:
        InputError: There is no label volume, or one lies on another grid than the image.
    """
    if not labels:
        raise InputError("expected at least one label volume to draw", where="labels")
    for title, volume in labels:
        if volume.shape != image.shape or not image.geometry.matches(volume.geometry, image.shape):
            raise InputError(
                f"expected labels on the image's grid (shape {image.shape}), got shape {volume.shape}"
                + ("" if volume.shape != image.shape else " at another place"),
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
        for index in telling_slices(telling_weight(channels, others), slices)
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
    places = ((0.015, 0.5, left, "left", "center"), (0.985, 0.5, right, "right", "center"),
              (0.5, 0.985, top, "center", "top"), (0.5, 0.015, bottom, "center", "bottom"))  # fmt: skip
    for x, y, letter, horizontal, vertical in places:
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            ha=horizontal,
            va=vertical,
            color="#ffd54a",
            fontsize=8,
            fontweight="bold",
        )


def _scale_bar(axes: Axes, view: _View) -> None:
    height, width = view.size_mm
    length = max((n for n in (1, 2, 5, 10, 20, 50, 100, 200) if n <= width / 3), default=width / 3)
    x, y = width * 0.04, height * 0.955
    axes.plot([x, x + length], [y, y], color=INK, linewidth=2.2, solid_capstyle="butt")
    axes.text(
        x,
        y - height * 0.02,
        f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm",
        color=INK,
        fontsize=7,
        va="bottom",
    )


def _caption(image: Volume, view: _View) -> str:
    low, high = view.window
    spacing = " x ".join(f"{s:.3g}" for s in image.geometry.spacing_mm)
    tilt = f"  ·  oblique by {view.plane.tilt_degrees:.0f}°" if view.plane.tilt_degrees > OBLIQUE_DEGREES else ""
    return f"grey {low:.4g} to {high:.4g}  ·  voxels {spacing} mm{tilt}"


def _crop(channels: list[NDArray[np.uint16]], plane: DisplayPlane) -> tuple[slice, slice]:
    """Return the part of the page that holds all labels and a margin of a quarter of their size, at least 15 mm."""
    filled = np.any([volume > 0 for volume in channels], axis=0).any(axis=plane.axis, keepdims=True)
    page = plane.cut(filled, 0)
    if not page.any():
        return slice(0, page.shape[0]), slice(0, page.shape[1])
    crop = []
    for axis, spacing in ((0, plane.row_mm), (1, plane.column_mm)):
        where = np.flatnonzero(page.any(axis=1 - axis))
        margin = int(np.ceil(max(15.0 / spacing, 0.25 * (where[-1] - where[0] + 1))))
        crop.append(slice(max(0, int(where[0]) - margin), min(page.shape[axis], int(where[-1]) + 1 + margin)))
    return crop[0], crop[1]


def _display_window(array: NDArray[np.generic]) -> tuple[float, float]:
    # A twentieth of the voxels in each direction is plenty for percentiles.
    steps = tuple(slice(None, None, max(1, n // 100)) for n in array.shape)
    sample = array[steps].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size or sample.min() == sample.max():
        low = float(sample[0]) if sample.size else 0.0
        return low, low + 1.0
    # Air in Hounsfield units; no other modality of medical imaging reaches so far below zero.
    if sample.min() <= -900 and np.median(sample) < 300:
        return _SOFT_TISSUE_HU
    low, high = np.percentile(sample[sample > sample.min()], (1.0, 99.5))
    return (float(low), float(high)) if high > low else (float(sample.min()), float(sample.max()))
