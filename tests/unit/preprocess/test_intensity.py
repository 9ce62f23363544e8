import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from masam.errors import ConfigError, InputError
from masam.model.sam import PIXEL_MEAN, PIXEL_STD
from masam.preprocess import intensity
from masam.preprocess.intensity import Percentiles, Rgb, Scaling, Window, minmax_per_window


def test_window_clips_to_its_range_whatever_the_volume():
    array = np.array([[[-1024, -200, 25, 250, 3071]]], np.int16)
    scaling = Window(low=-200, high=250).fit(array)
    assert scaling == Scaling(-200.0, 250.0)
    assert scaling.apply(array).tolist() == [[[0, 0, 0.5, 1, 1]]]


def test_percentiles_express_the_papers_rule_for_mr():
    array = np.random.default_rng(0).gamma(2, 100, (5, 40, 40)).astype(np.float32)
    scaling = Percentiles(low=0, high=99).fit(array)
    cap = np.quantile(array, 0.99)
    expected = (np.minimum(array, cap) - array.min()) / (cap - array.min())
    assert np.abs(scaling.apply(array) - expected).max() < 1e-6


def test_percentiles_of_a_large_volume_come_from_a_sample(monkeypatch):
    array = np.random.default_rng(0).normal(size=(4, 300, 300))
    exact = Percentiles().fit(array)
    monkeypatch.setattr(intensity, "_MAX_SAMPLE", array.size // 10)
    sampled = Percentiles().fit(array)
    assert sampled != exact
    assert (sampled.low, sampled.high) == pytest.approx((exact.low, exact.high), rel=0.05)
    extremes = Percentiles(low=0, high=100).fit(array)
    assert (extremes.low, extremes.high) == (array.min(), array.max())


@given(
    hnp.arrays(
        st.sampled_from([np.int16, np.uint8, np.int64, np.float16, np.float32, np.float64, np.bool_]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=4),
        elements=None,
    ),
    st.sampled_from(
        [Percentiles(), Percentiles(low=0, high=99), Percentiles(low=0, high=100), Window(low=-3, high=3e-5)]
    ),
)
def test_finite_voxels_give_numbers_from_0_to_1_and_others_are_refused(array, rule):
    if not np.isfinite(array).all():
        with pytest.raises(InputError, match="NaN or infinite"):
            rule.fit(array)
        return
    scaled = rule.fit(array).apply(array)
    assert scaled.dtype == np.float32
    assert scaled.shape == array.shape
    assert ((scaled >= 0) & (scaled <= 1)).all()


@pytest.mark.parametrize("value", [0, -1024, 3.5])
def test_a_constant_volume_becomes_0(value):
    array = np.full((2, 3, 4), value)
    assert not Percentiles().fit(array).apply(array).any()


def test_voxels_that_are_not_real_numbers_are_refused():
    with pytest.raises(InputError, match="expected real voxel values, got type complex64"):
        Percentiles().fit(np.zeros((1, 1, 1), np.complex64))
    with pytest.raises(InputError, match="convert the volume to greyscale"):
        Window(low=0, high=1).fit(np.zeros((1, 1, 1), [("R", "u1"), ("G", "u1")]))


@pytest.mark.parametrize("rule", [Window, Percentiles])
def test_low_must_be_below_high(rule):
    with pytest.raises(ConfigError, match=r"expected low below high, got 50.0 and 50.0"):
        rule.from_mapping({"low": 50, "high": 50}, where="plan")


def test_percentiles_lie_between_0_and_100():
    with pytest.raises(ConfigError, match="high: expected less than or equal to 100"):
        Percentiles.from_mapping({"high": 101}, where="plan")


def test_minmax_is_the_references_and_cancels_any_affine_map():
    window = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    scaled = minmax_per_window(window)
    assert scaled.min() == 0
    assert scaled.max() == pytest.approx(1, abs=1e-6)
    # paper.md, quirk 19: the reference's range and standardisation before the stretch leave no trace.
    reference = (window * 255 - 50.21997) / 68.47154
    reference = (reference - reference.min()) / (reference.max() - reference.min() + 1e-8)
    assert np.abs(scaled - reference).max() < 1e-6
    assert not minmax_per_window(np.full((5, 1, 8, 8), 0.3, np.float32)).any()
    # Each channel by itself.
    both = minmax_per_window(np.concatenate([window, 7 * window + 3], axis=1))
    assert np.abs(both - scaled).max() < 1e-6


def test_colours_become_0_to_1_or_what_sam_was_trained_on():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(Rgb().apply(pixels), pixels.astype(np.float32) / np.float32(255))
    expected = (pixels - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)
    assert np.abs(Rgb(normalisation="sam").apply(pixels) - expected).max() < 1e-5
    assert (intensity.SAM_MEAN, intensity.SAM_STD) == (PIXEL_MEAN, PIXEL_STD)


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_other_arrays_than_colour_frames_are_refused(frame):
    with pytest.raises(InputError, match=r"expected a frame \[H, W, 3\] of uint8, got"):
        Rgb().apply(frame)


def test_a_volume_has_no_colours():
    with pytest.raises(
        InputError, match=r"frames of a video, got a volume of shape \[2, 3, 4\]; use a plan for volumes"
    ):
        Rgb().fit(np.zeros((2, 3, 4)))


def test_minmax_of_a_window_of_frames_keeps_hues():
    window = np.random.default_rng(0).random((3, 3, 4, 4), dtype=np.float32) * 0.4 + 0.2
    scaled = minmax_per_window(window, jointly=True)
    assert np.ptp(scaled) == pytest.approx(1, abs=1e-6)
    low, high = window.min(), window.max()
    assert np.abs(scaled * (high - low) + low - window).max() < 1e-6
