import io

import matplotlib.image
import numpy as np
import pytest

from masam.errors import InputError
from masam.labels import LabelScheme
from masam.report.samples import sample_sheet

SCHEME = LabelScheme.from_mapping({"background": 0, "_cost $": 1, "vessel": 4})
ORANGE = np.array(SCHEME.labels[1].colour)


def sheet(labels, rows=1, columns=1, title="a sheet"):
    image = np.full((32, 32), 0.2, np.float32)
    png = sample_sheet([(f"row {n}", [(image, labels, "as prepared")] * columns) for n in range(rows)], SCHEME, title)
    pixels = matplotlib.image.imread(io.BytesIO(png))
    return (pixels[..., :3] * 255).round().astype(int)


def close(pixels, colour):
    return (np.abs(pixels - colour).max(axis=-1) < 25).sum()


def block(value):
    labels = np.zeros((32, 32), np.int64)
    labels[8:24, 8:24] = value
    return labels


def test_labels_are_outlined_and_named_in_their_colour():
    outlined, plain = sheet(block(1)), sheet(block(0))
    assert close(plain, ORANGE) == 0
    assert close(outlined, ORANGE) > 500


def test_frames_of_videos_are_shown_in_their_colours():
    image = np.zeros((32, 32, 3), np.float32)
    image[..., 2] = 1.25  # beyond 1, as augmentation leaves it
    png = sample_sheet([("row", [(image, block(0), "as prepared")])], SCHEME, "a sheet")
    pixels = (matplotlib.image.imread(io.BytesIO(png))[..., :3] * 255).round().astype(int)
    assert close(pixels, np.array((0, 0, 255))) > 0.3 * pixels.shape[0] * pixels.shape[1]


def test_unlabelled_pixels_are_shaded():
    shaded, plain = sheet(block(-100)), sheet(block(0))
    changed = (shaded != plain).any(axis=-1).mean()
    assert changed > 0.05
    assert close(shaded, ORANGE) == 0


def test_the_sheet_grows_with_rows_and_columns():
    one, many = sheet(block(2)), sheet(block(2), rows=2, columns=3)
    assert many.shape[0] > 1.5 * one.shape[0]
    assert many.shape[1] > 2.5 * one.shape[1]


def test_titles_are_not_parsed_as_formulas():
    sheet(block(2), title="$x^ {")


@pytest.mark.parametrize("lengths", [(), (0,), (1, 2)])
def test_rows_of_different_lengths_are_refused(lengths):
    sample = (np.zeros((8, 8), np.float32), np.zeros((8, 8), np.int64), "")
    with pytest.raises(InputError, match=r"^samples: expected rows of equal length, got \["):
        sample_sheet([("row", [sample] * n) for n in lengths], SCHEME, "title")
