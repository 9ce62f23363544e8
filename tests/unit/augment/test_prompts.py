import numpy as np
import pytest

from masam.augment import AugmentSettings, Variation, WindowPrompts, apply_variation, augment_window
from masam.augment.prompts import boxes_of
from masam.errors import InputError
from masam.reproducibility import sample_generator

SIDE = 48
MOVES = [
    Variation(flip="columns"),
    Variation(quarter_turns=1, flip="rows"),
    Variation(translate=(0.125, -0.125)),
    Variation(rotation_degrees=15.0),
    Variation(scale=1.25),
    Variation(shear=(0.3, 0.0)),
    Variation(elastic=0.02, seed=2),
    Variation(
        quarter_turns=3, rotation_degrees=-11.0, scale=0.85, shear=(0.0, 0.2), translate=(0.1, 0.05), elastic=0.01
    ),
]


def ellipses(slices=3):
    """Masks of class 2 that move from slice to slice; none on the last."""
    y, x = np.indices((SIDE, SIDE))
    masks = [((x - 20 - 2 * s) / 9) ** 2 + ((y - 26 + s) / 5) ** 2 < 1 for s in range(slices)]
    masks[-1] = np.zeros_like(masks[-1])
    return np.stack(masks) * 2


def prompts(labels, channel=None):
    boxes = boxes_of(labels == 2)
    points = np.repeat(np.array([[[20, 26], [2, 2], [0, 0]]], np.float32), len(labels), axis=0)
    kinds = np.repeat(np.array([[1, 0, -1]]), len(labels), axis=0)
    return WindowPrompts(boxes, points, kinds, channel)


def move(variation, channel=None):
    labels = ellipses()
    images = (labels[:, None] / 2).astype(np.float32)
    return apply_variation(images, labels, variation, prompts=prompts(labels, channel))


@pytest.mark.parametrize("variation", MOVES)
def test_boxes_of_a_class_stay_tight(variation):
    moved = move(variation, channel=2)
    np.testing.assert_array_equal(moved.prompts.boxes, boxes_of(moved.labels == 2))
    assert np.isnan(moved.prompts.boxes[-1]).all()
    assert moved.prompts.box_channel == 2


@pytest.mark.parametrize("variation", MOVES)
def test_the_hull_contains_the_transformed_mask_and_little_more(variation):
    moved = move(variation)
    tight, loose = boxes_of(moved.labels == 2)[:2], moved.prompts.boxes[:2]
    # Nearest pixels lie up to half a pixel beyond, times the scale.
    assert (loose[:, :2] <= tight[:, :2] + 1).all()
    assert (loose[:, 2:] >= tight[:, 2:] - 1).all()
    assert (np.abs(loose - tight) <= 9).all()
    assert np.isnan(moved.prompts.boxes[-1]).all()


@pytest.mark.parametrize("variation", MOVES[:3])
def test_exact_moves_move_boxes_exactly(variation):
    moved = move(variation)
    np.testing.assert_array_equal(moved.prompts.boxes, boxes_of(moved.labels == 2))


@pytest.mark.parametrize("variation", MOVES)
def test_points_stay_on_what_they_marked(variation):
    labels = ellipses(4)
    images = (labels[:, None] / 2).astype(np.float32)
    generator = np.random.default_rng(0)
    points = generator.uniform(4, SIDE - 5, (4, 30, 2)).astype(np.float32)
    pixels = np.rint(points).astype(int)
    kinds = (labels[np.arange(4)[:, None], pixels[..., 1], pixels[..., 0]] == 2).astype(np.int64)
    boxes = np.full((4, 4), np.nan, np.float32)
    moved = apply_variation(images, labels, variation, prompts=WindowPrompts(boxes, points, kinds))
    kept = moved.prompts.point_labels >= 0
    assert kept.mean() > 0.6
    there = np.rint(moved.prompts.points).astype(int)
    found = moved.labels[np.arange(4)[:, None], there[..., 1].clip(0, SIDE - 1), there[..., 0].clip(0, SIDE - 1)] == 2
    # A point beside an outline may change sides by a pixel.
    assert (found == moved.prompts.point_labels)[kept].mean() > 0.95
    assert np.isnan(moved.prompts.boxes).all()


def test_points_outside_become_padding():
    moved = move(Variation(translate=(-0.25, 0.0)))  # by 12 pixels to the left
    assert moved.prompts.point_labels.tolist() == [[1, -1, -1]] * 3
    np.testing.assert_array_equal(moved.prompts.points[0], [[8, 26], [0, 0], [0, 0]])


def test_boxes_are_clipped_to_the_image_and_removed_outside():
    y = np.full((1, SIDE, SIDE), 0)
    boxes = np.array([[2, 5, 20, 9]], np.float32)
    given = WindowPrompts(boxes, np.zeros((1, 0, 2), np.float32), np.zeros((1, 0), np.int64))
    images = np.zeros((1, 1, SIDE, SIDE), np.float32)
    cut = apply_variation(images, y, Variation(translate=(-0.25, 0.0)), prompts=given)
    np.testing.assert_array_equal(cut.prompts.boxes, [[0, 5, 8, 9]])
    gone = apply_variation(images, y, Variation(translate=(-0.5, 0.0)), prompts=given)
    assert np.isnan(gone.prompts.boxes).all()


def test_an_erased_object_has_no_box():
    labels = np.zeros((1, SIDE, SIDE), np.int64)
    labels[:, 20:24, 20:24] = 1
    given = WindowPrompts(boxes_of(labels == 1), np.zeros((1, 1, 2), np.float32), np.ones((1, 1), np.int64), 1)
    settings = AugmentSettings(preset="none", erase_probability=1, erase_area=(1.0, 1.0), erase_aspect=(1.0, 1.0))
    done = augment_window(np.ones((1, 1, SIDE, SIDE), np.float32), labels, sample_generator(0, 0), settings, given)
    assert np.isnan(done.prompts.boxes).all()


def test_a_slice_without_a_box_gets_none():
    labels = ellipses()
    given = prompts(labels, channel=2)
    given.boxes[0] = np.nan
    moved = apply_variation((labels[:, None] / 2).astype(np.float32), labels, Variation(flip="rows"), prompts=given)
    assert np.isnan(moved.prompts.boxes).any(axis=1).tolist() == [True, False, True]


def test_the_identity_leaves_prompts_unchanged():
    moved = move(Variation(gamma=2.0))
    expected = prompts(ellipses())
    np.testing.assert_array_equal(moved.prompts.boxes, expected.boxes)
    np.testing.assert_array_equal(moved.prompts.points, expected.points)
    np.testing.assert_array_equal(moved.prompts.point_labels, expected.point_labels)


def test_shapes_that_do_not_fit_are_rejected():
    boxes, points, kinds = np.zeros((2, 4), np.float32), np.zeros((2, 3, 2), np.float32), np.zeros((2, 3), np.int64)
    WindowPrompts(boxes, points, kinds)
    for wrong in ((boxes[:, :3], points, kinds), (boxes, points[:, :2], kinds), (boxes[:1], points, kinds)):
        with pytest.raises(InputError, match=r"^prompts: expected boxes \[S, 4\], points \[S, P, 2\] and point labels"):
            WindowPrompts(*wrong)
    with pytest.raises(InputError, match=r"^prompts: expected prompts for 3 slices, got 2$"):
        apply_variation(
            np.zeros((3, 1, 8, 8), np.float32), np.zeros((3, 8, 8), np.int64), Variation(),
            prompts=WindowPrompts(boxes, points, kinds),
        )  # fmt: skip
