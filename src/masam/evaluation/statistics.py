"""Mean, spread and the uncertainty of a mean over cases."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Bootstrap resamples; the ends of a 95 % interval then move by about 1 % of its width with the seed."""

SEED = 0


@dataclass(frozen=True)
class Statistic:
    """What one metric does over the cases; a NaN score is counted in ``nan`` and enters nothing else.

    Attributes:
        mean: Mean over the counted cases, NaN without any.
        std: Sample standard deviation (n - 1), NaN with fewer than two counted cases.
        median: Median over the counted cases.
        low: Lower end of the 95 % bootstrap interval of the mean, NaN with fewer than two counted cases.
        high: Upper end.
        counted: Number of cases with a score.
        nan: Number of cases without one.
    """

    mean: float
    std: float
    median: float
    low: float
    high: float
    counted: int
    nan: int


def summarise(values: NDArray[np.float64]) -> Statistic:
    """Summarise the scores of one class, one value a case."""
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
    """Return the mean of the means along an axis; NaN scores, and lines that hold nothing else, are left out."""
    known = ~np.isnan(values)
    counts = known.sum(axis=axis)
    sums = np.where(known, values, 0.0).sum(axis=axis)
    return float((sums[counts > 0] / counts[counts > 0]).mean()) if counts.any() else math.nan


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean over classes of the mean over cases.

    Whole cases are drawn with replacement, so that classes of one patient stay together. The draws are seeded: the same
    scores give the same interval. A class that no drawn case holds is left out of that draw.

    Args:
        values: [cases, classes] scores, NaN where there is none.

    Returns:
        Both ends; NaN with fewer than two cases that hold a score, for which there is no spread to judge from.
    """
    values = values[~np.isnan(values).all(axis=1)]
    if len(values) < 2:
        return math.nan, math.nan
    return percentile_interval(means_of_draws(draw_cases(len(values)), values))


def draw_cases(cases: int) -> NDArray[np.float64]:
    """Draw cases with replacement, ``RESAMPLES`` times; the same number of cases is always drawn alike.

    Args:
        cases: Number of cases.

    Returns:
        [draws, cases], how often each draw holds each case.
    """
    draws = np.random.default_rng(SEED).multinomial(cases, np.full(cases, 1 / cases), size=RESAMPLES)
    return draws.astype(np.float64)


def means_of_draws(draws: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over classes of the mean over cases, for each draw of cases.

    A class that no drawn case holds is left out of that draw.

    Args:
        draws: [draws, cases] from ``draw_cases``.
        values: [cases, classes] scores, NaN where there is none.

    Returns:
        [draws] means, NaN for a draw without any score.
    """
    known = ~np.isnan(values)
    counts = draws @ known.astype(np.float64)
    sums = draws @ np.where(known, values, 0.0)
    present = counts > 0
    class_means = np.divide(sums, counts, out=np.zeros_like(sums), where=present)
    nothing = np.full(len(draws), math.nan)
    return np.divide(class_means.sum(axis=1), present.sum(axis=1), out=nothing, where=present.any(axis=1))


def percentile_interval(means: NDArray[np.float64]) -> tuple[float, float]:
    """Return both ends of the 95 % interval of bootstrap means; draws without a mean (NaN) are left out."""
    low, high = np.nanpercentile(means, (2.5, 97.5))
    return float(low), float(high)
