"""Summary statistics over cases, and bootstrap intervals of means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Number of bootstrap resamples. With another seed, the ends of a 95 % interval move by about 1 % of its width."""

SEED = 0


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
    """Return the mean over classes of the mean over cases, for each draw of cases.

    Args:
        draws: [draws, cases] counts from :func:`draw_cases`.
        values: [cases, classes] scores, NaN if undefined.

    Returns:
        [draws] means over the classes that have a score in the draw, NaN without any.
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
