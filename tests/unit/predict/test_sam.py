"""A plain SAM on pictures, against Meta's SAM at tiny size."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny import TINY, randomise

import masam
from masam.errors import InputError, ModelError
from masam.model.sam import PIXEL_MEAN, PIXEL_STD, Sam
from masam.weights.infer_spec import infer_sam_size
from masam.weights.state_dict import load_sam_state
from masam.weights.tensors import read_tensors

GOLDEN = Path(__file__).parents[2] / "golden"
EXPECTED = load_file(GOLDEN / "sam_tiny_256_expected.safetensors")


@pytest.fixture(scope="module")
def golden():
    state = read_tensors(GOLDEN / "sam_tiny_256.pth")[0]
    size = infer_sam_size(state, 4)
    sam = Sam(size, 256)
    load_sam_state(sam, state, size)
    return masam.SamPredictor(sam, device="cpu")


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return masam.SamPredictor(randomise(Sam(TINY, 64), seed=3), device="cpu")


def prompts_of(names, image):
    given = {name: EXPECTED[name][image].numpy() for name in names}
    if "boxes" in given:
        given["box"] = given.pop("boxes")
    if "mask_input" in given:
        given["mask"] = given.pop("mask_input")[0]
    return given


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("points", ("points", "point_labels")),
        ("box", ("boxes",)),
        ("box_points", ("points", "point_labels", "boxes")),
        ("mask", ("points", "point_labels", "mask_input")),
    ],
)
def test_masks_equal_those_of_metas_predictor(golden, case, names, image, multimask):
    picture = EXPECTED["images"][image].permute(1, 2, 0).numpy()
    got = golden.predict(picture, **prompts_of(names, image), multimask=multimask)
    key = f"{case}.image{image}.{'multi' if multimask else 'single'}"
    iou, logits = EXPECTED[f"{key}.iou"][0], EXPECTED[f"{key}.low_res_masks"][0]
    order = iou.argsort(descending=True)
    np.testing.assert_allclose(got.iou, iou[order].numpy(), rtol=1e-4, atol=1e-5)
    largest = float(logits.abs().max())
    np.testing.assert_allclose(got.logits, logits[order].numpy(), atol=1e-4 * largest)
    full = F.interpolate(logits[None, order], size=(256, 256), mode="bilinear", align_corners=False)[0].numpy()
    sure = np.abs(full) > 2e-4 * largest
    np.testing.assert_array_equal(got.masks[sure], (full > 0)[sure])


@pytest.mark.parametrize("shape", [(40, 100), (128, 50), (33, 33)])
def test_masks_have_the_shape_of_the_image(small, shape):
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    encoded = small.encode(picture)
    assert max(encoded.resized) == 64
    assert encoded.resized[0] / encoded.resized[1] == pytest.approx(shape[0] / shape[1], rel=0.03)
    got = small.predict(encoded, points=[[shape[1] // 2, shape[0] // 2]])
    assert got.masks.shape == (3, *shape)
    assert got.logits.shape == (3, 16, 16)
    assert list(got.iou) == sorted(got.iou, reverse=True)
    again = small.predict(picture, points=[[shape[1] // 2, shape[0] // 2]], point_labels=[1])
    np.testing.assert_array_equal(got.logits, again.logits)


def test_padding_is_zero_after_normalisation_and_points_are_scaled(small):
    picture = np.random.default_rng(2).integers(0, 256, (64, 128), dtype=np.uint8)
    rgb = torch.from_numpy(np.stack([picture] * 3)).float()[None]
    resized = F.interpolate(rgb, size=(32, 64), mode="bilinear", align_corners=False, antialias=True)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    padded = torch.zeros(1, 3, 64, 64)
    padded[:, :, :32] = (resized - mean) / std
    with torch.no_grad():
        embeddings = small.sam.image_encoder(padded)
        out = small.sam.decode(embeddings, boxes=torch.tensor([[10.0, 5.0, 30.0, 20.0]]), multimask=False)
    got = small.predict(picture, box=[20, 10, 60, 40])
    np.testing.assert_allclose(got.logits, out.logits[0].numpy(), rtol=1e-4, atol=1e-4)
    full = F.interpolate(out.logits, size=(64, 64), mode="bilinear", align_corners=False)[..., :32, :]
    expected = F.interpolate(full, size=(64, 128), mode="bilinear", align_corners=False)[0] > 0
    assert (got.masks == expected.numpy()).mean() > 0.999


def test_a_single_point_returns_three_masks(small):
    picture = np.zeros((64, 64), np.uint8)
    assert len(small.predict(picture, points=[[3, 4]]).iou) == 3
    assert len(small.predict(picture, points=[[3, 4], [5, 6]], point_labels=[1, 0]).iou) == 1
    assert len(small.predict(picture, box=[1, 2, 30, 40]).iou) == 1
    assert len(small.predict(picture, box=[1, 2, 30, 40], multimask=True).iou) == 3
    mask = np.zeros((16, 16), np.float32)
    assert len(small.predict(picture, points=[[3, 4]], mask=mask).iou) == 1


def test_weights_come_from_a_file(sam_file, tmp_path):
    predictor = masam.SamPredictor(sam_file, device="cpu")
    assert predictor.sam.image_encoder.image_size == 64
    assert masam.SamPredictor(sam_file, device="cpu", image_size=96).sam.image_encoder.image_size == 96
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="expected SAM weights, got other tensors"):
        masam.SamPredictor(tmp_path / "other.pth", device="cpu")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, r"^prompt: expected a prompt, got none; give a box or points$"),
        ({"mask": np.zeros((16, 16), np.float32)}, r"^prompt: expected a prompt, got none"),
        ({"point_labels": [1]}, r"^point_labels: point_labels were given without points"),
        ({"points": [1, 2]}, r"^points: expected points \[P, 2\], got \(2,\)$"),
        ({"points": [[1, 2]], "point_labels": [1, 0]}, r"^point_labels: expected 1 labels of 0 or 1, got \[1, 0\]$"),
        ({"points": [[1, 2]], "point_labels": [2]}, r"^point_labels: expected 1 labels of 0 or 1, got \[2\]$"),
        ({"points": [[50, 2]]}, r"^points: expected points inside an image of 50 x 40 pixels, got \[\[50.0, 2.0\]\]$"),
        ({"points": [[float("nan"), 2]]}, r"^points: expected points inside an image of 50 x 40 pixels"),
        (
            {"box": [10, 10, 5, 20]},
            r"^box: expected x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, got",
        ),
        ({"box": [0, 0, 49, 40]}, r"^box: expected points inside an image of 50 x 40 pixels"),
        (
            {"box": [0, 0, 9, 9], "mask": np.zeros((8, 8), np.float32)},
            r"^mask: expected logits of 16 x 16, got",
        ),
    ],
)
def test_prompts_that_do_not_fit_are_refused(small, prompt, message):
    with pytest.raises(InputError, match=message):
        small.predict(np.zeros((40, 50), np.uint8), **prompt)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 5, 4), np.uint8), r"^picture: expected an image \[H, W\] or \[H, W, 3\], got \(4, 5, 4\)$"),
        (np.zeros((0, 5), np.uint8), r"got \(0, 5\)$"),
        (np.full((4, 5), -1000, np.int16), r"^picture: expected values from 0 to 255, got -1000 to -1000; scale"),
        (np.full((4, 5), np.nan), r"^picture: expected values from 0 to 255, got nan to nan"),
    ],
)
def test_invalid_images_are_refused(small, picture, message):
    with pytest.raises(InputError, match=message):
        small.predict(picture, box=[0, 0, 2, 2])
