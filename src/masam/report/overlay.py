"""A case on a page: reference and prediction side by side, and where they differ."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.labels import LabelScheme
from masam.report.planes import OBLIQUE_DEGREES, DisplayPlane, display_plane, telling_slices
from masam.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

# Not in the class palette, far from each other for colour-blind readers, bright on a dark image.
ERRORS = (("missed", "#3df2ff"), ("false", "#ff2d78"), ("wrong class", "#b48cff"))

_BACKGROUND, _INK, _DIM = "#0d1117", "#e6edf3", "#8b949e"
_DPI = 140
_PANEL_INCHES, _GAP, _LEFT, _TOP, _LINE = 2.9, 0.06, 0.34, 0.36, 0.21
_SOFT_TISSUE_HU = (-160.0, 240.0)

# An error outweighs a correct voxel when slices are chosen: the reader wants to see where it fails.
_ERROR_WEIGHT = 3.0


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

    @property
    def extent(self) -> tuple[float, float, float, float]:
        height, width = self.size_mm
        return 0.0, width, height, 0.0

    def cut(self, array: NDArray[np.generic], index: int) -> NDArray[np.generic]:
        return self.plane.cut(array, index)[self.crop]


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
    channels = [_channels(volume, scheme) for _, volume in labels]
    chosen = telling_slices(_weights(channels, plane.axis), slices)
    view = _View(plane, _crop(channels, plane), window or _display_window(image.array))
    panels: list[tuple[str, int | None, int]] = [(title, None, n) for n, (title, _) in enumerate(labels)]
    panels += [("Errors" if len(labels) == 2 else f"Errors: {labels[n][0]}", 0, n) for n in range(1, len(labels))]
    return _draw(image, channels, panels, chosen, view, scheme)


def _draw(
    image: Volume,
    channels: list[NDArray[np.uint16]],
    panels: Sequence[tuple[str, int | None, int]],
    chosen: list[int],
    view: _View,
    scheme: LabelScheme,
) -> bytes:
    """Lay out title, panels, legend and caption, all in inches, and return the PNG."""
    from matplotlib.figure import Figure

    height_mm, width_mm = view.size_mm
    # The longer side of a panel fills its place; flat and tall crops keep their true proportions.
    width = (_PANEL_INCHES if len(panels) > 1 else 1.4 * _PANEL_INCHES) * min(1.0, 1.15 * width_mm / height_mm)
    height = width * height_mm / width_mm
    total_width = max(_LEFT + len(panels) * (width + _GAP) + 0.1, 4.2)
    legends = _legend_entries(channels, chosen, view, scheme)
    columns = _legend_columns(legends, total_width)
    heights = [_LINE * -(-len(entries) // columns) + 0.08 for entries in legends]
    bottom = 0.36 + sum(heights)
    total_height = _TOP + len(chosen) * (height + _GAP) + bottom
    figure = Figure(figsize=(total_width, total_height), dpi=_DPI, facecolor=_BACKGROUND)
    for row, index in enumerate(chosen):
        y = total_height - _TOP - (row + 1) * height - row * _GAP
        for column, (title, reference, shown) in enumerate(panels):
            x = _LEFT + column * (width + _GAP)
            axes = figure.add_axes((x / total_width, y / total_height, width / total_width, height / total_height))
            _grey(axes, view.cut(image.array, index).astype(np.float32), view, dim=reference is not None)
            if reference is None:
                _classes(axes, view.cut(channels[shown], index), view, scheme)
            else:
                _errors(axes, view.cut(channels[reference], index), view.cut(channels[shown], index), view)
            _letters(axes, view)
            if row == 0:
                axes.set_title(title, color=_INK, fontsize=10.5, pad=6, fontweight="bold", parse_math=False)
            if column == 0:
                _scale_bar(axes, view)
                text = f"{view.plane.name} {index + 1} / {image.shape[view.plane.axis]}"
                place: dict[str, Any] = {"transform": axes.transAxes, "rotation": 90, "ha": "right", "va": "center"}
                axes.text(-0.035, 0.5, text, color=_INK, fontsize=8.5, **place)
    y = bottom - 0.08
    for entries, used in zip(legends, heights, strict=True):
        figure.legend(
            handles=entries, loc="upper left", bbox_to_anchor=((_LEFT - 0.05) / total_width, y / total_height),
            ncols=columns, frameon=False, fontsize=8.5, labelcolor=_INK, handlelength=1.0, handleheight=1.0,
            handletextpad=0.5, columnspacing=1.3, labelspacing=0.35, borderpad=0.1, borderaxespad=0.0,
        )  # fmt: skip
        y -= used
    figure.text(_LEFT / total_width, 0.12 / total_height, _caption(image, view), color=_DIM, fontsize=7.5, va="bottom")
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor=_BACKGROUND)
    return png.getvalue()


def _legend_entries(
    channels: list[NDArray[np.uint16]], chosen: list[int], view: _View, scheme: LabelScheme
) -> list[list[Patch]]:
    """Return a legend of the classes in the chosen slices and, where there are errors to tell apart, one of these."""
    from matplotlib.patches import Patch

    shown = (np.unique(np.take(volume, index, axis=view.plane.axis)) for volume in channels for index in chosen)
    present = sorted({int(channel) for plane in shown for channel in plane if channel})
    # A zero-width space keeps matplotlib from dropping names that start with an underscore.
    names = [scheme.labels[c].name.replace("$", r"\$") for c in present]
    classes = [
        Patch(color=unit_colour(scheme.labels[c].colour), label=f"\u200b{name}" if name.startswith("_") else name)
        for c, name in zip(present, names, strict=True)
    ]
    errors = [Patch(color=colour, label=name) for name, colour in ERRORS] if len(channels) > 1 else []
    return [entries for entries in (classes, errors) if entries]


def _legend_columns(legends: list[list[Patch]], width_inches: float) -> int:
    """Return how many entries fit side by side, by the longest name (a letter of this size is about 0.085 inches)."""
    longest = max((len(str(entry.get_label())) for entries in legends for entry in entries), default=1)
    return max(1, int(width_inches / (0.5 + 0.085 * longest)))


def _grey(axes: Axes, grey: NDArray[np.float32], view: _View, *, dim: bool) -> None:
    low, high = view.window
    # Errors are drawn on a darker image, so that a thin rim still stands out.
    top = high + (high - low) * (0.6 if dim else 0.0)
    grey = np.nan_to_num(grey, nan=low, posinf=high, neginf=low)
    axes.imshow(grey, cmap="gray", vmin=low, vmax=top, extent=view.extent, interpolation="bilinear", aspect="equal")
    axes.set_axis_off()
    axes.set_facecolor("black")


def _classes(axes: Axes, plane: NDArray[Any], view: _View, scheme: LabelScheme) -> None:
    colours = np.zeros((*plane.shape, 4))
    for channel in np.unique(plane[plane > 0]):
        colour = unit_colour(scheme.labels[channel].colour)
        colours[plane == channel] = (*colour, 0.38)
        _contour(axes, plane == channel, view, colour, 1.1)
    axes.imshow(colours, extent=view.extent, interpolation="nearest", aspect="equal")


def _errors(axes: Axes, truth: NDArray[Any], guess: NDArray[Any], view: _View) -> None:
    from matplotlib.colors import to_rgb

    masks = ((truth > 0) & (guess == 0), (truth == 0) & (guess > 0), (truth > 0) & (guess > 0) & (truth != guess))
    colours = np.zeros((*truth.shape, 4))
    for mask, (_, colour) in zip(masks, ERRORS, strict=True):
        colours[mask] = (*to_rgb(colour), 0.85)
    axes.imshow(colours, extent=view.extent, interpolation="nearest", aspect="equal")
    for channel in np.unique(truth[truth > 0]):
        _contour(axes, truth == channel, view, (1.0, 1.0, 1.0), 0.6)


def _contour(
    axes: Axes, mask: NDArray[np.bool_], view: _View, colour: tuple[float, float, float], width: float
) -> None:
    # An empty border closes outlines that run into the edge of the crop.
    padded = np.pad(mask, 1).astype(np.float32)
    rows, columns = padded.shape
    x, y = (np.arange(columns) - 0.5) * view.plane.column_mm, (np.arange(rows) - 0.5) * view.plane.row_mm
    axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=width)
    axes.set(xlim=view.extent[:2], ylim=view.extent[2:])


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
    axes.plot([x, x + length], [y, y], color=_INK, linewidth=2.2, solid_capstyle="butt")
    axes.text(
        x,
        y - height * 0.02,
        f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm",
        color=_INK,
        fontsize=7,
        va="bottom",
    )
    axes.set(xlim=view.extent[:2], ylim=view.extent[2:])


def _caption(image: Volume, view: _View) -> str:
    low, high = view.window
    spacing = " x ".join(f"{s:.3g}" for s in image.geometry.spacing_mm)
    tilt = f"  ·  oblique by {view.plane.tilt_degrees:.0f}°" if view.plane.tilt_degrees > OBLIQUE_DEGREES else ""
    return f"grey {low:.4g} to {high:.4g}  ·  voxels {spacing} mm{tilt}"


def _channels(volume: Volume, scheme: LabelScheme) -> NDArray[np.uint16]:
    """Turn label values into channel numbers; a value that is not in the scheme is not drawn."""
    channels = np.zeros(volume.shape, dtype=np.uint16)
    for channel, label in enumerate(scheme.foreground, start=1):
        channels[volume.array == label.value] = channel
    return channels


def _weights(channels: list[NDArray[np.uint16]], axis: int) -> NDArray[np.float64]:
    """Weigh each slice by what it shows: labelled voxels, and more for those that differ."""
    others = tuple(a for a in range(3) if a != axis)
    weights = np.zeros(channels[0].shape[axis])
    for volume in channels:
        weights += np.count_nonzero(volume, axis=others)
        weights += _ERROR_WEIGHT * np.count_nonzero(volume != channels[0], axis=others)
    return weights


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


def unit_colour(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return red, green and blue of 0 to 255 as 0 to 1."""
    return colour[0] / 255, colour[1] / 255, colour[2] / 255
