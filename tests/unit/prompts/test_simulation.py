import numpy as np
import pytest

from masam.prompts.projection import MASK_LOGIT
from masam.prompts.simulation import MOST_POINTS, draw_box, draw_clicks, draw_mask, draw_prompts, no_prompts


def labels():
    """A ball of class 1 that grows, a bar of class 3 on one slice, and a column without labels."""
    i, j = np.indices((32, 32))
    stack = np.stack([((i - 12) ** 2 + (j - 20) ** 2 < radius**2) for radius in (0, 3, 5)]).astype(np.int16)
    stack[0, 25:27, 4:20] = 3
    stack[:, :, 0] = -100
    return stack


def generator(seed=0):
    return np.random.default_rng(seed)


def test_a_tight_box_is_the_objects_rectangle_on_its_slices():
    prompts = draw_box(labels() == 1, "tight", generator())
    assert np.isnan(prompts.boxes[0]).all()
    assert prompts.boxes[1:].tolist() == [[16, 8, 24, 16]] * 2
    assert (prompts.point_labels == -1).all()


def test_a_relaxed_box_is_larger_on_each_side_by_one_fraction():
    boxes = np.array([draw_box(labels() == 1, "relaxed", generator(seed)).boxes[1] for seed in range(50)])
    grown = (boxes - [16, 8, 24, 16]) * [-1, -1, 1, 1] / 9
    np.testing.assert_allclose(grown, grown[:, :1].repeat(4, axis=1), atol=1e-6)
    assert 0 <= grown.min() < 0.02
    assert 0.18 < grown.max() <= 0.2 + 1e-6


def test_a_relaxed_box_may_include_an_extra_slice():
    bar = np.zeros((7, 8, 8), bool)
    bar[[2, 4], 3:5, 3:5] = True
    spans = set()
    for seed in range(40):
        boxed = np.flatnonzero(~np.isnan(draw_box(bar, "relaxed", generator(seed)).boxes).any(axis=1))
        assert np.array_equal(boxed, np.arange(boxed[0], boxed[-1] + 1)), "a box has no gap"
        spans.add((int(boxed[0]), int(boxed[-1])))
    assert spans == {(1, 4), (1, 5), (2, 4), (2, 5)}
    for kind in ("tight", "jittered"):
        boxed = ~np.isnan(draw_box(bar, kind, generator()).boxes).any(axis=1)
        assert np.flatnonzero(boxed).tolist() == [2, 3, 4]


def test_a_jittered_box_moves_sides_independently_and_stays_valid():
    boxes = np.array([draw_box(labels() == 1, "jittered", generator(seed)).boxes[1] for seed in range(300)])
    moved = (boxes - [16, 8, 24, 16]) / 9
    np.testing.assert_allclose(moved.std(axis=0), 0.1, atol=0.02)
    thin = np.zeros((1, 8, 8), bool)
    thin[0, 7, 7] = True
    for seed in range(50):
        x0, y0, x1, y1 = draw_box(thin, "jittered", generator(seed)).boxes[0]
        assert 0 <= x0 <= x1 <= 7
        assert 0 <= y0 <= y1 <= 7


def test_clicks_agree_with_the_labels():
    classes = labels()
    counts = set()
    for seed in range(60):
        prompts = draw_clicks(classes == 1, classes >= 0, generator(seed))
        (index,) = np.flatnonzero((prompts.point_labels >= 0).any(axis=1))
        kinds = prompts.point_labels[index]
        count = int((kinds >= 0).sum())
        counts.add(count)
        assert kinds[0] == 1
        assert (kinds[count:] == -1).all(), "a slice's own come first"
        for (x, y), kind in zip(prompts.points[index, :count].astype(int), kinds[:count], strict=True):
            assert classes[index, y, x] != -100
            assert (classes[index, y, x] == 1) == (kind == 1)
    assert counts == set(range(1, MOST_POINTS + 1))


def test_a_window_without_a_class_or_by_chance_gets_no_prompt():
    none = no_prompts(3, 32, 32)
    for prompts in (draw_prompts(labels(), 0.0, generator()), draw_prompts(labels().clip(max=0), 1.0, generator())):
        assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(prompts, none, strict=True))


def test_a_mask_is_the_object_on_one_slice_up_to_a_pixel():
    i, j = np.indices((128, 128))
    ball = np.stack([(i - 46) ** 2 + (j - 80) ** 2 < radius**2 for radius in (0, 22, 31)])
    areas, slices = set(), set()
    for seed in range(40):
        prompts = draw_mask(ball, generator(seed))
        (index,) = np.flatnonzero(~np.isnan(prompts.masks).any(axis=(1, 2, 3)))
        drawn = prompts.masks[index, 0]
        assert set(np.unique(drawn)) == {-MASK_LOGIT, MASK_LOGIT}
        assert np.isnan(np.delete(prompts.masks, index, axis=0)).all()
        # A pixel of the mask is 4 x 4 of the image.
        y, x = (float(np.mean(axis)) * 4 + 1.5 for axis in np.nonzero(drawn > 0))
        assert abs(y - 46) <= 1
        assert abs(x - 80) <= 1
        slices.add(int(index))
        areas.add((int(index), int((drawn > 0).sum())))
    assert slices == {1, 2}
    assert len(areas) == 6, "three sizes of each"


def test_a_mask_of_a_pixel_is_not_lost():
    dot = np.zeros((2, 16, 16), bool)
    dot[1, 6, 9] = True
    for seed in range(6):
        masks = draw_mask(dot, generator(seed)).masks
        assert masks[1, 0, 1, 2] == MASK_LOGIT


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_the_share_of_windows_and_all_kinds_and_classes(rate):
    drawn = [draw_prompts(labels(), rate, generator(seed)) for seed in range(400)]
    boxed = np.array([~np.isnan(prompts.boxes).any(axis=1) for prompts in drawn])
    clicked = np.array([(prompts.point_labels >= 0).any(axis=1) for prompts in drawn])
    drawn_on = np.array([(~np.isnan(prompts.masks)).any(axis=(1, 2, 3)) for prompts in drawn])
    kinds = np.stack([kind.any(axis=1) for kind in (boxed, clicked, drawn_on)])
    assert kinds.sum(axis=0).max() == 1
    assert kinds.any(axis=0).mean() == pytest.approx(rate, abs=0.08)
    np.testing.assert_allclose(kinds.mean(axis=1), np.array([0.6, 0.2, 0.2]) * rate, atol=0.08)
    # Class 3 is on the first slice alone, class 1 on the others; half of the relaxed boxes reach a slice further.
    assert boxed[:, 0].mean() == pytest.approx((0.3 + 0.05) * rate, abs=0.08)
    assert boxed[:, 2].mean() == pytest.approx(0.3 * rate, abs=0.08)
