"""Overlap counts and the rule for empty masks."""

import math

import numpy as np
import pytest

from masam.errors import InputError
from masam.evaluation.overlap import Overlap, count_overlap, volume_ml

A = np.array([1, 1, 1, 0, 0, 0], dtype=bool)
B = np.array([0, 1, 1, 1, 1, 0], dtype=bool)


def test_counts_dice_and_iou_by_hand():
    overlap = count_overlap(A, B)
    assert overlap == Overlap(reference=3, prediction=4, intersection=2)
    assert overlap.dice() == pytest.approx(4 / 7)
    assert overlap.iou() == pytest.approx(2 / 5)


def test_ignored_voxels_do_not_count():
    ignore = np.array([0, 0, 0, 1, 1, 1], dtype=bool)
    assert count_overlap(A, B, ignore) == Overlap(3, 2, 2)


def test_inputs_are_not_changed():
    reference, prediction = A.copy(), B.copy()
    count_overlap(reference, prediction, np.ones(6, dtype=bool))
    np.testing.assert_array_equal(reference, A)
    np.testing.assert_array_equal(prediction, B)


@pytest.mark.parametrize(
    ("counts", "nan_rule", "one_rule"),
    [
        (Overlap(0, 0, 0), math.nan, 1.0),
        (Overlap(0, 5, 0), 0.0, 0.0),
        (Overlap(5, 0, 0), 0.0, 0.0),
        (Overlap(5, 5, 0), 0.0, 0.0),
        (Overlap(5, 5, 5), 1.0, 1.0),
    ],
)
def test_empty_rules(counts, nan_rule, one_rule):
    for score in (counts.dice, counts.iou):
        assert score("nan") == pytest.approx(nan_rule, nan_ok=True)
        assert score("one") == one_rule


def test_volume_in_millilitres():
    assert volume_ml(1000, (1.0, 1.0, 1.0)) == 1.0
    assert volume_ml(8, (0.5, 0.5, 5.0)) == pytest.approx(0.01)


def test_other_shape_is_refused():
    with pytest.raises(InputError, match=r"expected the prediction in the reference's shape \(6,\), got \(5,\)"):
        count_overlap(A, B[:5])
    with pytest.raises(InputError, match="expected the ignore mask in the reference's shape"):
        count_overlap(A, B, A[:2])
