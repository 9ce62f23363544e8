"""Outlines of single shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masam.synthetic.pictures.outlines import OUTLINES, box_around, cover, draw_outline, positions


def generator(seed):
    return np.random.Generator(np.random.Philox(seed))


def field_of(kind, seed, reach, side=192):
    everywhere = slice(0, side)
    x, y = positions(everywhere, everywhere, (side / 2, side / 2))
    return x, y, draw_outline(generator(seed), kind, reach)(x, y)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(OUTLINES), seed=st.integers(0, 2**32), reach=st.floats(12, 60))
def test_a_shape_is_there_and_within_its_reach(kind, seed, reach):
    x, y, distance = field_of(kind, seed, reach)
    assert distance.dtype == np.float32
    assert np.isfinite(distance).all()
    inside = distance < 0
    assert inside.any()
    # A tube swings beside its axis, so its corner may be a little further away; all six waves of a blob may add up.
    limit = {"tube": 1.35, "blob": 0.65 + 0.3 * 12**0.5}.get(kind, 1.0)
    assert np.hypot(x, y)[inside].max() <= limit * reach + 1


@pytest.mark.parametrize("kind", OUTLINES)
def test_shapes_differ_and_repeat(kind):
    first, again, other = (field_of(kind, seed, 50.0)[2] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert ((first < 0) != (other < 0)).any()


def test_thin_shapes_are_thin():
    shares = {
        kind: np.median([(field_of(kind, seed, 60.0)[2] < 0).sum() / (np.pi * 60**2) for seed in range(15)])
        for kind in OUTLINES
    }
    assert shares["tube"] < 0.25 < shares["harmonics"]
    assert shares["arc"] < 0.35


@given(centre=st.tuples(st.floats(-80, 200), st.floats(-80, 200)), reach=st.floats(1, 60), side=st.integers(32, 128))
def test_the_box_contains_the_circle(centre, reach, side):
    rows, columns = box_around(centre, reach, side)
    y, x = np.mgrid[:side, :side]
    inside = np.hypot(x - centre[0], y - centre[1]) <= reach
    boxed = np.zeros_like(inside)
    boxed[rows, columns] = True
    assert not (inside & ~boxed).any()


def test_an_edge_is_a_pixel_wide():
    np.testing.assert_allclose(cover(np.array([-2, -0.5, -0.25, 0, 0.5, 2], np.float32)), [1, 1, 0.75, 0.5, 0, 0])
