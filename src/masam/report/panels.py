"""Figure of images with labels: one row per image, with panels for each labelling and its errors."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masam.labels import LabelScheme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

# Not in the class palette, distinguishable for colour-blind readers, and bright on a dark image.
ERRORS = (("missed", "#3df2ff"), ("false positive", "#ff2d78"), ("wrong class", "#b48cff"))

BACKGROUND, INK, DIM = "#0d1117", "#e6edf3", "#8b949e"
_DPI = 140
_PANEL_INCHES, _GAP, _LEFT, _TOP, _LINE = 2.9, 0.06, 0.34, 0.36, 0.21
# Grey value shown as white in error panels, which are darker so that thin errors are visible.
_DIM_WHITE = 1.6
# Weight of an error relative to a labelled pixel in the choice of slices.
_ERROR_WEIGHT = 3.0


@dataclass(frozen=True, eq=False)
class Row:
    """An image with its labels.

    Attributes:
        title: Title at the left of the row.
        image: [H, W] grey or [H, W, 3] RGB values, from 0 (black) to 1 (white).
        labels: [H, W] channel numbers of each labelling, the reference first.
    """

    title: str
    image: NDArray[np.floating]
    labels: Sequence[NDArray[np.uint16]]


Extent = tuple[float, float, float, float]
"""Left, right, bottom and top of an image in the units of its axes; the origin is at the top left."""


def draw_panels(
    rows: Sequence[Row],
    titles: Sequence[str],
    scheme: LabelScheme,
    *,
    caption: str,
    pixel: tuple[float, float] = (1.0, 1.0),
    mark: Callable[[Axes, bool], None] | None = None,
) -> bytes:
    """Draw rows of panels, legends and a caption, as a PNG file.

    Args:
        rows: Images of equal size.
        titles: Title of each labelling, the reference first.
        scheme: Names and colours of the classes.
        caption: Line at the bottom.
        pixel: Height and width of a pixel, which define the aspect ratio and the unit of the axes.
        mark: Draws additional marks; called with the axes of each panel and whether it is the first of its row.
    """
    from matplotlib.figure import Figure

    extent = (0.0, rows[0].image.shape[1] * pixel[1], rows[0].image.shape[0] * pixel[0], 0.0)
    aspect = extent[2] / extent[1]
    panels = _panels(titles)
    # Sizes are in inches. Panels keep the aspect ratio of the image.
    width = (_PANEL_INCHES if len(panels) > 1 else 1.4 * _PANEL_INCHES) * min(1.0, 1.15 / aspect)
    height = width * aspect
    total_width = max(_LEFT + len(panels) * (width + _GAP) + 0.1, 4.2)
    legends = _legend_entries(rows, scheme)
    columns = _legend_columns(legends, total_width)
    heights = [_LINE * -(-len(entries) // columns) + 0.08 for entries in legends]
    bottom = 0.36 + sum(heights)
    total_height = _TOP + len(rows) * (height + _GAP) + bottom
    figure = Figure(figsize=(total_width, total_height), dpi=_DPI, facecolor=BACKGROUND)
    for number, row in enumerate(rows):
        y = total_height - _TOP - (number + 1) * height - number * _GAP
        for column, (title, is_errors, shown) in enumerate(panels):
            x = _LEFT + column * (width + _GAP)
            axes = figure.add_axes((x / total_width, y / total_height, width / total_width, height / total_height))
            _picture(axes, row.image, extent, dim=is_errors)
            if is_errors:
                _errors(axes, row.labels[0], row.labels[shown], extent)
            else:
                _classes(axes, row.labels[shown], extent, scheme)
            if mark is not None:
                mark(axes, column == 0)
            axes.set(xlim=extent[:2], ylim=extent[2:])
            if number == 0:
                axes.set_title(title, color=INK, fontsize=10.5, pad=6, fontweight="bold", parse_math=False)
            if column == 0:
                style: dict[str, Any] = {"transform": axes.transAxes, "rotation": 90, "ha": "right", "va": "center"}
                axes.text(-0.035, 0.5, row.title, color=INK, fontsize=8.5, parse_math=False, **style)
    y = bottom - 0.08
    for entries, legend_height in zip(legends, heights, strict=True):
        figure.legend(
            handles=entries, loc="upper left", bbox_to_anchor=((_LEFT - 0.05) / total_width, y / total_height),
            ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.0, handleheight=1.0,
            handletextpad=0.5, columnspacing=1.3, labelspacing=0.35, borderpad=0.1, borderaxespad=0.0,
        )  # fmt: skip
        y -= legend_height
    figure.text(_LEFT / total_width, 0.12 / total_height, caption, color=DIM, fontsize=7.5, va="bottom")
    return save_png(figure)


def save_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor=figure.get_facecolor())
    return png.getvalue()


def slice_weights(labels: Sequence[NDArray[np.uint16]], axes: tuple[int, ...] | None = None) -> NDArray[np.float64]:
    """Count labelled pixels over some axes, with a larger weight for pixels that differ from the reference.

    ``labels`` are the channel numbers of each labelling, the reference first.
    """
    counts = [
        np.count_nonzero(label, axis=axes) + _ERROR_WEIGHT * np.count_nonzero(label != labels[0], axis=axes)
        for label in labels
    ]
    return np.asarray(np.sum(counts, axis=0), np.float64)


def to_channels(values: NDArray[np.generic], scheme: LabelScheme) -> NDArray[np.uint16]:
    """Convert label values to channel numbers; values outside the scheme become background."""
    channels = np.zeros(values.shape, dtype=np.uint16)
    for channel, label in enumerate(scheme.foreground, start=1):
        channels[values == label.value] = channel
    return channels


def _panels(titles: Sequence[str]) -> list[tuple[str, bool, int]]:
    """Return the title of each panel, whether it shows errors, and the index of its labelling."""
    panels = [(title, False, n) for n, title in enumerate(titles)]
    return panels + [("Errors" if len(titles) == 2 else f"Errors: {titles[n]}", True, n) for n in range(1, len(titles))]


def _legend_entries(rows: Sequence[Row], scheme: LabelScheme) -> list[list[Patch]]:
    """Return the entries of a legend of the classes and, if there are predictions, of a legend of the errors."""
    from matplotlib.patches import Patch

    classes = class_patches({int(c) for row in rows for labels in row.labels for c in np.unique(labels)}, scheme)
    errors = [Patch(color=colour, label=name) for name, colour in ERRORS] if len(rows[0].labels) > 1 else []
    return [entries for entries in (classes, errors) if entries]


def class_patches(channels: Iterable[int], scheme: LabelScheme) -> list[Patch]:
    """Return legend entries of the foreground channels, in ascending order."""
    from matplotlib.patches import Patch

    classes = [scheme.labels[channel] for channel in sorted(channels) if channel > 0]
    # Matplotlib omits names that start with an underscore; a zero-width space in front prevents this.
    return [Patch(color=unit_colour(c.colour), label="\u200b" + c.name.replace("$", r"\$")) for c in classes]


def _legend_columns(legends: list[list[Patch]], width_inches: float) -> int:
    """Return the number of columns for the longest name, at about 0.085 inches per letter."""
    longest = max((len(str(entry.get_label())) for entries in legends for entry in entries), default=1)
    return max(1, int(width_inches / (0.5 + 0.085 * longest)))


def _picture(axes: Axes, image: NDArray[np.floating], extent: Extent, *, dim: bool) -> None:
    white = _DIM_WHITE if dim else 1.0
    if image.ndim == 3:
        image = np.clip(image / white, 0, 1)  # matplotlib scales grey values, but not colours
    axes.imshow(image, cmap="gray", vmin=0, vmax=white, extent=extent, interpolation="bilinear", aspect="equal")
    axes.set_axis_off()
    axes.set_facecolor("black")


def _classes(axes: Axes, plane: NDArray[Any], extent: Extent, scheme: LabelScheme) -> None:
    colours = np.zeros((*plane.shape, 4))
    for channel in np.unique(plane[plane > 0]):
        colour = unit_colour(scheme.labels[channel].colour)
        colours[plane == channel] = (*colour, 0.38)
        draw_outline(axes, plane == channel, colour, 1.1, extent)
    axes.imshow(colours, extent=extent, interpolation="nearest", aspect="equal")


def _errors(axes: Axes, reference: NDArray[Any], prediction: NDArray[Any], extent: Extent) -> None:
    from matplotlib.colors import to_rgb

    present, predicted = reference > 0, prediction > 0
    masks = (present & ~predicted, ~present & predicted, present & predicted & (reference != prediction))
    colours = np.zeros((*reference.shape, 4))
    for mask, (_, colour) in zip(masks, ERRORS, strict=True):
        colours[mask] = (*to_rgb(colour), 0.85)
    axes.imshow(colours, extent=extent, interpolation="nearest", aspect="equal")
    for channel in np.unique(reference[present]):
        draw_outline(axes, reference == channel, (1.0, 1.0, 1.0), 0.6, extent)


def draw_outline(
    axes: Axes, mask: NDArray[np.bool_], colour: tuple[float, float, float], width: float, extent: Extent
) -> None:
    """Draw the outline of a [H, W] mask with at least one pixel, with a line width in points."""
    # Only the bounding box, for speed; an empty border closes outlines at the edge of the image.
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    padded = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.float32)
    y = (np.arange(padded.shape[0]) + rows[0] - 0.5) * extent[2] / mask.shape[0]
    x = (np.arange(padded.shape[1]) + columns[0] - 0.5) * extent[1] / mask.shape[1]
    axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=width)


def unit_colour(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """Scale red, green and blue from 0..255 to 0..1."""
    return colour[0] / 255, colour[1] / 255, colour[2] / 255
