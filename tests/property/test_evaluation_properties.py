"""What must hold for any pair of masks."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from clips import write_label_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from masam.evaluation import METRICS, count_overlap, evaluate, surface_scores
from masam.labels import LabelScheme
from masam.volume import Volume

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)
SPACINGS = st.tuples(*[st.floats(0.25, 5.0)] * 3)


@st.composite
def mask_pairs(draw):
    shape = draw(SHAPES)
    masks = [draw(hnp.arrays(bool, shape)) for _ in range(2)]
    for mask in masks:
        mask[tuple(draw(st.integers(0, n - 1)) for n in shape)] = True
    return masks


def values(scores) -> list[float]:
    return [scores.hd95_mm, scores.hd95_pooled_mm, scores.assd_mm, scores.nsd]


@given(st.tuples(SHAPES).flatmap(lambda s: st.tuples(*[hnp.arrays(bool, s[0])] * 3)))
def test_dice_is_symmetric_bounded_and_tied_to_iou(masks):
    one, other, ignore = masks
    overlap, back = count_overlap(one, other, ignore), count_overlap(other, one, ignore)
    assert overlap.dice("one") == back.dice("one")
    dice, iou = overlap.dice("one"), overlap.iou("one")
    assert 0 <= iou <= dice <= 1
    assert iou == pytest.approx(dice / (2 - dice))


@settings(deadline=None)
@given(mask_pairs(), SPACINGS, st.floats(0, 6))
def test_surface_scores_are_symmetric_and_bounded(pair, spacing, tolerance):
    one, other = pair
    scores = surface_scores(one, other, spacing, tolerance)
    assert values(scores) == pytest.approx(values(surface_scores(other, one, spacing, tolerance)))
    diagonal = math.sqrt(sum(((n - 1) * s) ** 2 for n, s in zip(one.shape, spacing, strict=True)))
    assert all(0 <= value <= diagonal * (1 + 1e-9) for value in values(scores)[:3])
    assert 0 <= scores.nsd <= 1 + 1e-12


@settings(deadline=None)
@given(mask_pairs(), SPACINGS, st.floats(0.1, 6), st.floats(0.1, 10))
def test_distances_scale_with_spacing(pair, spacing, tolerance, factor):
    scores = surface_scores(*pair, spacing, tolerance)
    scaled = surface_scores(*pair, tuple(s * factor for s in spacing), tolerance * factor)
    assert values(scaled) == pytest.approx([v * factor for v in values(scores)[:3]] + [scores.nsd], rel=1e-6)


@settings(deadline=None)
@given(mask_pairs(), SPACINGS, st.floats(0.1, 6), st.permutations(range(3)), st.sets(st.integers(0, 2)))
def test_axis_order_and_flips_change_nothing(pair, spacing, tolerance, order, flips):
    turned = [np.flip(mask, tuple(flips)).transpose(order) for mask in pair]
    scores = surface_scores(*pair, spacing, tolerance)
    again = surface_scores(*turned, tuple(spacing[axis] for axis in order), tolerance)
    assert values(again) == pytest.approx(values(scores))


@settings(deadline=None)
@given(mask_pairs(), SPACINGS, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=3))
def test_position_in_the_image_changes_nothing(pair, spacing, padding):
    moved = [np.pad(mask, padding) for mask in pair]
    assert surface_scores(*moved, spacing) == surface_scores(*pair, spacing)


@settings(deadline=None)
@given(mask_pairs(), SPACINGS, st.floats(0, 3), st.floats(0, 3))
def test_surface_dice_grows_with_the_tolerance(pair, spacing, tolerance, more):
    assert surface_scores(*pair, spacing, tolerance).nsd <= surface_scores(*pair, spacing, tolerance + more).nsd


@settings(deadline=None, max_examples=50)
@given(
    SHAPES.flatmap(lambda s: st.tuples(*[hnp.arrays(np.uint8, s, elements=st.integers(0, 3))] * 2)),
    st.permutations([5, 17, 300]),
)
def test_relabelling_commutes_with_evaluation(arrays, new_values):
    table = np.array([0, *new_values], dtype=np.uint16)
    plain = evaluate(
        {"a": Volume(arrays[0])},
        {"a": Volume(arrays[1])},
        {"background": 0, "x": 1, "y": 2, "z": 3},
        reference_empty="one",
    )
    labels = {"background": 0, **dict(zip("xyz", new_values, strict=True))}
    other = evaluate({"a": Volume(table[arrays[0]])}, {"a": Volume(table[arrays[1]])}, labels, reference_empty="one")
    for expected in plain.scores:
        (found,) = (score for score in other.scores if score.label == expected.label)
        assert [getattr(found, m) for m in METRICS] == pytest.approx(
            [getattr(expected, m) for m in METRICS], nan_ok=True
        )


@st.composite
def videos(draw):
    """Label frames [T, H, W] of a reference, which also holds the ignore label 7, and of a prediction."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)))
    values = ((0, 1, 3, 7), (0, 1, 3))
    return [draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from(one))) for one in values]


@settings(max_examples=40, deadline=None)
@given(pair=videos(), reference_empty=st.sampled_from(["nan", "one"]))
def test_a_video_is_scored_as_the_volume_of_its_frames(pair, reference_empty):
    truth, guess = pair
    scheme = LabelScheme.from_mapping({"background": 0, "a": 1, "b": 3, "ignore": 7})
    with TemporaryDirectory() as folder:
        paths = [write_label_frames(Path(folder) / name, one) for name, one in (("t", truth), ("g", guess))]
        video = evaluate({"c": paths[1]}, {"c": paths[0]}, scheme, reference_empty=reference_empty)
    volume = evaluate({"c": Volume(guess)}, {"c": Volume(truth)}, scheme, reference_empty=reference_empty)
    for metric in ("dice", "iou"):
        np.testing.assert_array_equal(video.values(metric), volume.values(metric))
    # The mIoU per frame from the masks themselves.
    means = []
    for t, g in zip(truth, guess, strict=True):
        g = np.where(t == 7, 0, g)
        ious = [((t == v) & (g == v)).sum() / ((t == v) | (g == v)).sum() for v in (1, 3) if (t == v).any()]
        means += [np.mean(ious)] if ious else []
    (one,) = video.videos
    assert (one.frames, one.empty_frames) == (len(truth), len(truth) - len(means))
    np.testing.assert_allclose(one.miou_per_frame, np.mean(means) if means else np.nan)
