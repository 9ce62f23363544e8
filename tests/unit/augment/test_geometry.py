import numpy as np
import pytest

from masam.augment import Variation
from masam.augment.geometry import Warp

SIZE = (24, 24)


def window(size=SIZE, seed=0, s=2, c=3):
    generator = np.random.default_rng(seed)
    return generator.random((s, c, *size), np.float32), generator.integers(0, 5, (s, *size))


def moved(variation, size=SIZE, **options):
    images, labels = window(size)
    return images, labels, *Warp.of(variation, size).move(images, labels, **options)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [None, "rows", "columns"])
def test_turns_and_flips_equal_numpys(turns, flip):
    images, labels, new_images, new_labels = moved(Variation(quarter_turns=turns, flip=flip))
    expected, expected_labels = np.rot90(images, turns, (2, 3)), np.rot90(labels, turns, (1, 2))
    if flip is not None:
        axis = ("rows", "columns").index(flip)
        expected, expected_labels = np.flip(expected, axis + 2), np.flip(expected_labels, axis + 1)
    assert np.array_equal(new_images, expected)
    assert np.array_equal(new_labels, expected_labels)
    assert not np.shares_memory(new_images, images)


@pytest.mark.parametrize("x", [-0.25, 0.0, 0.1])
@pytest.mark.parametrize("y", [-0.1, 0.25])
@pytest.mark.parametrize("turns", [0, 1])
def test_shifts_are_copies(x, y, turns):
    images, labels, new_images, new_labels = moved(Variation(quarter_turns=turns, flip="rows", translate=(x, y)))
    images, labels = (np.flip(np.rot90(a, turns, (-2, -1)), -2) for a in (images, labels))
    right, down = round(x * 24), round(y * 24)
    for row in range(24):
        for column in range(24):
            r, c = row - down, column - right
            if 0 <= r < 24 and 0 <= c < 24:
                assert np.array_equal(new_images[:, :, row, column], images[:, :, r, c])
                assert np.array_equal(new_labels[:, row, column], labels[:, r, c])
            else:
                assert not new_images[:, :, row, column].any()
                assert (new_labels[:, row, column] == -100).all()


def test_a_shift_beyond_the_image_leaves_nothing():
    _, _, images, labels = moved(Variation(translate=(1.0, 0.0)))
    assert not images.any()
    assert (labels == -100).all()


@pytest.mark.parametrize("turns", range(4))
def test_images_that_are_not_square_are_rotated_by_half_turns(turns):
    images, labels, new_images, new_labels = moved(Variation(quarter_turns=turns), size=(10, 16))
    assert np.array_equal(new_images, np.rot90(images, turns - turns % 2, (2, 3)))
    assert np.array_equal(new_labels, np.rot90(labels, turns - turns % 2, (1, 2)))


def test_exact_and_interpolated_transforms_agree():
    images, labels = window()
    exact = Warp.of(Variation(quarter_turns=3, flip="columns", translate=(0.125, -0.25)), SIZE)
    # A tiny rotation is interpolated, at the same positions.
    hair = Warp.of(Variation(quarter_turns=3, flip="columns", translate=(0.125, -0.25), rotation_degrees=1.0e-5), SIZE)
    assert exact.is_exact
    assert not hair.is_exact
    one, other = exact.move(images, labels), hair.move(images, labels)
    np.testing.assert_allclose(one[0], other[0], atol=1e-4)
    assert np.array_equal(one[1], other[1])


def coordinates(size):
    """Images whose channels are the coordinates of each pixel."""
    y, x = np.indices(size, dtype=np.float32)
    return np.stack([x / size[1], y / size[0]])[None]


