import numpy as np
import pytest

from masam.augment import augment as augment_channels
from masam.reproducibility import sample_generator


def augment(images, labels, generator):
    """Of windows with one channel, [S, H, W]."""
    varied, moved = augment_channels(images[:, None], labels, generator)
    return varied[:, 0], moved


class Scripted(np.random.Generator):
    """A generator whose coin flips are given: which steps are taken, while their sizes stay random."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls, np.random.Philox(0))

    def __init__(self, seed, flips):
        super().__init__(np.random.Philox(seed))
        self.flips = iter(flips)

    def random(self, *args, **kwargs):
        return next(self.flips)


MOVE = (0, 1, 1, 1)
GAMMA, CONTRAST, NOISE = (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)


def window(slices=3, side=40, seed=0):
    """Blocks of classes 0, 1 and 2, each with its own intensity."""
    labels = np.random.default_rng(seed).integers(0, 3, (slices, side // 10, side // 10))
    labels = labels.repeat(10, axis=1).repeat(10, axis=2)
    return (labels / 2).astype(np.float32), labels


@pytest.mark.parametrize("seed", range(10))
def test_the_same_generator_state_gives_the_same_sample(seed):
    images, labels = window()
    one = augment(images, labels, sample_generator(1, seed))
    two = augment(images, labels, sample_generator(1, seed))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])


def test_other_states_give_other_samples():
    images, labels = window()
    results = {augment(images, labels, sample_generator(1, index))[0].tobytes() for index in range(30)}
    # Each step is left out at times; all four together in 1 of 19.
    assert len(results) >= 25


@pytest.mark.parametrize("seed", range(30))
def test_labels_follow_the_image(seed):
    images, labels = window(seed=seed)
    moved, moved_labels = augment(images, labels, Scripted(seed, MOVE))
    inside = moved_labels != -100
    values = moved[inside] * 2
    # Where all four neighbours are of one class, the interpolated value is that class's.
    pure = np.abs(values - np.rint(values)) < 1e-5
    assert pure.mean() > 0.5
    # Between classes 0 and 2 the value passes 1 on the way; nowhere else may they differ.
    wrong = (np.rint(values[pure]) != moved_labels[inside][pure]).mean()
    assert wrong < 0.002
    assert np.abs(values - moved_labels[inside]).max() <= 2
    assert not np.array_equal(moved_labels, labels)


@pytest.mark.parametrize("seed", range(10))
def test_what_comes_from_outside_has_no_label(seed):
    images = np.ones((2, 40, 40), np.float32)
    labels = np.full((2, 40, 40), 5)
    moved, moved_labels = augment(images, labels, Scripted(seed, MOVE))
    assert set(np.unique(moved_labels)) <= {-100, 5}
    # Beyond half a pixel outside, the image has faded by half.
    assert (moved[moved_labels == -100] <= 0.5 + 1e-5).all()
    assert (moved[moved_labels == 5] >= 0.25 - 1e-5).all()  # a corner pixel is half in along both axes
    assert np.array_equal(moved_labels[0], moved_labels[1])


def test_pixels_without_a_label_stay_without_one():
    images, labels = window()
    labels = np.full_like(labels, -100)
    _, moved = augment(images, labels, Scripted(3, MOVE))
    assert (moved == -100).all()


@pytest.mark.parametrize("seed", range(5))
def test_all_slices_of_a_window_move_alike(seed):
    images, labels = (np.repeat(x[:1], 4, axis=0) for x in window())
    moved, moved_labels = augment(images, labels, Scripted(seed, MOVE))
    assert all(np.array_equal(moved[0], one) for one in moved)
    assert all(np.array_equal(moved_labels[0], one) for one in moved_labels)


@pytest.mark.parametrize("flips", [GAMMA, CONTRAST, NOISE])
def test_brightness_leaves_labels_alone(flips):
    images, labels = window()
    varied, same = augment(images, labels, Scripted(2, flips))
    assert np.array_equal(same, labels)
    assert not np.array_equal(varied, images)
    if flips is not NOISE:  # brighter stays brighter
        order = np.argsort(images.ravel(), kind="stable")
        assert (np.diff(varied.ravel()[order]) >= 0).all()


@pytest.mark.parametrize("seed", range(20))
def test_images_stay_between_zero_and_one(seed):
    generator = np.random.default_rng(seed)
    images = generator.random((2, 16, 16), dtype=np.float32)
    varied, labels = augment(images, np.zeros((2, 16, 16), np.int64), sample_generator(0, seed))
    assert (varied.min() >= 0, varied.max() <= 1, np.isfinite(varied).all()) == (True, True, True)
    assert (varied.dtype, labels.dtype) == (np.float32, np.int64)
    assert varied.shape == labels.shape == (2, 16, 16)


def test_nothing_is_mirrored():
    """The left stays left: the mean column of a half-filled image stays on its side in every sample."""
    images = np.zeros((1, 32, 32), np.float32)
    images[:, :, :12] = 1
    labels = images.astype(np.int64)
    for seed in range(20):
        _, moved = augment(images, labels, sample_generator(0, seed))
        assert (moved[0] == 1).sum(axis=0).argmax() < 16


@pytest.mark.parametrize("seed", range(10))
def test_the_input_is_not_changed(seed):
    images, labels = window()
    kept = images.copy(), labels.copy()
    images.setflags(write=False)
    labels.setflags(write=False)
    with np.errstate(all="raise"):
        augment(images.copy(), labels.copy(), sample_generator(0, seed))
    assert np.array_equal(images, kept[0])
    assert np.array_equal(labels, kept[1])
