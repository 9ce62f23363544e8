import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masam.aggregate import WindowAggregator
from masam.errors import ConfigError, ModelError
from masam.windows import SliceWindow, plan_windows, stream_windows

COVERS = st.tuples(st.integers(1, 25), st.integers(1, 9)).flatmap(
    lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(1, pair[1]))
)


def run(depth, size, stride, predict, channels=2, shape=(2, 3)):
    aggregator = WindowAggregator(depth, channels, shape, size)
    slices = []
    for window in plan_windows(depth, size, stride):
        slices += aggregator.add(window, predict(window))
    slices += aggregator.flush()
    assert [index for index, _ in slices] == list(range(depth))
    return torch.stack([mean for _, mean in slices])


@given(COVERS, st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
@settings(deadline=None)
def test_a_constant_volume_is_preserved_for_every_stride_and_type(cover, dtype):
    constant = torch.tensor([0.7, 0.3], dtype=dtype)[None, :, None, None]
    mean = run(*cover, lambda window: constant.expand(window.size, 2, 2, 3).clone())
    assert mean.dtype == torch.float32
    assert (mean - constant.float()).abs().max() <= 1e-6


@given(COVERS)
@settings(deadline=None)
def test_weights_sum_to_one_and_repeated_slices_have_none(cover):
    # A prediction of 1 counts its weight; at positions without a vote, 1000 would show.
    def predict(window):
        ones = torch.full((window.size, 2, 2, 3), 1000.0)
        ones[list(window.votes)] = 1
        return ones

    assert (run(*cover, predict) == 1).all()


@given(COVERS, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_result_equals_the_mean_over_the_volume(cover, seed):
    depth, size, stride = cover
    generator = np.random.default_rng(seed)
    windows = plan_windows(depth, size, stride)
    predictions = generator.random((len(windows), size, 2, 2, 3), dtype=np.float32)
    total, votes = np.zeros((depth, 2, 2, 3)), np.zeros(depth)
    for window, prediction in zip(windows, predictions, strict=True):
        for position in window.votes:
            total[window.start + position] += prediction[position]
            votes[window.start + position] += 1
    remaining = iter(predictions)
    mean = run(depth, size, stride, lambda _: torch.from_numpy(next(remaining)))
    assert np.abs(mean.numpy() - total / votes[:, None, None, None]).max() < 1e-6


@given(COVERS, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_a_stream_gives_the_same_means_at_the_same_moments(cover, seed):
    depth, size, stride = cover
    generator = torch.Generator().manual_seed(seed)
    known, unknown = WindowAggregator(depth, 2, (2, 3), size), WindowAggregator(None, 2, (2, 3), size)
    for listed, (streamed, _) in zip(
        plan_windows(depth, size, stride), stream_windows(range(depth), size, stride), strict=True
    ):
        votes = torch.rand(size, 2, 2, 3, generator=generator)
        require_same(known.add(listed, votes), unknown.add(streamed, votes))
    require_same(known.flush(), unknown.flush())


def require_same(one, other):
    assert [index for index, _ in one] == [index for index, _ in other]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))


def test_a_gap_in_a_stream_is_rejected():
    aggregator = WindowAggregator(None, 2, (4, 4), 3)
    aggregator.add(SliceWindow(0, 3, None), ONES)
    with pytest.raises(ConfigError, match="no window contains slice 3 of a stream; choose a stride"):
        aggregator.add(SliceWindow(4, 3, None), ONES)


def test_the_buffer_depends_on_the_window_and_not_on_the_depth():
    sizes = {WindowAggregator(depth, 13, (32, 32), 5).buffer_bytes for depth in (1, 10, 10_000)}
    assert sizes == {5 * 13 * 32 * 32 * 4}


@given(COVERS)
@settings(deadline=None)
def test_a_slice_is_returned_as_soon_as_it_is_complete(cover):
    depth, size, stride = cover
    aggregator = WindowAggregator(depth, 1, (1, 1), size)
    out = 0
    for window in plan_windows(depth, size, stride):
        out += len(aggregator.add(window, torch.ones(size, 1, 1, 1)))
        assert out == min(max(window.start + 1, 0), depth)


def test_finished_slices_are_not_changed_by_later_windows():
    aggregator = WindowAggregator(9, 1, (1, 1), 3)
    windows = plan_windows(9, 3)
    kept = [mean for window in windows[:4] for _, mean in aggregator.add(window, torch.ones(3, 1, 1, 1))]
    for window in windows[4:]:
        aggregator.add(window, torch.zeros(3, 1, 1, 1))
    assert all(mean == 1 for mean in kept)


ONES = torch.ones(3, 2, 4, 4)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([SliceWindow(0, 3, 9), SliceWindow(-1, 3, 9)], "expected windows in order, got start -1 after 0; add them"),
        ([SliceWindow(-1, 3, 9), SliceWindow(-1, 3, 9)], "got start -1 after -1"),
        ([SliceWindow(1, 3, 9)], "no window contains slice 0 of 9"),
        ([SliceWindow(0, 3, 9), SliceWindow(4, 3, 9)], "no window contains slice 3 of 9; choose a stride"),
        ([SliceWindow(0, 3, 8)], "3 slices over a depth of 9, got 3 slices over 8"),
        ([SliceWindow(0, 5, 9)], "got 5 slices over 9"),
        ([SliceWindow(12, 3, 9)], "from slice 12 on is outside"),
    ],
)
def test_windows_that_do_not_match_are_rejected(windows, message):
    aggregator = WindowAggregator(9, 2, (4, 4), 3)
    with pytest.raises(ConfigError, match=message):
        [aggregator.add(window, ONES) for window in windows]