@pytest.mark.parametrize(
    "variation",
    [
        Variation(rotation_degrees=12.0),
        Variation(scale=1.2),
        Variation(shear=(0.3, 0.0)),
        Variation(shear=(0.0, -0.2)),
        Variation(
            quarter_turns=2, flip="rows", rotation_degrees=-9.0, shear=(0.1, 0.2), scale=0.9, translate=(0.1, -0.1)
        ),
        Variation(elastic=0.02, seed=5),
        Variation(elastic=0.02, rotation_degrees=15.0, scale=1.25, seed=6),
    ],
)
@pytest.mark.parametrize("size", [(60, 60), (40, 72)])
def test_points_follow_their_pixels(variation, size):
    warp = Warp.of(variation, size)
    images, _ = warp.move(coordinates(size), np.zeros((1, *size), np.int64))
    points = np.random.default_rng(0).uniform(5, [size[1] - 6, size[0] - 6], (200, 2))
    found = warp.points(points)
    inside = ((found >= 1) & (found <= [size[1] - 2, size[0] - 2])).all(axis=1)
    assert inside.mean() > 0.5
    # The transformed image shows the old coordinates at the new position.
    x, y = found[inside].T
    left, top = x.astype(int), y.astype(int)
    for axis in (0, 1):
        image = images[0, axis]
        rows = [image[top + d, left] * (1 - x + left) + image[top + d, left + 1] * (x - left) for d in (0, 1)]
        shown = rows[0] * (1 - y + top) + rows[1] * (y - top)
        np.testing.assert_allclose(shown * size[1 - axis], points[inside, axis], atol=0.02)


@pytest.mark.parametrize(
    ("variation", "point", "expected"),
    [
        (Variation(rotation_degrees=90.0), (20, 11.5), (11.5, 20)),  # clockwise: right goes down
        (Variation(scale=2.0), (14.5, 11.5), (17.5, 11.5)),
        (Variation(shear=(0.5, 0.0)), (11.5, 15.5), (13.5, 15.5)),
        (Variation(shear=(0.0, 0.5)), (15.5, 11.5), (15.5, 13.5)),
        (Variation(translate=(0.25, 0.0)), (3, 4), (9, 4)),
        (Variation(flip="columns"), (0, 4), (23, 4)),  # quirk 37: width - 1 - x
        (Variation(quarter_turns=1), (23, 0), (0, 0)),
    ],
)
def test_directions_and_centres(variation, point, expected):
    np.testing.assert_allclose(Warp.of(variation, SIZE).points(np.array(point, float)), expected, atol=1e-9)


def test_images_are_linear_and_labels_nearest():
    images = np.zeros((1, 1, 8, 8), np.float32)
    images[..., 4:] = 1
    labels = images[:, 0].astype(np.int64) * 7
    new_images, new_labels = Warp.of(Variation(scale=1.2), (8, 8)).move(images, labels)
    assert set(np.unique(new_labels)) <= {0, 7}
    between = (new_images > 0.01) & (new_images < 0.99)
    assert between.any()


def test_cubic_is_sharper_and_stays_in_range():
    images, labels = window((40, 40))
    linear = Warp.of(Variation(rotation_degrees=7.0), (40, 40)).move(images, labels)
    cubic = Warp.of(Variation(rotation_degrees=7.0), (40, 40)).move(images, labels, interpolation="cubic")
    assert np.array_equal(linear[1], cubic[1])
    assert cubic[0].std() > linear[0].std()
    assert (cubic[0].min() >= 0, cubic[0].max() <= 1) == (True, True)


@pytest.mark.parametrize("variation", [Variation(scale=0.5), Variation(translate=(0.3, 0.3))])
def test_pixels_from_outside_get_the_configured_label(variation):
    images, labels = window()
    labels[:] = 3
    labels[:, 10:14, 10:14] = -100
    for outside in (-100, 0):
        _, new_labels = Warp.of(variation, SIZE).move(images, labels, outside=outside)
        assert set(np.unique(new_labels)) == {-100, 3, outside}


def test_large_channel_numbers_survive():
    labels = np.full((1, *SIZE), 32_000)
    _, new_labels = Warp.of(Variation(scale=1.2), SIZE).move(np.zeros((1, 1, *SIZE), np.float32), labels)
    assert (new_labels == 32_000).all()


def test_a_deformation_is_smooth_and_does_not_fold():
    warp = Warp.of(Variation(elastic=0.02, elastic_points=8, seed=1), (96, 96))
    y, x = np.indices((96, 96), dtype=float)
    places = np.stack([x, y]) + warp.deformation
    jacobian = np.stack([np.gradient(places[0], axis=1), np.gradient(places[1], axis=0)])
    assert (jacobian > 0.2).all()
    assert 0.5 < np.abs(warp.deformation).max() < 0.02 * 96 * 1.6


def test_neutral_variations_are_recognised():
    assert Warp.of(Variation(gamma=2.0, noise=0.1), SIZE).is_identity
    assert not Warp.of(Variation(flip="rows"), SIZE).is_identity
    assert not Warp.of(Variation(elastic=0.01), SIZE).is_identity
