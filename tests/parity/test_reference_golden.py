"""Compare whole tensors with the two reference implementations (tests/golden/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from masam.model.masam import Masam
from masam.model.sam import Sam
from masam.model.sizes import SamSize
from masam.training.loss import segmentation_loss
from masam.weights.infer_spec import infer_masam_spec, infer_sam_size
from masam.weights.state_dict import load_official_state, load_sam_state, resize_positions

GOLDEN = Path(__file__).parent.parent / "golden"
HEADS = 4


def assert_close(got, expected, tolerance=1e-4):
    assert got.shape == expected.shape
    error = (got - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"largest relative error {error:.2e}"


def read(name):
    return torch.load(GOLDEN / name, weights_only=True, map_location="cpu")


@pytest.fixture(scope="module")
def sam():
    state = read("sam_tiny_256.pth")
    size = infer_sam_size(state, HEADS)
    model = Sam(size, image_size=256).eval()
    load_sam_state(model, state, size)
    return model


@pytest.fixture(scope="module")
def sam_expected():
    return load_file(GOLDEN / "sam_tiny_256_expected.safetensors")


@pytest.fixture(scope="module")
def sam_embeddings(sam, sam_expected):
    with torch.no_grad():
        return sam.encode(sam_expected["images"])


def test_architecture_is_inferred_from_the_tensors():
    size = infer_sam_size(read("sam_tiny_256.pth"), HEADS)
    assert (size.name, size.embed_dim, size.depth, size.num_heads) == ("custom", 48, 4, 3)
    assert (size.global_blocks, size.attention_window, size.base_image_size) == ((1, 3), 5, 256)
    assert (size.out_channels, size.decoder_mlp_dim, size.iou_hidden_dim) == (64, 128, 64)


def test_sam_image_embeddings(sam_embeddings, sam_expected):
    assert_close(sam_embeddings, sam_expected["image_embeddings"])


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
def test_sam_masks_and_iou(sam, sam_expected, sam_embeddings, case, names, image, multimask):
    prompts = {name: sam_expected[name][image : image + 1] for name in names}
    if "mask_input" in prompts:
        prompts["masks"] = prompts.pop("mask_input")
    with torch.no_grad():
        out = sam.decode(sam_embeddings[image : image + 1], **prompts, multimask=multimask)
    key = f"{case}.image{image}.{'multi' if multimask else 'single'}"
    assert_close(out.logits, sam_expected[f"{key}.low_res_masks"])
    assert_close(out.iou, sam_expected[f"{key}.iou"])


@pytest.mark.parametrize("image_size", [384, 512, 1024, 1280])
def test_resized_positions_are_bit_identical(image_size):
    golden = load_file(GOLDEN / "positions_expected.safetensors")
    source = {name.removeprefix("source."): t for name, t in golden.items() if name.startswith("source.")}
    size = SamSize("custom", 6, 2, 1, (1,), 14, 24)
    resized = resize_positions(source, size, image_size)
    assert set(resized) == set(source)
    for name, tensor in resized.items():
        expected = golden.get(f"{image_size}.{name}", source[name])
        assert torch.equal(tensor, expected), name
    changed = {name for name in source if f"{image_size}.{name}" in golden}
    assert len(changed) == (0 if image_size == 1024 else 3)


def load_adapted(name):
    sam_state, adapter = read("sam_tiny_256.pth"), read(f"{name}_adapter.pth")
    spec = infer_masam_spec(sam_state, adapter, image_size=96, fact_scale=1.0, decoder_heads=HEADS)
    model = Masam(spec).eval()
    load_sam_state(model, sam_state, spec.sam)
    load_official_state(model, adapter)
    expected = load_file(GOLDEN / f"{name}_expected.safetensors")
    windows = expected["windows"][:, :, None].expand(-1, -1, 3, -1, -1)
    return model, windows, expected


def test_adapted_model_without_prompts():
    model, windows, expected = load_adapted("masam_tiny_96")
    assert (model.spec.num_classes, model.spec.fact_rank, model.spec.adapter_channels) == (3, 4, 24)
    with torch.no_grad():
        assert_close(model.encode(windows), expected["image_embeddings"])
        out = model(windows)
    assert_close(out.logits.flatten(0, 1), expected["low_res_logits"])
    assert_close(out.iou.flatten(0, 1), expected["iou_predictions"])


def test_adapted_model_with_one_box_per_slice():
    model, windows, expected = load_adapted("masam_tiny_bbox_96")
    with torch.no_grad():
        assert_close(model.encode(windows), expected["image_embeddings"])
        out = model(windows, boxes=expected["boxes"].reshape(2, 5, 4))
    assert_close(out.logits.flatten(0, 1), expected["low_res_logits"])
    assert_close(out.iou.flatten(0, 1), expected["iou_predictions"])


def test_loss_and_gradients():
    model, windows, expected = load_adapted("masam_tiny_96")
    loss = segmentation_loss(model(windows).logits.flatten(0, 1), expected["labels"].long())
    assert_close(loss.total, expected["loss"])
    assert_close(loss.cross_entropy, expected["loss_ce"])
    assert_close(loss.dice, expected["loss_dice"])
    loss.total.backward()
    encoder = model.image_encoder
    gradients = {
        "FacTu": encoder.fact.u.grad,
        "FacTv": encoder.fact.v.grad,
        "q_FacTs_000": encoder.fact.sigma_q.grad[0],
        "blocks.2.adapter_conv.weight": encoder.blocks[2].adapter_attention.conv.weight.grad,
        "blocks.2.adapter_linear_down_2.weight": encoder.blocks[2].adapter_mlp.down.weight.grad,
    }
    for name, gradient in gradients.items():
        assert_close(gradient, expected[f"grad.{name}"], tolerance=1e-3)
    assert all(p.grad is None for name, p in model.named_parameters() if name not in model.trained_names())
