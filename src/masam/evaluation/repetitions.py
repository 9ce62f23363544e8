"""Scores of a training configuration that was repeated with several seeds.

Such a mean varies with the cases that were scored and with the random seed of the training. Both are reported
separately. Bootstrap intervals resample cases, each with its scores of every seed, because repetitions on the same
cases are not independent observations. The variation between seeds is reported as a standard deviation; with a few
seeds, an interval would not be reliable.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from masam.evaluation.statistics import draw_cases, mean_of_means, means_of_draws, percentile_interval

Repeated = NDArray[np.float64]
"""[seeds, cases, classes] scores, NaN if undefined, with the same cases and classes for each seed."""


def mean_over_seeds(values: Repeated) -> float:
    """Return the mean over seeds of the mean over classes of the mean over cases; NaN without any score."""
    means = _without_nan(seed_means(values))
    return float(means.mean()) if len(means) else math.nan


def spread_over_seeds(values: Repeated) -> float:
    """Return the sample standard deviation (n - 1) over seeds of their means; NaN with fewer than two seeds."""
    means = _without_nan(seed_means(values))
    return float(means.std(ddof=1)) if len(means) > 1 else math.nan


def interval_over_cases(values: Repeated) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of ``mean_over_seeds`` over cases.

    Returns:
        Both ends; NaN with fewer than two cases that have a score.
    """
    scored = _scored_cases(values)
    if scored.sum() < 2:
        return math.nan, math.nan
    return percentile_interval(_draw_means(values[:, scored]))


def paired_difference(values: Repeated, baseline: Repeated) -> tuple[float, float, float]:
    """Compare two training configurations on the same cases.

    The same cases are resampled for both, so that the difficulty of a case does not widen the interval.

    Returns:
        Difference of the means, and both ends of its 95 % interval over cases; NaN if undefined.
    """
    difference = mean_over_seeds(values) - mean_over_seeds(baseline)
    scored = _scored_cases(values) | _scored_cases(baseline)
    if scored.sum() < 2:
        return difference, math.nan, math.nan
    return difference, *percentile_interval(_draw_means(values[:, scored]) - _draw_means(baseline[:, scored]))


def seed_means(values: Repeated) -> NDArray[np.float64]:
    """Return the mean over classes of the mean over cases for each seed; NaN for a seed without any score."""
    return np.array([mean_of_means(scores, axis=0) for scores in values], dtype=np.float64)


def _scored_cases(values: Repeated) -> NDArray[np.bool_]:
    """Return a mask of the cases that have a score for any seed and class."""
    return np.asarray((~np.isnan(values)).any(axis=(0, 2)), dtype=np.bool_)


def _draw_means(values: Repeated) -> NDArray[np.float64]:
    """Return the mean over seeds for each draw of cases, without seeds that have no score in it."""
    draws = draw_cases(values.shape[1])
    means = np.stack([means_of_draws(draws, scores) for scores in values])
    known = ~np.isnan(means)
    nan = np.full(means.shape[1], math.nan)
    return np.divide(np.where(known, means, 0.0).sum(axis=0), known.sum(axis=0), out=nan, where=known.any(axis=0))


def _without_nan(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    return numbers[~np.isnan(numbers)]
