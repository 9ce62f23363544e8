"""Statistics of repeated training: known values and invariants."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masam.evaluation.statistics import (
    bootstrap_interval,
    interval_over_cases,
    mean_over_seeds,
    paired_difference,
    seed_means,
    spread_over_seeds,
)

NAN = math.nan
# Two seeds, three cases, two classes.
SCORES = np.array(
    [
        [[0.9, 0.5], [0.7, 0.3], [0.8, NAN]],
        [[0.8, 0.7], [0.8, 0.5], [0.5, NAN]],
    ]
)
SOME = arrays(np.float64, (3, 4, 2), elements=st.floats(0, 1, width=32))


def test_means_by_hand():
    # Seed 1: classes 0.8 and 0.4; seed 2: 0.7 and 0.6.
    assert seed_means(SCORES) == pytest.approx([0.6, 0.65])
    assert mean_over_seeds(SCORES) == pytest.approx(0.625)
    assert spread_over_seeds(SCORES) == pytest.approx(0.05 / math.sqrt(2))


def test_too_few_scores_are_undefined():
    assert math.isnan(spread_over_seeds(SCORES[:1]))
    assert all(math.isnan(end) for end in interval_over_cases(SCORES[:, :1]))
    nothing = np.zeros((0, 0, 0))
    assert math.isnan(mean_over_seeds(nothing))
    assert all(math.isnan(end) for end in (*interval_over_cases(nothing), *paired_difference(nothing, nothing)))
    without = np.full_like(SCORES, NAN)
    assert math.isnan(mean_over_seeds(without))
    assert all(math.isnan(end) for end in interval_over_cases(without))


def test_seeds_are_not_counted_as_cases():
    """The same scores twice say no more about other cases than once."""
    values = np.random.default_rng(0).normal(0.8, 0.1, (1, 20, 3))
    once, twice = interval_over_cases(values), interval_over_cases(np.repeat(values, 5, axis=0))
    assert twice == pytest.approx(once)
    assert once == pytest.approx(bootstrap_interval(values[0]))


def test_seeds_are_averaged_within_a_case():
    """Noise of training that is the same size in each case shrinks with the seeds; that of the cases stays."""
    generator = np.random.default_rng(1)
    of_cases = generator.normal(0.7, 0.1, (1, 400, 1))
    values = of_cases + generator.normal(0, 0.2, (16, 400, 1))
    low, high = interval_over_cases(values)
    expected = math.sqrt(0.1**2 + 0.2**2 / 16) / 20
    assert high - low == pytest.approx(2 * 1.96 * expected, rel=0.1)


def test_a_difference_is_paired_by_case():
    """Cases differ much, the rows by 0.1 in each: the difference is certain although the means are not."""
    values = np.random.default_rng(2).uniform(0.1, 0.8, (3, 10, 2))
    low, high = interval_over_cases(values)
    assert high - low > 0.05
    assert paired_difference(values + 0.1, values) == pytest.approx((0.1, 0.1, 0.1))


def test_a_class_scored_by_one_configuration_only():
    other = SCORES.copy()
    other[0, 2, 1] = 0.4
    difference, low, high = paired_difference(other, SCORES)
    # Seed 1's second class: the mean of 0.5, 0.3 and 0.4 is that of 0.5 and 0.3.
    assert difference == pytest.approx(0)
    assert low <= 0 <= high


@settings(max_examples=25, deadline=None)
@given(SOME, SOME)
def test_invariants(ours, theirs):
    low, high = interval_over_cases(ours)
    assert ours.min() - 1e-9 <= low <= high <= ours.max() + 1e-9
    order = [2, 0, 1]
    assert mean_over_seeds(ours[order]) == pytest.approx(mean_over_seeds(ours))
    assert interval_over_cases(ours[order]) == pytest.approx((low, high))
    forth, back = paired_difference(ours, theirs), paired_difference(theirs, ours)
    assert forth == pytest.approx((-back[0], -back[2], -back[1]), abs=1e-9)
    assert paired_difference(ours, ours) == (0, 0, 0)
