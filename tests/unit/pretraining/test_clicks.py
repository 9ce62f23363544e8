"""Simulated users."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masam.pretraining.clicks import click_in, corrective_click, loose_box, tight_box

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))
SOME = MASKS.filter(np.any)


def generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


@given(SOME)
def test_a_tight_box_contains_the_mask_and_touches_it(mask):
    x0, y0, x1, y1 = tight_box(mask).astype(int)
    inside = mask[y0 : y1 + 1, x0 : x1 + 1]
    assert inside.sum() == mask.sum()
    assert all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


@given(SOME, st.integers(0, 1000))
def test_a_loose_box_is_inside_the_picture(mask, seed):
    x0, y0, x1, y1 = loose_box(mask, generator(seed))
    assert 0 <= x0 <= x1 <= mask.shape[1] - 1
    assert 0 <= y0 <= y1 <= mask.shape[0] - 1


def test_the_noise_of_a_loose_box_is_a_tenth_of_its_size_and_at_most_20_pixels():
    small, large = np.zeros((2, 1000, 1000), bool)
    small[400:500, 300:500] = large[200:800, 200:800] = True
    for mask, expected in ((small, [20, 10, 20, 10]), (large, [20, 20, 20, 20])):
        off = np.array([loose_box(mask, generator(seed)) - tight_box(mask) for seed in range(400)])
        np.testing.assert_allclose(off.std(axis=0), expected, rtol=0.15)
        np.testing.assert_allclose(off.mean(axis=0), 0, atol=3)


@given(SOME, st.none() | st.integers(0, 1000))
def test_a_click_is_in_its_region(mask, seed):
    click = click_in(mask, 1, None if seed is None else generator(seed))
    assert mask[int(click.y), int(click.x)]
    assert click.label == 1


def test_without_a_generator_the_click_is_in_the_middle_of_the_region():
    mask = np.zeros((9, 12), bool)
    mask[2:7, 1:6] = True
    mask[4, 6:] = True
    assert click_in(mask, 0) == (3.0, 4.0, 0)


@given(st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(lambda s: st.tuples(arrays(bool, s), arrays(bool, s))))
def test_a_corrective_click_is_on_an_error(pair):
    mask, answer = pair
    if not mask.any():
        return
    click = corrective_click(mask, answer, generator())
    y, x = int(click.y), int(click.x)
    assert mask[y, x] == bool(click.label)
    assert (mask[y, x] != answer[y, x]) == (mask != answer).any()


def test_a_corrective_click_is_on_the_largest_error():
    mask, answer = np.zeros((2, 12, 12), bool)
    mask[0:3, 0:3] = mask[5, 5] = True  # missed: 9 and 1 pixels
    answer[8:12, 8:11] = True  # too much: 12 pixels
    assert corrective_click(mask, answer).label == 0
    answer[9:] = False  # 3 are left
    click = corrective_click(mask, answer)
    assert click == (1.0, 1.0, 1)
