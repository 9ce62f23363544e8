"""The same weights on pictures of half the side."""

import pytest
import torch
from tiny import SAM, randomise

from masam.model.sam import Sam
from masam.pretraining.half_size import HalfSize
from masam.weights.state_dict import load_sam_state


@pytest.fixture
def sam():
    return randomise(Sam(SAM, 64), seed=3)


def test_half_size_equals_the_weights_loaded_at_half_the_side(sam):
    loaded = Sam(SAM, 32)
    load_sam_state(loaded, sam.state_dict(), SAM)
    half, images = HalfSize(sam, SAM), torch.rand(2, 3, 32, 32)
    embeddings = half.encode(images)
    torch.testing.assert_close(embeddings, loaded.image_encoder(images))
    prompts = {"boxes": torch.tensor([[3.0, 4, 20, 30], [0, 0, 31, 31]]), "masks": torch.randn(2, 1, 8, 8)}
    outputs = (model.decode(embeddings, multimask=None, **prompts) for model in (half.sam, loaded))
    for got, expected in zip(*outputs, strict=True):
        torch.testing.assert_close(got, expected)


def test_gradients_reach_every_weight_of_the_model(sam):
    half = HalfSize(sam, SAM)
    prompts = {
        "points": torch.tensor([[[3.0, 4], [9, 9]]]), "point_labels": torch.tensor([[1, 0]]),
        "boxes": torch.tensor([[3.0, 4, 20, 30]]), "masks": torch.randn(1, 1, 8, 8),
    }  # fmt: skip
    out = half.sam.decode(half.encode(torch.rand(1, 3, 32, 32)), multimask=None, **prompts)
    (out.logits.square().mean() + out.iou.square().mean()).backward()
    without = {name for name, parameter in sam.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    # With a box there is no padding point, and with a mask nothing stands for none. A bias that shifts all keys of an
    # attention alike cancels out.
    expected = {"prompt_encoder.not_a_point_embed.weight", "prompt_encoder.no_mask_embed.weight"}
    assert {name for name in without if "k_proj.bias" not in name} == expected


def test_half_size_has_no_weights_of_its_own(sam):
    half = HalfSize(sam, SAM)
    before = half.encode(torch.ones(1, 3, 32, 32))
    with torch.no_grad():
        sam.image_encoder.pos_embed += 1
    assert not torch.equal(half.encode(torch.ones(1, 3, 32, 32)), before)
