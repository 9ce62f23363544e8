"""The plain SAM against transformers' SamModel with the same random weights."""

import pytest
import torch

from masam.model.sam import Sam
from masam.model.sizes import SamSize

SIZE = SamSize("custom", 64, 3, 4, (1,), 3, 96, out_channels=32, decoder_heads=4, decoder_mlp_dim=48, iou_hidden_dim=40)
IMAGE_SIZE = 128  # 8 x 8 patches: windows of 3 are padded to 9
TO_HUGGING_FACE = [
    ("image_encoder.blocks.", "vision_encoder.layers."),
    ("image_encoder.", "vision_encoder."),
    ("patch_embed.proj.", "patch_embed.projection."),
    ("neck.0.", "neck.conv1."),
    ("neck.1.", "neck.layer_norm1."),
    ("neck.2.", "neck.conv2."),
    ("neck.3.", "neck.layer_norm2."),
    (".norm", ".layer_norm"),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    ("point_embeddings.", "point_embed."),
    ("mask_downscaling.0.", "mask_embed.conv1."),
    ("mask_downscaling.1.", "mask_embed.layer_norm1."),
    ("mask_downscaling.3.", "mask_embed.conv2."),
    ("mask_downscaling.4.", "mask_embed.layer_norm2."),
    ("mask_downscaling.6.", "mask_embed.conv3."),
    ("output_upscaling.0.", "upscale_conv1."),
    ("output_upscaling.1.", "upscale_layer_norm."),
    ("output_upscaling.3.", "upscale_conv2."),
]


def to_hugging_face(name):
    for ours, theirs in TO_HUGGING_FACE:
        name = name.replace(ours, theirs)
    if "hypernetworks" in name or "iou_prediction_head" in name:
        for ours, theirs in (("layers.0.", "proj_in."), ("layers.1.", "layers.0."), ("layers.2.", "proj_out.")):
            if ours in name:
                return name.replace(ours, theirs)
    return name


@pytest.fixture(scope="module")
def models():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = Sam(SIZE, IMAGE_SIZE).eval()
    with torch.no_grad():  # tables that start at zero would hide an error in their use
        for parameter in ours.parameters():
            parameter.normal_(0, 0.2)
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
    state = {to_hugging_face(name): tensor for name, tensor in ours.state_dict().items()}
    matrix = state["shared_image_embedding.positional_embedding"]
    state["prompt_encoder.shared_embedding.positional_embedding"] = matrix
    theirs.load_state_dict(state)
    return ours, theirs


@pytest.mark.parametrize("prompts", ["points", "box", "none"])
@pytest.mark.parametrize("multimask", [True, False])
def test_same_masks_and_iou(models, prompts, multimask):
    ours, theirs = models
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
