"""Pictures with labels on a dark sheet: a row a picture, a panel each labelling, and panels of their errors."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masam.labels import LabelScheme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

# Not in the class palette, far from each other for colour-blind readers, bright on a dark image.
ERRORS = (("missed", "#3df2ff"), ("false", "#ff2d78"), ("wrong class", "#b48cff"))

BACKGROUND, INK, DIM = "#0d1117", "#e6edf3", "#8b949e"
_DPI = 140
_PANEL_INCHES, _GAP, _LEFT, _TOP, _LINE = 2.9, 0.06, 0.34, 0.36, 0.21
# Errors are drawn on a darker image, so that a thin rim still stands out: white is what is as bright as this.
_DIM_WHITE = 1.6
# An error outweighs a correct pixel when pictures are chosen: the reader wants to see where it fails.
_ERROR_WEIGHT = 3.0


@dataclass(frozen=True, eq=False)
class Row:
    """One picture with its labels.

    Attributes:
        title: What stands at its left.
        image: [H, W] grey, or [H, W, 3] red, green and blue; 0 is black, 1 is white.
        labels: Channel numbers [H, W] of each labelling, the reference first.
    """

    title: str
    image: NDArray[np.floating]
    labels: Sequence[NDArray[np.uint16]]


@dataclass(frozen=True)
class _View:
    """What all panels of a sheet share: pixels of a picture, and height and width of a pixel."""

    shape: tuple[int, int]
    pixel: tuple[float, float]

    @property
    def size(self) -> tuple[float, float]:
        return self.shape[0] * self.pixel[0], self.shape[1] * self.pixel[1]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        height, width = self.size
        return 0.0, width, height, 0.0


def draw_panels(
    rows: Sequence[Row],
    titles: Sequence[str],
    scheme: LabelScheme,
    *,
    caption: str,
    pixel: tuple[float, float] = (1.0, 1.0),
    mark: Callable[[Axes, bool], None] | None = None,
) -> bytes:
    """Lay out rows of panels, legends and a caption.

    Args:
        rows: Pictures of one size.
        titles: Of each labelling, the reference's first.
        scheme: Names and colours of the classes.
        caption: A line at the bottom.
        pixel: Height and width of a pixel, which give the panels their proportions and the axes their unit.
        mark: Called with each panel's axes, and whether it is the first of its row, to add marks.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    rows_of_image, columns_of_image = rows[0].image.shape[:2]
    view = _View((rows_of_image, columns_of_image), pixel)
    panels = _panels(titles)
    # The longer side of a panel fills its place; flat and tall pictures keep their true proportions. All in inches.
    width = (_PANEL_INCHES if len(panels) > 1 else 1.4 * _PANEL_INCHES) * min(1.0, 1.15 * view.size[1] / view.size[0])
    height = width * view.size[0] / view.size[1]
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
            _picture(axes, row.image, view, dim=is_errors)
            if is_errors:
                _errors(axes, row.labels[0], row.labels[shown], view)
            else:
                _classes(axes, row.labels[shown], view, scheme)
            if mark is not None:
                mark(axes, column == 0)
            axes.set(xlim=view.extent[:2], ylim=view.extent[2:])
            if number == 0:
                axes.set_title(title, color=INK, fontsize=10.5, pad=6, fontweight="bold", parse_math=False)
            if column == 0:
                place: dict[str, Any] = {"transform": axes.transAxes, "rotation": 90, "ha": "right", "va": "center"}
                axes.text(-0.035, 0.5, row.title, color=INK, fontsize=8.5, parse_math=False, **place)
    y = bottom - 0.08
    for entries, used in zip(legends, heights, strict=True):
        figure.legend(
            handles=entries, loc="upper left", bbox_to_anchor=((_LEFT - 0.05) / total_width, y / total_height),
            ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.0, handleheight=1.0,
            handletextpad=0.5, columnspacing=1.3, labelspacing=0.35, borderpad=0.1, borderaxespad=0.0,
        )  # fmt: skip
        y -= used
    figure.text(_LEFT / total_width, 0.12 / total_height, caption, color=DIM, fontsize=7.5, va="bottom")
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor=BACKGROUND)
    return png.getvalue()


