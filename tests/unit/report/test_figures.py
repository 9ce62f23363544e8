"""Content of the figures."""

import io

import matplotlib.image
import numpy as np
import pytest

from masam.errors import InputError
from masam.labels import LabelScheme
from masam.report.figures import prompt_curve, training_curves
from masam.report.overlay import _display_window, overlay
from masam.report.panels import BACKGROUND, ERRORS
from masam.volume import Geometry, Volume

SCHEME = LabelScheme.from_mapping({"background": 0, "liver": 1, "_$odd$": 2})


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png))[..., :3]


def close_to(image: np.ndarray, colour: tuple[float, float, float], tolerance: float = 0.12) -> np.ndarray:
    return np.abs(image - np.array(colour)).max(axis=-1) < tolerance


def case(affine=None):
    geometry = Geometry(np.diag([2.0, 2.0, 5.0, 1.0]) if affine is None else affine)
    image = np.random.default_rng(0).normal(100, 5, (40, 30, 6)).astype(np.float32)
    truth = np.zeros((40, 30, 6), dtype=np.uint8)
    truth[24:34, 8:20, 1:5] = 1
    guess = truth.copy()
    guess[24:34, 8:20, 3:5] = 0
    guess[5:12, 8:20, 1:3] = 2
    return [Volume(array, geometry) for array in (image, truth, guess)]


