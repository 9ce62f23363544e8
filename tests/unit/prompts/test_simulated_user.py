from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masam.prompts.simulated_user import BOXES, correct, draw_boxes
from masam.prompts.simulation import JITTER

SHAPE = (40, 30, 12)


def generator(seed=0):
    return np.random.default_rng(seed)


def ball():
    """20 x 10 x 4 voxels."""
    mask = np.zeros(SHAPE, bool)
    mask[10:30, 5:15, 6:10] = True
    return mask


def corners(mask, seen=None, seed=0):
    seen = np.ones(mask.shape, bool) if seen is None else seen
    return {name: box.corners for name, box in draw_boxes(mask, seen, "liver", generator(seed)).items()}


def test_boxes_grow_by_fractions_of_each_side_along_three_axes():
    found = corners(ball())
    assert (
        tuple(found)
        == BOXES
        == ("tight box", "box relaxed by 5 %", "box relaxed by 10 %", "box relaxed by 20 %", "jittered box")
    )
    assert found["tight box"] == (10, 5, 6, 29, 14, 9)
    # 5 % of 20, 10 and 4 voxels are 1, 0.5 and 0.2: halves go outwards.
    assert found["box relaxed by 5 %"] == (9, 4, 6, 30, 15, 9)
    assert found["box relaxed by 10 %"] == (8, 4, 6, 31, 15, 9)
    assert found["box relaxed by 20 %"] == (6, 3, 5, 33, 16, 10)


def test_jitter_moves_each_side_independently_and_deterministically():
    moved = np.array([corners(ball(), seed=seed)["jittered box"] for seed in range(300)]) - (10, 5, 6, 29, 14, 9)
    # Rounding to whole voxels adds a twelfth to the variance; a side of four voxels seldom moves.
    np.testing.assert_allclose(moved[:, [0, 1, 3, 4]].std(axis=0), np.array([2, 1, 2, 1]) * JITTER * 10.3, rtol=0.15)
    assert np.abs(np.corrcoef(moved[:, [0, 1, 3, 4]].T) - np.eye(4)).max() < 0.2
    assert corners(ball(), seed=7) == corners(ball(), seed=7)


def test_boxes_exclude_what_is_cropped_away():
    seen = np.zeros(SHAPE, bool)
    seen[12:32, 4:12, 2:12] = True
    found = corners(ball(), seen)
    assert found["tight box"] == (12, 5, 6, 29, 11, 9)
    assert found["box relaxed by 20 %"] == (12, 4, 5, 31, 11, 10)
    assert corners(ball() & ~seen, seen) == {}


@given(arrays(bool, (4, 3, 5)).filter(np.any), st.integers(0, 99))
def test_boxes_are_integer_nested_and_inside_the_scan(mask, seed):
    found = {name: np.reshape(box, (2, 3)) for name, box in corners(mask, seed=seed).items()}
    for low, high in found.values():
        assert (low >= 0).all()
        assert (low <= high).all()
        assert (high < mask.shape).all()
        assert (low == low.round()).all()
    grown = [found[name] for name in BOXES[:4]]
    for (low, high), (low_next, high_next) in pairwise(grown):
        assert (low_next <= low).all()
        assert (high_next >= high).all()
    low, high = found["tight box"].astype(int)
    inside = np.zeros_like(mask)
    inside[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
    assert not (mask & ~inside).any()


def test_a_click_goes_to_the_middle_of_the_largest_error():
    reference, answer = ball(), np.zeros(SHAPE, bool)
    answer[10:30, 5:15, 6:9] = True  # one slice is missing
    answer[35:38, 20:25, 0:3] = True  # a smaller false positive
    click = correct(reference, answer, (1.0, 1.0, 3.0), "liver")
    assert click.positive
    assert click.position == (19, 9, 9)
    answer[10:30, 5:15, 9] = True
    click = correct(reference, answer, (1.0, 1.0, 3.0), "liver")
    assert click.record() == {"not_click": [36, 22, 1], "unit": "voxel", "class": "liver"}
    assert correct(reference, reference, (1.0, 1.0, 1.0), "liver") is None


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0)])
def test_clicks_that_change_nothing_do_not_repeat(spacing):
    reference, clicks = np.zeros((5, 4, 3), bool), []
    reference[1:4, 1:3, 1] = True
    while click := correct(reference, np.zeros_like(reference), spacing, "liver", clicks):
        clicks.append(click)
    assert len({click.position for click in clicks}) == len(clicks) == 6
    assert all(click.positive for click in clicks)
