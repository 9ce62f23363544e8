import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masam.prompts.correction import deepest, largest_error, largest_part

SHAPES = st.lists(st.integers(1, 6), min_size=2, max_size=3).map(tuple)
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape)))


def test_the_largest_part_is_one_part():
    region = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 1, 1]], bool)
    np.testing.assert_array_equal(largest_part(region), [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1]])
    empty = np.zeros((2, 3), bool)
    np.testing.assert_array_equal(largest_part(empty), empty)


@given(PAIRS)
def test_the_largest_error_is_an_error_of_one_kind(pair):
    reference, answer = pair
    part, is_missed = largest_error(reference, answer)
    if part is None:
        assert (reference == answer).all()
        return
    assert part.any()
    assert (reference[part] == is_missed).all()
    assert (answer[part] != is_missed).all()
    wrong = reference & ~answer if is_missed else answer & ~reference
    assert part.sum() == largest_part(wrong).sum()
    # With roles exchanged the region is a false positive; ties go to the false negative.
    other, is_missed_too = largest_error(answer, reference)
    assert other.sum() == part.sum()
    if is_missed_too != is_missed:
        np.testing.assert_array_equal(other, part)


def test_ties_go_to_the_false_negative_region():
    reference, answer = np.eye(2, dtype=bool)
    part, is_missed = largest_error(reference, answer)
    assert is_missed
    assert part.tolist() == [True, False]


@given(SHAPES.flatmap(lambda shape: arrays(bool, shape)).filter(np.any), st.data())
def test_no_voxel_is_deeper_than_the_deepest(region, data):
    spacing = data.draw(st.none() | st.tuples(*[st.sampled_from((0.5, 1.0, 4.0))] * region.ndim))
    outside = np.argwhere(~np.pad(region, 1)) - 1
    step = np.array(spacing or 1.0)
    depths = {
        tuple(place): np.sqrt((((outside - place) * step) ** 2).sum(axis=1)).min() for place in np.argwhere(region)
    }
    assert np.isclose(depths[deepest(region, spacing)], max(depths.values()))


def test_depth_is_measured_in_millimetres():
    # 9 x 3 voxels and 5 x 5: which is deeper depends on how thick they are.
    region = np.zeros((12, 20), bool)
    region[1:10, 2:5] = region[2:7, 10:15] = True
    assert deepest(region) == (4, 12)
    assert deepest(region, (1.0, 4.0))[1] == 3
    assert deepest(region, (1.0, 4.0))[0] == 5
