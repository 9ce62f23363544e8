import pytest
from hypothesis import given
from hypothesis import strategies as st

from masam.errors import ConfigError
from masam.windows import SliceWindow, plan_windows, stream_windows

COVERS = st.tuples(st.integers(1, 60), st.integers(1, 11)).flatmap(
    lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(1, pair[1]))
)


@given(COVERS)
def test_each_slice_gets_a_vote(cover):
    depth, size, stride = cover
    windows = plan_windows(depth, size, stride)
    voted = {window.start + position for window in windows for position in window.votes}
    assert voted == set(range(depth))


@given(COVERS)
def test_window_starts_increase_and_stay_in_the_volume(cover):
    depth, size, stride = cover
    windows = plan_windows(depth, size, stride)
    starts = [window.start for window in windows]
    assert starts == sorted(set(starts))
    for window in windows:
        assert len(window.slices) == size
        assert all(0 <= index < depth for index in window.slices)
        assert [window.slices[p] for p in window.votes] == [window.start + p for p in window.votes]


@given(st.integers(5, 60))
def test_the_papers_windows_vote_three_four_and_five_times(depth):
    votes = [0] * depth
    for window in plan_windows(depth, size=5, stride=1):
        for position in window.votes:
            votes[window.start + position] += 1
    assert votes[:2] == votes[:-3:-1] == [3, 4]
    assert set(votes[2:-2]) <= {5}


@given(COVERS)
def test_a_stream_has_the_windows_of_the_whole_volume(cover):
    depth, size, stride = cover
    listed = plan_windows(depth, size, stride)
    streamed = list(stream_windows(iter(range(100, 100 + depth)), size, stride))
    assert [(one.start, one.size, one.slices, one.votes) for one, _ in streamed] == [
        (one.start, one.size, one.slices, one.votes) for one in listed
    ]
    assert [slices for _, slices in streamed] == [tuple(100 + i for i in one.slices) for one in listed]
    assert {one.depth for one, _ in streamed} <= {None, depth}


@given(COVERS)
def test_a_window_of_a_stream_is_yielded_with_its_last_slice(cover):
    depth, size, stride = cover
    read = []
    for window, _ in stream_windows((read.append(i) or i for i in range(depth)), size, stride):
        assert len(read) == min(window.start + size, depth)


@pytest.mark.parametrize(
    ("slices", "numbers", "message"),
    [
        ([], (5, 1), "expected a stream of 1 slice or more, got none"),
        ([1], (0, 1), "a window of 1 slice or more, got 0"),
        ([1], (5, 6), "slices would be skipped"),
    ],
)
def test_bad_streams_are_rejected(slices, numbers, message):
    with pytest.raises(ConfigError, match=message):
        list(stream_windows(slices, *numbers))


def test_end_slices_are_repeated():
    assert SliceWindow(-2, 5, 10).slices == (0, 0, 0, 1, 2)
    assert SliceWindow(7, 5, 10).slices == (7, 8, 9, 9, 9)
    assert SliceWindow(-2, 5, 1).slices == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((0, 5, 1), "1 slice or more, got 0 and 5"), ((9, 0, 1), "got 9 and 0"), ((9, 5, 6), "slices would be skipped")],
)
def test_bad_numbers_are_rejected(numbers, message):
    with pytest.raises(ConfigError, match=message):
        plan_windows(*numbers)


@given(COVERS, st.integers(1, 12))
def test_a_resized_window_keeps_its_centre(cover, size):
    depth, first, stride = cover
    for window in plan_windows(depth, first, stride):
        other = window.resized(size)
        assert (other.size, other.depth) == (size, depth)
        # The centre of an even window is the slice before its middle.
        assert other.start + (size - 1) // 2 == window.start + (first - 1) // 2
        assert other.resized(first) == window
        assert len(other.votes) >= 1
