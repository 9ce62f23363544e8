"""Figure of training samples: one row per window, as preprocessed and with augmentation."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.labels import LabelScheme
from masam.report.panels import BACKGROUND, DIM, INK, class_patches, draw_outline, save_png, unit_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

_NO_LABEL = "#b48cff"
_DPI = 120
# Sizes in inches.
_PANEL, _GAP, _CAPTION, _LEFT, _TOP, _BOTTOM = 2.5, 0.1, 0.44, 0.5, 0.5, 0.3
_LETTERS_PER_LINE = 38

SampleRow = tuple[str, Sequence[tuple[NDArray[np.floating], NDArray[np.integer], str]]]


def sample_sheet(rows: Sequence[SampleRow], scheme: LabelScheme, title: str) -> bytes:
    """Draw samples with the outlines of their labels, as a PNG file.

    A row has a title and samples, each of which is an image [H, W] or [H, W, 3] in 0..1, channel numbers [H, W]
    (negative for unlabelled pixels, which are shaded), and a caption. All rows have the same length.
    """
    from matplotlib.figure import Figure

    lengths = {len(samples) for _, samples in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(f"expected rows of equal length, got {sorted(lengths)}", where="samples")
    (columns,) = lengths
    width = _LEFT + columns * (_PANEL + _GAP)
    height = _TOP + len(rows) * (_PANEL + _CAPTION) + _BOTTOM
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=BACKGROUND)
    style: dict[str, Any] = {"color": INK, "va": "center", "parse_math": False}
    figure.text(_LEFT / width, 1 - 0.5 * _TOP / height, title, fontsize=11.5, fontweight="bold", **style)
    for number, (name, samples) in enumerate(rows):
        bottom = height - _TOP - (number + 1) * (_PANEL + _CAPTION) + _CAPTION
        middle = (bottom + _PANEL / 2) / height
        figure.text(0.5 * _LEFT / width, middle, name, fontsize=8.5, rotation=90, ha="center", **style)
        for column, (image, labels, text) in enumerate(samples):
            left = _LEFT + column * (_PANEL + _GAP)
            axes = figure.add_axes((left / width, bottom / height, _PANEL / width, _PANEL / height))
            _draw(axes, image, labels, scheme)
            caption = "\n".join(textwrap.wrap(text, _LETTERS_PER_LINE)[:3])
            below = style | {"color": INK if column else DIM, "va": "top", "transform": axes.transAxes}
            axes.text(0, -0.02, caption, fontsize=6.8, linespacing=1.15, ha="left", **below)
    figure.legend(
        handles=_entries(rows, scheme), loc="lower left", bbox_to_anchor=(_LEFT / width, 0.06 / height),
        ncols=max(1, int(width / 1.6)), frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.0,
        handleheight=1.0, columnspacing=1.3, borderpad=0.1, borderaxespad=0.0,
    )  # fmt: skip
    return save_png(figure)


def _draw(axes: Axes, image: NDArray[np.floating], labels: NDArray[np.integer], scheme: LabelScheme) -> None:
    from matplotlib.colors import to_rgba

    height, width = labels.shape
    extent = (0.0, float(width), float(height), 0.0)
    # Augmented values may be outside 0..1, for which matplotlib warns.
    axes.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="bilinear", extent=extent)
    shade = np.zeros((height, width, 4))
    shade[labels < 0] = to_rgba(_NO_LABEL, 0.3)
    axes.imshow(shade, interpolation="nearest", extent=extent)
    for channel in np.unique(labels[labels > 0]):
        draw_outline(axes, labels == channel, unit_colour(scheme.labels[channel].colour), 1.1, extent)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.set_axis_off()


def _entries(rows: Sequence[SampleRow], scheme: LabelScheme) -> list[Patch]:
    from matplotlib.patches import Patch

    channels = {int(channel) for _, samples in rows for _, labels, _ in samples for channel in np.unique(labels)}
    unlabelled = [Patch(color=_NO_LABEL, alpha=0.6, label="no label")] if min(channels) < 0 else []
    return class_patches(channels, scheme) + unlabelled
