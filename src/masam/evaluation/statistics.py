"""Summary statistics over cases, and bootstrap intervals of means.

The mean of a training configuration that was repeated with several seeds varies with the cases that were scored and
with the random seed of the training. Both are reported separately. Bootstrap intervals resample cases, each with its
scores of every seed, because repetitions on the same cases are not independent observations. The variation between
seeds is reported as a standard deviation; with a few seeds, an interval would not be reliable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Number of bootstrap resamples. With another seed, the ends of a 95 % interval move by about 1 % of its width."""

SEED = 0


Repeated = NDArray[np.float64]
"""[seeds, cases, classes] scores, NaN if undefined, with the same cases and classes for each seed."""


@dataclass(frozen=True)
class Statistic:
    """Statistics of one metric over cases; NaN scores are only counted in ``nan``.

    Attributes:
        mean: Mean over the counted cases, NaN without any.
        std: Sample standard deviation (n - 1), NaN with fewer than two counted cases.
        median: Median over the counted cases.
        low: Lower end of the 95 % bootstrap interval of the mean, NaN with fewer than two counted cases.
        high: Upper end of the interval.
        counted: Number of cases with a score.
        nan: Number of cases without a score.
    """

    mean: float
    std: float
    median: float
    low: float
    high: float
    counted: int
    nan: int


def summarise(values: NDArray[np.float64]) -> Statistic:
    """Summarise the scores of one class; ``values`` has one score per case."""
    counted = values[~np.isnan(values)]
    if not len(counted):
        return Statistic(math.nan, math.nan, math.nan, math.nan, math.nan, 0, len(values))
    low, high = bootstrap_interval(counted[:, None])
    return Statistic(
        mean=float(counted.mean()),
        std=float(counted.std(ddof=1)) if len(counted) > 1 else math.nan,
        median=float(np.median(counted)),
        low=low,
        high=high,
        counted=len(counted),
        nan=len(values) - len(counted),
    )


def mean_of_means(values: NDArray[np.float64], axis: int) -> float:
    """Return the mean of the means along an axis, without NaN scores and without rows or columns of NaN only."""
    known = ~np.isnan(values)
    counts = known.sum(axis=axis)
    sums = np.where(known, values, 0.0).sum(axis=axis)
    return float((sums[counts > 0] / counts[counts > 0]).mean()) if counts.any() else math.nan


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean over classes of the mean over cases.

    Cases are resampled together with all their classes, because the classes of one patient are not independent. The
    seed is fixed: equal scores have equal intervals. A class without a score in a resample is excluded from it.

    Args:
        values: [cases, classes] scores, NaN if undefined.

    Returns:
        Both ends; NaN with fewer than two cases that have a score.
    """
    values = values[~np.isnan(values).all(axis=1)]
    if len(values) < 2:
        return math.nan, math.nan
    return percentile_interval(means_of_draws(draw_cases(len(values)), values))


def draw_cases(cases: int) -> NDArray[np.float64]:
    """Draw ``RESAMPLES`` samples of cases with replacement and a fixed seed; return [draws, cases] counts."""
    draws = np.random.default_rng(SEED).multinomial(cases, np.full(cases, 1 / cases), size=RESAMPLES)
    return draws.astype(np.float64)


def means_of_draws(draws: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over classes of the mean over cases, for each draw of cases from :func:`draw_cases`.

    Classes without a score in a draw, from [cases, classes] ``values``, are excluded; a draw without any is NaN.
    """
    known = ~np.isnan(values)
    counts = draws @ known.astype(np.float64)
    sums = draws @ np.where(known, values, 0.0)
    present = counts > 0
    class_means = np.divide(sums, counts, out=np.zeros_like(sums), where=present)
    nan = np.full(len(draws), math.nan)
    return np.divide(class_means.sum(axis=1), present.sum(axis=1), out=nan, where=present.any(axis=1))


def percentile_interval(means: NDArray[np.float64]) -> tuple[float, float]:
    """Return both ends of the 95 % interval of bootstrap means, without draws whose mean is NaN."""
    low, high = np.nanpercentile(means, (2.5, 97.5))
    return float(low), float(high)


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
