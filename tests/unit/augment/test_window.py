import numpy as np
import pytest

from masam.augment import (
    AugmentSettings,
    Variation,
    apply_variation,
    augment,
    augment_window,
    draw_variation,
)
from masam.augment.variation import Erase
from masam.errors import InputError
from masam.reproducibility import sample_generator

MOVING = AugmentSettings(
    preset="none", geometry_probability=1, rotation_probability=1, scale_probability=1, translate_probability=1
)


def window(slices=3, side=40, seed=0, channels=1):
    """Blocks of classes 0, 1 and 2, each with its own intensity."""
    labels = np.random.default_rng(seed).integers(0, 3, (slices, side // 10, side // 10))
    labels = labels.repeat(10, axis=1).repeat(10, axis=2)
    images = (labels / 2).astype(np.float32)[:, None].repeat(channels, axis=1)
    return images, labels


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("seed", range(10))
def test_the_same_generator_state_gives_the_same_sample(seed, preset):
    settings = AugmentSettings(preset=preset)
    one = augment(*window(), sample_generator(1, seed), settings)
    two = augment(*window(), sample_generator(1, seed), settings)
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])


def test_other_states_give_other_samples():
    results = {augment(*window(), sample_generator(1, index))[0].tobytes() for index in range(30)}
    # Each step is omitted at times; all of them in 1 of 38.
    assert len(results) >= 25


@pytest.mark.parametrize("seed", range(30))
def test_labels_follow_the_image(seed):
    images, labels = window(seed=seed)
    moved, moved_labels = augment(images, labels, sample_generator(2, seed), MOVING)
    inside = moved_labels != -100
    values = moved[:, 0][inside] * 2
    # Where all four neighbours are of one class, the interpolated value is that class's.
    pure = np.abs(values - np.rint(values)) < 1e-5
    assert pure.mean() > 0.5
    # Between classes 0 and 2 the value passes 1 on the way; nowhere else may they differ.
    wrong = (np.rint(values[pure]) != moved_labels[inside][pure]).mean()
    assert wrong < 0.002
    assert np.abs(values - moved_labels[inside]).max() <= 2
    assert not np.array_equal(moved_labels, labels)


@pytest.mark.parametrize("seed", range(10))
def test_pixels_from_outside_are_ignored(seed):
    images = np.ones((2, 1, 40, 40), np.float32)
    labels = np.full((2, 40, 40), 5)
    moved, moved_labels = augment(images, labels, sample_generator(3, seed), MOVING)
    assert set(np.unique(moved_labels)) <= {-100, 5}
    # Beyond half a pixel outside, the image has faded by half.
    assert (moved[:, 0][moved_labels == -100] <= 0.5 + 1e-5).all()
    assert (moved[:, 0][moved_labels == 5] >= 0.25 - 1e-5).all()  # a corner pixel is half in along both axes
    assert np.array_equal(moved_labels[0], moved_labels[1])


def test_the_papers_outside_and_box_are_background():
    images, labels = np.ones((2, 1, 40, 40), np.float32), np.full((2, 40, 40), 5)
    variation = Variation(scale=0.8, erase=Erase(0.05, 1.0, (0.5, 0.5)))
    paper = apply_variation(images, labels, variation, AugmentSettings(preset="paper"))
    assert set(np.unique(paper.labels)) == {0, 5}
    ours = apply_variation(images, labels, variation)
    assert np.array_equal(ours.labels == -100, paper.labels == 0)
    assert (ours.labels[:, 18:22, 18:22] == -100).all()  # the box
    assert (ours.labels[:, 0, 0] == -100).all()  # outside


def test_unlabelled_pixels_stay_unlabelled():
    images, labels = window()
    _, moved = augment(images, np.full_like(labels, -100), sample_generator(0, 3), MOVING)
    assert (moved == -100).all()


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_colour_channels_are_varied_like_grey(preset):
    """Each channel of a colour window is varied like a window of that channel alone."""
    settings = AugmentSettings(preset=preset, noise_probability=0, contrast_grey=0.5)
    images = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    labels = np.zeros((2, 32, 32), np.int64)
    for index in range(15):
        together, _ = augment(images, labels, sample_generator(0, index), settings)
        for channel in range(3):
            alone, _ = augment(images[:, channel : channel + 1], labels, sample_generator(0, index), settings)
            np.testing.assert_allclose(together[:, channel], alone[:, 0], atol=1e-6)


def test_the_default_does_not_flip():
    """The left stays left: the mean column of a half-filled image stays on its side in every sample."""
    images = np.zeros((1, 1, 32, 32), np.float32)
    images[..., :12] = 1
    labels = images[:, 0].astype(np.int64)
    for seed in range(20):
        _, moved = augment(images, labels, sample_generator(0, seed))
        assert (moved[0] == 1).sum(axis=0).argmax() < 16


def test_a_neutral_variation_returns_the_input_itself():
    images, labels = window()
    found = augment(images, labels, sample_generator(0, 0), AugmentSettings(preset="none"))
    assert found[0] is images
    assert found[1] is labels


def test_the_returned_variation_reproduces_the_result():
    images, labels = window()
    settings = AugmentSettings(preset="paper", noise_probability=1)
    done = augment_window(images, labels, sample_generator(4, 2), settings)
    assert done.variation == draw_variation(settings, sample_generator(4, 2))
    assert done.prompts is None
    again = apply_variation(images, labels, done.variation, settings)
    assert np.array_equal(again.images, done.images)
    assert np.array_equal(again.labels, done.labels)


@pytest.mark.parametrize(
    ("images", "labels"), [((3, 8, 8), (3, 8, 8)), ((3, 1, 8, 8), (2, 8, 8)), ((3, 1, 8, 8), (3, 8, 9))]
)
def test_shapes_that_do_not_fit_are_rejected(images, labels):
    with pytest.raises(InputError, match=r"^window: expected images \[S, C, H, W\] and labels \[S, H, W\], got \("):
        augment(np.zeros(images, np.float32), np.zeros(labels, np.int64), sample_generator(0, 0))