def test_missing_last_window_and_window_after_the_end_are_rejected():
    aggregator = WindowAggregator(5, 2, (4, 4), 3)
    aggregator.add(SliceWindow(0, 3, 5), ONES)
    with pytest.raises(ConfigError, match="no window contains slice 3 of 5"):
        aggregator.flush()
    aggregator = WindowAggregator(3, 2, (4, 4), 3)
    aggregator.add(SliceWindow(0, 3, 3), ONES)
    aggregator.flush()
    with pytest.raises(ConfigError, match="after all slices were complete; use a new aggregator"):
        aggregator.add(SliceWindow(1, 3, 3), ONES)


def test_predictions_of_other_shapes_or_not_finite_are_rejected():
    with pytest.raises(ModelError, match=r"shape \(3, 2, 4, 4\), got \(3, 3, 4, 4\)"):
        WindowAggregator(9, 2, (4, 4), 3).add(SliceWindow(-1, 3, 9), torch.ones(3, 3, 4, 4))
    aggregator = WindowAggregator(9, 2, (4, 4), 3)
    with pytest.raises(ModelError, match="slice 0 is not finite; predict with precision float32"):
        aggregator.add(SliceWindow(0, 3, 9), ONES * float("nan"))
    with pytest.raises(ConfigError, match="got 0, 2, 4, 4 and 3"):
        WindowAggregator(0, 2, (4, 4), 3)


@given(COVERS, st.data())
@settings(deadline=None)
def test_a_range_of_slices_gets_the_same_means_as_in_the_full_volume(cover, data):
    depth, size, stride = cover
    start = data.draw(st.integers(0, depth - 1))
    within = range(start, data.draw(st.integers(start, depth - 1)) + 1)
    predictions = {w.start: torch.rand(size, 2, 2, 3) for w in plan_windows(depth, size, stride)}
    expected = run(depth, size, stride, lambda window: predictions[window.start])
    aggregator = WindowAggregator(depth, 2, (2, 3), size, within=within)
    slices = []
    for window in plan_windows(depth, size, stride):
        if any(window.start + position in within for position in window.votes):
            slices += aggregator.add(window, predictions[window.start])
    slices += aggregator.flush()
    assert [index for index, _ in slices] == list(within)
    assert torch.equal(torch.stack([mean for _, mean in slices]), expected[start : within.stop])


@pytest.mark.parametrize("within", [range(3, 3), range(-1, 2), range(2, 9)])
def test_slices_that_are_not_in_the_volume_are_rejected(within):
    with pytest.raises(ConfigError, match="expected slices within a volume of 8, got"):
        WindowAggregator(8, 2, (2, 3), 3, within=within)
