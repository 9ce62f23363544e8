"""Training curves and the curve of Dice against clicks, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.evaluation.prompts import PromptEvaluation
from masam.report.panels import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _DIM, _GRID, _PAPER = "#1f2328", "#6a737d", "#e6e8eb", "#ffffff"
_BLUE, _ORANGE = "#0b5fa5", "#c2410c"
_LINES = (_BLUE, _ORANGE, "#0f766e", "#7c3aed", "#b45309")
_DPI = 140

LineStyle = str | tuple[int, tuple[int, ...]]

# Window of the running mean of a loss, as a fraction of the steps.
_SMOOTH = 0.03


def training_curves(metrics: Mapping[str, Sequence[float | None]]) -> bytes:
    """Plot loss and validation Dice against the steps of a training run, as a PNG file.

    Args:
        metrics: Columns of ``metrics.csv``: "step", columns whose names contain "loss", and optionally columns whose
            names contain "dice" but not "loss". Values of steps without validation are None or NaN.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    if "step" not in metrics:
        raise InputError(f"expected a column 'step', got {sorted(metrics)}", where="metrics")
    columns = {
        name: np.array([math.nan if v is None else v for v in column], float) for name, column in metrics.items()
    }
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"expected columns of equal length, got {lengths}", where="metrics")
    losses = [name for name in columns if "loss" in name.lower()]
    if not losses:
        raise InputError(f"expected a column with 'loss' in its name, got {sorted(metrics)}", where="metrics")
    named_dice = [name for name in columns if "dice" in name.lower() and name not in losses]
    dices = [name for name in named_dice if not np.isnan(columns[name]).all()]
    figure = Figure(figsize=(8.6, 3.0 + 2.6 * bool(dices)), dpi=_DPI, facecolor=_PAPER, layout="constrained")
    panels = figure.subplots(1 + bool(dices), 1, sharex=True, squeeze=False)[:, 0]
    for name, colour in zip(losses, _LINES * len(losses), strict=False):
        _loss_line(panels[0], columns["step"], columns[name], name, colour)
    if any((columns[name] > 0).any() for name in losses):
        panels[0].set_yscale("log", subs=(2, 3, 5))
        number = FuncFormatter(lambda value, _: f"{value:g}")
        panels[0].yaxis.set_major_formatter(number)
        panels[0].yaxis.set_minor_formatter(number)
    panels[0].set_ylabel("loss")
    for name, colour in zip(dices, _LINES * len(dices), strict=False):
        _dice_line(panels[1], columns["step"], columns[name], name, colour)
    if dices:
        panels[1].set(ylabel="validation Dice", ylim=(0, 1.02))
    panels[-1].set_xlabel("step")
    for axes in panels:
        _plain(axes)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=8.5, labelcolor=_INK)
    return save_png(figure)


def prompt_curve(evaluation: PromptEvaluation) -> bytes:
    """Plot Dice against clicks, with lines for the boxes and the automatic segmentation, as a PNG file."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not evaluation.scores:
        raise InputError("expected at least one case with a foreground class", where="evaluation")
    figure = Figure(figsize=(8.6, 4.4), dpi=_DPI, facecolor=_PAPER, layout="constrained")
    axes = figure.subplots()
    curve = [evaluation.automatic, *evaluation.by_clicks]
    count, dice = np.arange(len(curve)), [item.mean_dice for item in curve]
    # The interval of a single case is NaN and not drawn.
    axes.fill_between(
        count, [item.low for item in curve], [item.high for item in curve], color=_BLUE, alpha=0.12, linewidth=0
    )
    axes.plot(count, dice, color=_BLUE, linewidth=1.8, marker="o", markersize=4, label="clicks (band: 95 % interval)")
    styles: Sequence[tuple[str, LineStyle]] = (
        *((_DIM, ":"), (_ORANGE, "-"), (_ORANGE, (0, (6, 2))), (_ORANGE, (0, (3, 2))), (_ORANGE, (0, (1, 2)))),
        ("#7c3aed", "-."),
    )
    for item, (colour, style) in zip((evaluation.automatic, *evaluation.by_box), styles, strict=True):
        label = f"{item.prompt}, {item.mean_dice:.3f}"
        axes.axhline(item.mean_dice, color=colour, linewidth=1.3, linestyle=style, label=label, zorder=1)
    low = min(item.mean_dice if math.isnan(item.low) else item.low for item in evaluation.summary)
    axes.set(xlabel="clicks per class", ylabel="Dice", ylim=(max(0.0, low - 0.05), 1.01))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axes)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=_INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save_png(figure)


def _loss_line(axes: Axes, step: NDArray[np.float64], loss: NDArray[np.float64], name: str, colour: str) -> None:
    known = np.isfinite(loss)
    step, loss = step[known], loss[known]
    width = max(1, int(len(loss) * _SMOOTH))
    if width == 1:
        axes.plot(step, loss, color=colour, linewidth=1.6, label=name)
        return
    axes.plot(step, loss, color=colour, linewidth=0.7, alpha=0.25)
    # Mean over the preceding steps only.
    sums = np.cumsum(np.concatenate([np.zeros(1), loss]))
    end = np.arange(1, len(loss) + 1)
    start = np.maximum(end - width, 0)
    axes.plot(step, (sums[end] - sums[start]) / (end - start), color=colour, linewidth=1.6, label=name)


def _dice_line(axes: Axes, step: NDArray[np.float64], dice: NDArray[np.float64], name: str, colour: str) -> None:
    known = np.isfinite(dice)
    step, dice = step[known], dice[known]
    axes.plot(step, dice, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=name)
    best = int(np.argmax(dice))
    axes.scatter([step[best]], [dice[best]], s=70, facecolors="none", edgecolors=colour, linewidths=1.4, zorder=3)
    side = "right" if best > len(dice) / 2 else "left"
    text = f"best {dice[best]:.3f} at step {step[best]:.0f}"
    axes.annotate(
        text, (step[best], dice[best]), (0, -15), textcoords="offset points", ha=side, fontsize=8.5, color=_INK
    )


def _plain(axes: Axes) -> None:
    axes.set_facecolor(_PAPER)
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, colors=_DIM, labelsize=9)
    axes.tick_params(which="both", axis="y", labelcolor=_INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_GRID)
    axes.xaxis.label.set(color=_DIM, fontsize=9)
    axes.yaxis.label.set(color=_DIM, fontsize=9)