def telling_weight(labels: Sequence[NDArray[np.uint16]], axes: tuple[int, ...] | None = None) -> NDArray[np.float64]:
    """Weigh what there is to see: labelled pixels, and more for those that differ from the reference.

    Args:
        labels: Channel numbers of each labelling, of one shape, the reference first.
        axes: Those to sum over; all by default.

    Returns:
        Weights along the axes that are left.
    """
    counts = [
        np.count_nonzero(one, axis=axes) + _ERROR_WEIGHT * np.count_nonzero(one != labels[0], axis=axes)
        for one in labels
    ]
    return np.asarray(np.sum(counts, axis=0), np.float64)


def to_channels(values: NDArray[np.generic], scheme: LabelScheme) -> NDArray[np.uint16]:
    """Turn label values into channel numbers; a value that is not in the scheme is not drawn."""
    channels = np.zeros(values.shape, dtype=np.uint16)
    for channel, label in enumerate(scheme.foreground, start=1):
        channels[values == label.value] = channel
    return channels


def _panels(titles: Sequence[str]) -> list[tuple[str, bool, int]]:
    """Return each panel's title, whether it shows errors, and of which labelling."""
    panels = [(title, False, n) for n, title in enumerate(titles)]
    return panels + [("Errors" if len(titles) == 2 else f"Errors: {titles[n]}", True, n) for n in range(1, len(titles))]


def _legend_entries(rows: Sequence[Row], scheme: LabelScheme) -> list[list[Patch]]:
    """Return a legend of the classes in the pictures and, where there are errors to tell apart, one of these."""
    from matplotlib.patches import Patch

    present = sorted(
        {int(channel) for row in rows for labels in row.labels for channel in np.unique(labels) if channel}
    )
    # A zero-width space keeps matplotlib from dropping names that start with an underscore.
    names = [scheme.labels[c].name.replace("$", r"\$") for c in present]
    classes = [
        Patch(color=unit_colour(scheme.labels[c].colour), label=f"\u200b{name}" if name.startswith("_") else name)
        for c, name in zip(present, names, strict=True)
    ]
    errors = [Patch(color=colour, label=name) for name, colour in ERRORS] if len(rows[0].labels) > 1 else []
    return [entries for entries in (classes, errors) if entries]


def _legend_columns(legends: list[list[Patch]], width_inches: float) -> int:
    """Return how many entries fit side by side, by the longest name (a letter of this size is about 0.085 inches)."""
    longest = max((len(str(entry.get_label())) for entries in legends for entry in entries), default=1)
    return max(1, int(width_inches / (0.5 + 0.085 * longest)))


def _picture(axes: Axes, image: NDArray[np.floating], view: _View, *, dim: bool) -> None:
    white = _DIM_WHITE if dim else 1.0
    if image.ndim == 3:
        image = np.clip(image / white, 0, 1)  # matplotlib scales grey, not colours
    axes.imshow(image, cmap="gray", vmin=0, vmax=white, extent=view.extent, interpolation="bilinear", aspect="equal")
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
    # The mask's own box, as contouring takes the time of all that it is given; an empty border closes outlines that run
    # into the edge of the picture.
    inside = [np.flatnonzero(mask.any(axis=other)) for other in (1, 0)]
    top, left = (int(found[0]) for found in inside)
    padded = np.pad(mask[top : inside[0][-1] + 1, left : inside[1][-1] + 1], 1).astype(np.float32)
    rows, columns = padded.shape
    y, x = (np.arange(rows) + top - 0.5) * view.pixel[0], (np.arange(columns) + left - 0.5) * view.pixel[1]
    axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=width)


def unit_colour(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return red, green and blue of 0 to 255 as 0 to 1."""
    return colour[0] / 255, colour[1] / 255, colour[2] / 255
