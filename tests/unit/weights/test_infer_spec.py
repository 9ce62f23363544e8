from dataclasses import replace

import pytest
import torch
from tiny import SAM, SPEC, random_model
from weight_files import HEADS, sam_state, to_official

from masam.errors import ModelError
from masam.model.masam import Masam
from masam.model.sam import Sam
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.weights.infer_spec import AdapterOptions, infer_adapter, infer_masam_spec, infer_sam_size


def test_the_architecture_of_a_sam_is_inferred():
    assert infer_sam_size(sam_state(), HEADS) == SAM
    other = replace(SAM, embed_dim=24, num_heads=3, depth=3, global_blocks=(0, 2), base_image_size=80, mask_channels=12)
    assert infer_sam_size(sam_state(other), HEADS) == other


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_published_sizes_are_identified_by_their_tensors(name):
    with torch.device("meta"):
        state = Sam(SIZES[name], 1024).state_dict()
    assert infer_sam_size(state) == SIZES[name]


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_an_official_file_has_as_many_tensors_as_published(name):
    with torch.device("meta"):
        model = Masam(MasamSpec(SIZES[name], num_classes=12))
        state, sam = to_official(model), Sam(SIZES[name], 1024).state_dict()
    assert len(state) == 14 * SIZES[name].depth + 6 * 13 + 123
    assert state["image_encoder.ImageEncoderViT.blocks.3.Block.adapter_conv_2.weight"].shape == (384, 384, 3, 1, 1)
    assert infer_masam_spec(sam, state, 512, 1.0) == model.spec


def test_the_specification_is_inferred_from_both_files():
    spec = replace(SPEC, window=5, fact_scale=0.5)
    found = infer_masam_spec(sam_state(), to_official(random_model(spec)), 32, 0.5, HEADS)
    assert found == spec


def test_an_adapter_of_another_backbone_names_both():
    other = replace(SAM, embed_dim=24, num_heads=3, depth=3)
    adapter = to_official(random_model(replace(SPEC, sam=other)))
    message = (
        r"^adapter.pth: the adapter belongs to an encoder of 3 blocks of width 24, the SAM file contains one of 2 "
        r"blocks of width 16 \(custom\); use the SAM file of an encoder of width 24$"
    )
    with pytest.raises(ModelError, match=message):
        infer_masam_spec(sam_state(), adapter, 32, 1.0, HEADS, ("sam.pth", "adapter.pth"))


def test_the_published_name_of_the_backbone_that_an_adapter_needs():
    with torch.device("meta"):
        adapter = to_official(Masam(MasamSpec(SIZES["vit_h"], num_classes=1)))
    with pytest.raises(ModelError, match=r"use the SAM file of vit_h$"):
        infer_masam_spec(sam_state(), adapter, 32, 1.0, HEADS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_encoder.pos_embed": torch.ones(3)}, r"image_encoder.pos_embed with 4 axes, got shape \(3,\)"),
        ({"image_encoder.pos_embed": torch.ones(1, 4, 5, 16)}, r"positions on a square grid, got \(1, 4, 5, 16\)"),
        ({"image_encoder.blocks.0.attn.rel_pos_h": torch.ones(5, 0)}, r"rel_pos_h with 2 axes, got shape \(5, 0\)"),
        ({"image_encoder.blocks.0.attn.rel_pos_h": None}, r"blocks.0.attn.rel_pos_h with 2 axes, got none"),
        (
            {"image_encoder.blocks.0.attn.rel_pos_h": torch.ones(5, 5)},
            r"its tensors are not those of a SAM \(num_heads: expected",
        ),
        ({"image_encoder.blocks.900000000.x": torch.ones(1)}, r"its blocks are numbered up to 900000000, it has"),
        ({"mask_decoder.iou_token.weight": None}, r"a tensor mask_decoder.iou_token.weight with 2 axes, got none"),
    ],
)
def test_tensors_of_other_models_are_refused(change, message):
    state = {name: tensor for name, tensor in {**sam_state(), **change}.items() if tensor is not None}
    with pytest.raises(ModelError, match=message):
        infer_sam_size(state)


def test_a_size_is_identified_at_another_image_size(monkeypatch):
    monkeypatch.setitem(SIZES, "vit_t", replace(SAM, name="vit_t"))
    small = replace(SAM, base_image_size=96)
    assert infer_sam_size(sam_state(small), HEADS) == replace(SAM, name="vit_t", base_image_size=96)


def test_the_options_of_an_adapter_are_inferred():
    found = infer_adapter(to_official(random_model()))
    assert found == AdapterOptions("an encoder of width 16", 2, 16, 2, 3, 6, 3)
    adapter = to_official(random_model())
    adapter["mask_decoder.mask_tokens.weight"] = torch.ones(1, 32)
    with pytest.raises(ModelError, match=r"a.pth: expected mask tokens for background and classes, got 1$"):
        infer_adapter(adapter, "a.pth")
