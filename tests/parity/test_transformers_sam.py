"""Compare the plain SAM with transformers' SamModel with the same random weights."""

from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from masam.errors import ModelError
from masam.export.identify import identify
from masam.model.sam import Sam
from masam.model.sizes import SIZES, SamSize
from masam.weights.infer_spec import infer_sam_size
from masam.weights.state_dict import load_sam_state, require_sam
from masam.weights.tensors import read_tensors

SIZE = SamSize("custom", 64, 3, 4, (1,), 3, 96, out_channels=32, decoder_heads=4, decoder_mlp_dim=48, iou_hidden_dim=40)
IMAGE_SIZE = 128  # 8 x 8 patches: windows of 3 are padded to 9

# Sizes of facebook/sam-vit-base, -large and -huge, as transformers writes them.
VISION = {
    name: {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "global_attn_indexes": blocks,
    }
    for name, width, depth, heads, blocks in (
        ("vit_b", 768, 12, 12, [2, 5, 8, 11]),
        ("vit_l", 1024, 24, 16, [5, 11, 17, 23]),
        ("vit_h", 1280, 32, 16, [7, 15, 23, 31]),
    )
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Our SAM and that of transformers with the same random weights, and the file in Hugging Face's format."""
    folder = tmp_path_factory.mktemp("hugging_face")
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": IMAGE_SIZE,
            "output_channels": 32, "mlp_dim": 96, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 16,
        },
        prompt_encoder_config={
            "hidden_size": 32, "image_size": IMAGE_SIZE, "patch_size": 16, "image_embedding_size": 8,
        },
        mask_decoder_config={
            "hidden_size": 32, "num_attention_heads": 4, "mlp_dim": 48, "iou_head_hidden_dim": 40,
            "layer_norm_eps": 1e-5,
        },
    )  # fmt: skip
    theirs = transformers.SamModel(config).eval()
    with torch.no_grad():  # tables of zeros would hide errors in their use
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.2)
    theirs.save_pretrained(folder)
    path = folder / "model.safetensors"
    ours = Sam(SIZE, IMAGE_SIZE).eval()
    load_sam_state(ours, read_tensors(path)[0], SIZE, where=path)
    return ours, theirs, path


@pytest.mark.parametrize("prompts", ["points", "box", "none"])
@pytest.mark.parametrize("multimask", [True, False])
def test_same_masks_and_iou(models, prompts, multimask):
    ours, theirs, _ = models
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    given, wanted = {}, {}
    if prompts == "points":
        given["points"] = torch.rand(2, 2, 2, generator=generator) * (IMAGE_SIZE - 1)
        given["point_labels"] = torch.tensor([[1, 0], [1, 1]])
        wanted = {"input_points": given["points"][:, None], "input_labels": given["point_labels"][:, None]}
    elif prompts == "box":
        given["boxes"] = torch.tensor([[10.0, 20.0, 90.0, 101.0], [3.0, 4.0, 60.0, 50.0]])
        wanted = {"input_boxes": given["boxes"][:, None]}
    with torch.no_grad():
        embeddings = ours.image_encoder(images)
        got = ours.decode(embeddings, **given, multimask=multimask)
        expected = theirs(pixel_values=images, multimask_output=multimask, **wanted)
    torch.testing.assert_close(got.logits, expected.pred_masks[:, 0], rtol=1e-4, atol=1e-4 * got.logits.abs().max())
    torch.testing.assert_close(got.iou, expected.iou_scores[:, 0], rtol=1e-4, atol=1e-5)


def test_every_tensor_of_the_file_is_mapped(models):
    _, theirs, path = models
    state = require_sam(read_tensors(path)[0])
    size = replace(SIZE, base_image_size=IMAGE_SIZE)
    assert infer_sam_size(state, SIZE.decoder_heads) == size
    expected = Sam(SIZE, IMAGE_SIZE).state_dict()
    assert {name: t.shape for name, t in state.items()} == {name: t.shape for name, t in expected.items()}
    vision = theirs.state_dict()["vision_encoder.layers.1.layer_norm2.weight"]
    assert torch.equal(state["image_encoder.blocks.1.norm2.weight"], vision)
    assert identify(path)["kind"] == "SAM weights under Hugging Face's names"


@pytest.mark.parametrize("copy", ["prompt_encoder.shared_embedding", "shared_image_embedding"])
def test_either_copy_of_the_position_matrix_is_sufficient(models, tmp_path, copy):
    tensors = load_file(models[2])
    both = {
        **tensors,
        "prompt_encoder.shared_embedding.positional_embedding": tensors["shared_image_embedding.positional_embedding"],
    }
    expected = require_sam(both)
    only = {name: t for name, t in both.items() if "positional_embedding" not in name or name.startswith(copy)}
    assert len(only) == len(both) - 1
    state = require_sam(only)
    assert set(state) == set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    other = dict(both)
    other[f"{copy}.positional_embedding"] = torch.zeros_like(other[f"{copy}.positional_embedding"])
    with pytest.raises(
        ModelError, match=r"^x: .*positional_embedding and its copy under another name differ; download"
    ):
        require_sam(other, "x")


def test_unknown_names_are_listed(models, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({**load_file(models[2]), "vision_encoder.surprise": torch.ones(1)}, path)
    message = r"model.safetensors: 1 tensor does not .*no part of the model has this name: image_encoder.surprise$"
    with pytest.raises(ModelError, match=message):
        load_sam_state(Sam(SIZE, IMAGE_SIZE), read_tensors(path)[0], SIZE, where=path)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_published_sizes_match_tensor_by_tensor_without_memory(name):
    with torch.device("meta"):
        state = transformers.SamModel(transformers.SamConfig(vision_config=VISION[name])).state_dict()
        expected = Sam(SIZES[name], 1024).state_dict()
    ours = require_sam(state)
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in expected.items()}
    assert infer_sam_size(ours) == SIZES[name]
