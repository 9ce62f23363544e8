"""Training samples on a sheet: a row a window, as prepared and then as augmentation varies it."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.labels import LabelScheme
from masam.report.panels import BACKGROUND, DIM, INK, unit_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

_NO_LABEL = "#b48cff"
_DPI = 120
# In inches.
_PANEL, _GAP, _CAPTION, _LEFT, _TOP, _BOTTOM = 2.5, 0.1, 0.44, 0.5, 0.5, 0.3
_LETTERS_A_LINE = 38

SampleRow = tuple[str, Sequence[tuple[NDArray[np.floating], NDArray[np.integer], str]]]


def sample_sheet(rows: Sequence[SampleRow], scheme: LabelScheme, title: str) -> bytes:
    """Draw samples with the outlines of their labels.

    Args:
        rows: Title of each row, and its samples: an image [H, W], or [H, W, 3] in colours, of 0..1, channel numbers
            [H, W] (-100, which is shaded, where there is none), and a caption. All rows have as many samples.
        scheme: Names and colours of the channels.
        title: Heading of the sheet.

    Returns:
        A PNG file.

    Raises:
        InputError: There is no sample, or rows differ in length.
    """
    from matplotlib.figure import Figure

    lengths = {len(samples) for _, samples in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(f"expected rows of one length, got {sorted(lengths)}", where="samples")
    (columns,) = lengths
    width = _LEFT + columns * (_PANEL + _GAP)
    height = _TOP + len(rows) * (_PANEL + _CAPTION) + _BOTTOM
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=BACKGROUND)
    heading: dict[str, Any] = {
        "color": INK,
        "fontsize": 11.5,
        "fontweight": "bold",
        "va": "center",
        "parse_math": False,
    }
    figure.text(_LEFT / width, 1 - 0.5 * _TOP / height, title, **heading)
    for number, (name, samples) in enumerate(rows):
        bottom = height - _TOP - (number + 1) * (_PANEL + _CAPTION) + _CAPTION
        middle = (bottom + _PANEL / 2) / height
        side: dict[str, Any] = {"color": INK, "fontsize": 8.5, "ha": "center", "va": "center", "parse_math": False}
        figure.text(0.5 * _LEFT / width, middle, name, rotation=90, **side)
        for column, (image, labels, words) in enumerate(samples):
            left = _LEFT + column * (_PANEL + _GAP)
            axes = figure.add_axes((left / width, bottom / height, _PANEL / width, _PANEL / height))
            _draw(axes, image, labels, scheme)
            caption = "\n".join(textwrap.wrap(words, _LETTERS_A_LINE)[:3])
            place: dict[str, Any] = {"ha": "left", "va": "top", "transform": axes.transAxes, "parse_math": False}
            axes.text(0, -0.02, caption, color=INK if column else DIM, fontsize=6.8, linespacing=1.15, **place)
    figure.legend(
        handles=_entries(rows, scheme), loc="lower left", bbox_to_anchor=(_LEFT / width, 0.06 / height),
        ncols=max(1, int(width / 1.6)), frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.0,
        handleheight=1.0, columnspacing=1.3, borderpad=0.1, borderaxespad=0.0,
    )  # fmt: skip
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor=BACKGROUND)
    return png.getvalue()


def _draw(axes: Axes, image: NDArray[np.floating], labels: NDArray[np.integer], scheme: LabelScheme) -> None:
    from matplotlib.colors import to_rgba

    # Augmentation may leave 0..1, where matplotlib would warn of colours.
    axes.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
    shade = np.zeros((*labels.shape, 4))
    shade[labels < 0] = to_rgba(_NO_LABEL, 0.3)
    axes.imshow(shade, interpolation="nearest")
    for channel in np.unique(labels[labels > 0]):
        # An empty border closes outlines that run into the edge.
        mask = np.pad(labels == channel, 1).astype(np.float32)
        rows, columns = (np.arange(n) - 1 for n in mask.shape)
        colour = unit_colour(scheme.labels[channel].colour)
        axes.contour(columns, rows, mask, levels=[0.5], colors=[colour], linewidths=1.1)
    axes.set(xlim=(-0.5, labels.shape[1] - 0.5), ylim=(labels.shape[0] - 0.5, -0.5))
    axes.set_axis_off()


def _entries(rows: Sequence[SampleRow], scheme: LabelScheme) -> list[Patch]:
    from matplotlib.patches import Patch

    shown = {int(channel) for _, samples in rows for _, labels, _ in samples for channel in np.unique(labels)}
    # A zero-width space keeps matplotlib from dropping names that start with an underscore.
    entries = [
        Patch(color=unit_colour(scheme.labels[c].colour), label="\u200b" + scheme.labels[c].name.replace("$", r"\$"))
        for c in sorted(shown)
        if c > 0
    ]
    return entries + ([Patch(color=_NO_LABEL, alpha=0.6, label="no label")] if min(shown) < 0 else [])