def test_overlay_shows_classes_and_errors_where_they_are():
    image, truth, guess = case()
    picture = pixels(overlay(image, [("Reference", truth), ("Prediction", guess)], SCHEME))
    height, width = picture.shape[:2]
    missed, false = ([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for _, c in ERRORS[:2])
    errors = picture[: int(height * 0.8), 2 * width // 3 :]
    centre = errors.shape[1] / 2
    # The liver lies to the patient's right (the array's axis runs to R): on the left of the page.
    assert np.nonzero(close_to(errors, missed, 0.25))[1].mean() < centre
    assert np.nonzero(close_to(errors, false, 0.25))[1].mean() > centre


def test_overlay_of_the_same_patient_is_the_same_in_another_array_order():
    plain = overlay(*_args(case()), SCHEME)
    turned = []
    for volume in case():
        affine = volume.geometry.affine[:, [2, 0, 1, 3]].copy()
        array = volume.array.transpose(2, 0, 1)[:, ::-1]
        affine[:3, 3] += affine[:3, 1] * (array.shape[1] - 1)
        affine[:3, 1] *= -1
        turned.append(Volume(array, Geometry(affine)))
    there = pixels(overlay(*_args(turned), SCHEME))
    here = pixels(plain)
    assert here.shape == there.shape
    # The caption names the spacing in array order; all above it is equal.
    body = slice(0, int(len(here) * 0.85))
    assert np.abs(here[body] - there[body]).mean() < 1e-3


def _args(volumes):
    image, truth, guess = volumes
    return image, [("Reference", truth), ("Prediction", guess)]


@pytest.mark.parametrize("constant", [0.0, np.nan])
def test_overlay_without_labels(constant):
    image = Volume(np.full((8, 9, 3), constant, dtype=np.float32))
    labels = Volume(np.zeros((8, 9, 3), dtype=np.uint8))
    assert pixels(overlay(image, [("Prediction", labels)], SCHEME)).std() > 0


def test_overlay_with_labels_to_the_rim_and_three_volumes():
    image = Volume(np.zeros((4, 4, 4)))
    full, empty = Volume(np.ones((4, 4, 4), dtype=np.uint8)), Volume(np.zeros((4, 4, 4), dtype=np.uint8))
    labels = [("Reference", full), ("A $x", empty), ("B", full)]
    picture = pixels(overlay(image, labels, SCHEME, slice_axis=0, slices=2, window=(0.0, 1.0)))
    background = [int(BACKGROUND[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    assert close_to(picture, background, 0.01).mean() < 0.9


def test_overlay_refuses_other_grids():
    image, truth, _ = case()
    with pytest.raises(InputError, match="labels: expected at least one label volume to draw"):
        overlay(image, [], SCHEME)
    with pytest.raises(
        InputError, match=r"Reference: expected labels on the grid of the image \(shape \(40, 30, 6\)\), got shape"
    ):
        overlay(image, [("Reference", Volume(truth.array[1:], truth.geometry))], SCHEME)
    with pytest.raises(InputError, match="with another affine"):
        overlay(image, [("Reference", Volume(truth.array))], SCHEME)


def test_display_window():
    ct = np.full((20, 20, 20), -1000.0)
    ct[5:15, 5:15] = 40.0
    assert _display_window(ct) == (-160.0, 240.0)
    assert _display_window(np.full((2, 2, 2), 7.0)) == (7.0, 8.0)
    mr = np.zeros((10, 10, 10))
    mr[2:8] = np.linspace(100, 200, 600).reshape(6, 10, 10)
    low, high = _display_window(mr)
    assert 100 <= low < 105
    assert 195 < high <= 200


def test_training_curves_with_and_without_validation():
    steps = [float(n) for n in range(0, 200, 5)]
    metrics = {"step": steps, "loss": [1 / (1 + s) for s in steps], "lr": [1e-3] * 40}
    plain = pixels(training_curves(metrics))
    both = pixels(training_curves({**metrics, "val_dice": [None] * 39 + [0.8], "val_dice_nothing": [None] * 40}))
    assert both.shape[0] > plain.shape[0]
    assert plain.std() > 0


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"loss": [1.0]}, r"metrics: expected a column 'step', got \['loss'\]"),
        ({"step": [1.0]}, "expected a column with 'loss' in its name"),
        ({"step": [1.0], "loss": [1.0, 2.0]}, r"expected columns of equal length, got \{'step': 1, 'loss': 2\}"),
    ],
)
def test_training_curves_refuse_what_they_cannot_draw(metrics, message):
    with pytest.raises(InputError, match=message):
        training_curves(metrics)


def test_the_prompt_curve_has_a_point_a_click_and_a_line_a_box(monkeypatch):
    from masam.evaluation.prompts import PromptEvaluation, PromptScore
    from masam.prompts.simulated_user import BOXES
    from masam.report import figures

    drawn = []
    png = figures.save_png
    monkeypatch.setattr(figures, "save_png", lambda figure: drawn.append(figure) or png(figure))
    boxes = {name: 0.8 + 0.01 * n for n, name in enumerate(BOXES)}
    scores = [
        PromptScore(case, "liver", 0.5 + shift, {k: v + shift for k, v in boxes.items()}, (0.6 + shift, 0.7 + shift))
        for case, shift in (("a", 0.0), ("b", 0.04))
    ]
    evaluation = PromptEvaluation(tuple(scores), ("a", "b"), ("liver",), BOXES, 2, 0)
    assert prompt_curve(evaluation).startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    curve, *lines = axes.lines
    np.testing.assert_allclose(curve.get_xydata(), [[0, 0.52], [1, 0.62], [2, 0.72]])
    heights = [line.get_ydata()[0] for line in lines]
    np.testing.assert_allclose(heights, [0.52, 0.82, 0.83, 0.84, 0.85, 0.86])
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[1:] == [
        "automatic, 0.520",
        *(f"{name}, {height:.3f}" for name, height in zip(BOXES, heights[1:], strict=True)),
    ]
    single = PromptEvaluation(tuple(scores[:1]), ("a",), ("liver",), BOXES, 2, 0)
    assert prompt_curve(single).startswith(b"\x89PNG"), "a single case has no interval"
    with pytest.raises(InputError, match="expected at least one case with a foreground class"):
        prompt_curve(PromptEvaluation((), ("a",), ("liver",), BOXES, 2, 0))
