"""Scores of one way of training, repeated with several seeds: mean, spread over seeds, interval over cases, difference.

Two things move such a mean: which cases were scored, and chance in training. They are kept apart. Intervals are over
cases: cases are drawn with replacement, and a drawn case brings its scores of every seed, since the seeds saw the same
cases and are no further patients. Chance in training is the standard deviation over seeds; with the few seeds that
anybody trains, an interval from it would be a pretence.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from masam.evaluation.statistics import draw_cases, mean_of_means, means_of_draws, percentile_interval

Repeated = NDArray[np.float64]
"""[seeds, cases, classes] scores, NaN where there is none; cases and classes are the same for each seed."""


def mean_over_seeds(values: Repeated) -> float:
    """Return the mean over seeds of the mean over classes of the mean over cases; NaN without any score."""
    means = _known(seed_means(values))
    return float(means.mean()) if len(means) else math.nan


def spread_over_seeds(values: Repeated) -> float:
    """Return the sample standard deviation (n - 1) over seeds of their means; NaN with fewer than two seeds."""
    means = _known(seed_means(values))
    return float(means.std(ddof=1)) if len(means) > 1 else math.nan


def interval_over_cases(values: Repeated) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of ``mean_over_seeds`` over cases.

    Returns:
        Both ends; NaN with fewer than two cases that hold a score.
    """
    held = _held(values)
    if held.sum() < 2:
        return math.nan, math.nan
    return percentile_interval(_draw_means(values[:, held]))


def paired_difference(values: Repeated, baseline: Repeated) -> tuple[float, float, float]:
    """Compare two ways of training by the same seeds and cases.

    The same cases are drawn for both, so what makes a case hard for either is no part of the interval.

    Args:
        values: Scores of the one.
        baseline: Scores of the other, with the same cases and classes.

    Returns:
        The difference of their means, and both ends of its 95 % interval over cases; NaN where there is none.
    """
    difference = mean_over_seeds(values) - mean_over_seeds(baseline)
    held = _held(values) | _held(baseline)
    if held.sum() < 2:
        return difference, math.nan, math.nan
    return difference, *percentile_interval(_draw_means(values[:, held]) - _draw_means(baseline[:, held]))


def seed_means(values: Repeated) -> NDArray[np.float64]:
    """Return each seed's mean over classes of the mean over cases; NaN for a seed without any score."""
    return np.array([mean_of_means(of_seed, axis=0) for of_seed in values], dtype=np.float64)


def _held(values: Repeated) -> NDArray[np.bool_]:
    """Say which cases hold a score of any seed and class."""
    return np.asarray((~np.isnan(values)).any(axis=(0, 2)), dtype=np.bool_)


def _draw_means(values: Repeated) -> NDArray[np.float64]:
    """Return the mean over seeds for each draw of cases; a seed that a draw leaves without score is left out of it."""
    draws = draw_cases(values.shape[1])
    means = np.stack([means_of_draws(draws, of_seed) for of_seed in values])
    known = ~np.isnan(means)
    nothing = np.full(means.shape[1], math.nan)
    return np.divide(np.where(known, means, 0.0).sum(axis=0), known.sum(axis=0), out=nothing, where=known.any(axis=0))


def _known(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    return numbers[~np.isnan(numbers)]
