from dataclasses import replace

import pytest
import torch
from tiny import SAM, SPEC, random_model, random_windows
from weight_files import HEADS, sam_state, to_official

from masam.errors import ModelError
from masam.model.masam import Masam
from masam.model.sam import Sam
from masam.model.sizes import SIZES
from masam.weights.infer_spec import infer_sam_size
from masam.weights.state_dict import (
    initialise_classes,
    load_official_state,
    load_sam_state,
    load_strictly,
    require_adapter,
    require_sam,
    resize_positions,
)


def test_official_state_round_trip():
    source, target = random_model(seed=1), random_model(seed=2)
    frozen = {n: t.clone() for n, t in target.state_dict().items() if n not in target.trained_names()}
    load_official_state(target, to_official(source))
    for name, tensor in target.state_dict().items():
        expected = source.state_dict()[name] if name in source.trained_names() else frozen[name]
        assert torch.equal(tensor, expected), name


def test_an_incomplete_or_surplus_adapter_is_refused():
    model = random_model()
    adapter = to_official(model)
    surplus = {**adapter, "v_FacTs_002": torch.ones(3, 3), "surprise": torch.ones(1)}
    message = r"2 tensors do not fit the model; unexpected, no part of .* has this name: surprise, v_FacTs_002$"
    with pytest.raises(ModelError, match=message):
        load_official_state(model, surplus)
    del adapter["v_FacTs_000"]
    message = (
        "2 tensors do not fit the model; missing, so the file is incomplete: image_encoder.fact.sigma_v; "
        "unexpected, no part of the model has this name: v_FacTs_001$"
    )
    with pytest.raises(ModelError, match=message):
        load_official_state(model, adapter)


def test_a_plain_sam_and_an_adapted_one_take_the_same_encoder():
    state = sam_state()
    sam, model = Sam(SAM, 64).eval(), random_model(replace(SPEC, image_size=64))
    load_sam_state(sam, state, SAM)
    load_sam_state(model, state, SAM)
    with torch.no_grad():
        for block in model.image_encoder.blocks:
            block.adapter_attention = block.adapter_mlp = None
        model.image_encoder.fact = None
        images = random_windows(1, 2, 64).flatten(0, 1)
        assert torch.equal(model.image_encoder(images), sam.image_encoder(images))


def test_tensors_that_an_adapted_model_takes_from_sam():
    state, model = sam_state(), random_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_sam_state(model, state, SAM)
    kept = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    fresh = ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head", ".4.", ".6.", ".7.", ".9.")
    decoder = {
        n for n in before if n.startswith("mask_decoder.") and "transformer" not in n and any(f in n for f in fresh)
    }
    adaptation = {n for n in before if "adapter_" in n or ".fact." in n}
    assert kept == decoder | adaptation
    for name in set(before) - kept:
        if "pos" not in name:
            assert torch.equal(model.state_dict()[name], state[name]), name


def test_classes_start_as_sams_single_mask_and_the_background_as_its_negation():
    state = sam_state()
    model = random_model(replace(SPEC, num_classes=1, image_size=64, decoder="sam", fact_rank=0, adapter_places="none"))
    load_sam_state(model, state, SAM)
    initialise_classes(model, state)
    # A SAM with two copies of the single mask: tokens attend to each other, so their number matters.
    single = {n: t for n, t in state.items() if "mask_tokens" not in n and "iou_prediction_head.layers.2" not in n}
    single["mask_decoder.mask_tokens.weight"] = state["mask_decoder.mask_tokens.weight"][[0, 0]]
    networks = "mask_decoder.output_hypernetworks_mlps"
    single = {n: t for n, t in single.items() if not n.startswith((f"{networks}.2.", f"{networks}.3."))}
    single |= {n.replace(f"{networks}.0.", f"{networks}.1."): t for n, t in single.items() if f"{networks}.0." in n}
    sam = Sam(SAM, 64, num_masks=2).eval()
    sam.load_state_dict(single, strict=False)
    windows, box = random_windows(1, 2, 64), torch.tensor([[4.0, 9, 40, 50], [10, 3, 30, 33]])
    with torch.no_grad():
        background, inside = model(windows, boxes=box[None]).logits[0].unbind(dim=1)
        expected = sam.decode(sam.image_encoder(windows.flatten(0, 1)), boxes=box, multimask=False).logits
    expected = torch.nn.functional.interpolate(expected, (64, 64), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(inside, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(background, -inside)
    assert inside.std() > 1e-3


def test_classes_of_the_progressive_decoder_start_with_matching_layers():
    state, model = sam_state(), random_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initialise_classes(model, state)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    networks = [
        f"output_hypernetworks_mlps.{k}.layers.{i}.{kind}"
        for k in range(3)
        for i in (0, 1)
        for kind in ("weight", "bias")
    ]
    assert changed == {f"mask_decoder.{name}" for name in ("mask_tokens.weight", *networks)}


def test_positions_are_resized_as_the_reference_does():
    state = sam_state()  # 64 px: a grid of 4, global tables of 7
    resized = resize_positions(state, SAM, 32)
    table = state["image_encoder.pos_embed"]
    # Half the size without antialias: the mean of 2 x 2.
    expected = table.reshape(1, 2, 2, 2, 2, -1).mean(dim=(2, 4))
    torch.testing.assert_close(resized["image_encoder.pos_embed"], expected, rtol=0, atol=1e-6)
    long = state["image_encoder.blocks.1.attn.rel_pos_h"]
    at = [(i + 0.5) * 7 / 3 - 0.5 for i in range(3)]
    expected = torch.stack([long[int(x)] * (1 - x % 1) + long[int(x) + 1] * (x % 1) for x in at])
    torch.testing.assert_close(resized["image_encoder.blocks.1.attn.rel_pos_h"], expected, rtol=0, atol=1e-6)
    windowed = "image_encoder.blocks.0.attn.rel_pos_h"
    assert torch.equal(resized[windowed], state[windowed])


def test_positions_of_the_same_size_stay_bit_for_bit():
    state = sam_state()
    resized = resize_positions(state, SAM, 64)
    assert all(torch.equal(resized[name], tensor) for name, tensor in state.items())


def test_all_faults_are_listed():
    model, state = random_model(), dict(random_model().state_dict())
    del state["mask_decoder.iou_token.weight"]
    state["intruder"] = torch.ones(1)
    state["prompt_encoder.not_a_point_embed.weight"] = torch.ones(1, 32, dtype=torch.int64)
    state["prompt_encoder.no_mask_embed.weight"] = torch.ones(1, 5)
    state["mask_decoder.mask_tokens.weight"] = state["mask_decoder.mask_tokens.weight"].clone()
    state["mask_decoder.mask_tokens.weight"][1, 2] = torch.nan
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_strictly(model, state, where="tiny.pth", fix="do this")
    assert str(caught.value) == (
        "tiny.pth: 5 tensors do not fit the model; missing, so the file is incomplete: mask_decoder.iou_token.weight; "
        "unexpected, no part of the model has this name: intruder; wrong shape, so the file belongs to another model: "
        "prompt_encoder.no_mask_embed.weight has (1, 5), expected (1, 32); not of a floating-point type: "
        "prompt_encoder.not_a_point_embed.weight; not finite, so the file is damaged: mask_decoder.mask_tokens.weight; "
        "do this"
    )
    assert caught.value.faults == (
        "missing mask_decoder.iou_token.weight",
        "unexpected intruder",
        "prompt_encoder.no_mask_embed.weight has shape (1, 5), expected (1, 32)",
        "prompt_encoder.not_a_point_embed.weight is not of a floating-point type",
        "mask_decoder.mask_tokens.weight contains values that are not finite",
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_long_list_of_faults_is_shortened_in_the_message_only():
    model = random_model()
    with pytest.raises(ModelError, match=r"missing, so the file is incomplete: .*, and \d+ more$") as caught:
        load_strictly(model, {})
    assert "image_encoder.blocks.{0-1}.adapter_attention.conv.bias, " in str(caught.value)
    assert caught.value.faults == tuple(f"missing {name}" for name in sorted(model.state_dict()))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_numbers_that_are_not_finite_are_refused(value):
    state = sam_state()
    state["image_encoder.neck.0.weight"][0, 0] = value
    message = r"1 tensor does not fit the model; not finite, so the file is damaged: image_encoder.neck.0.weight$"
    with pytest.raises(ModelError, match=message):
        load_sam_state(random_model(), state, SAM)


def test_weights_of_another_backbone_name_both():
    other = replace(SAM, embed_dim=24, num_heads=3, depth=3)
    message = (
        r"sam.pth: expected the weights of custom \(2 blocks of width 16\), the file contains custom "
        r"\(3 blocks of width 24\); give the file of custom$"
    )
    with pytest.raises(ModelError, match=message):
        load_sam_state(random_model(), sam_state(other), SAM, where="sam.pth")


def test_other_kinds_of_files_are_identified_by_their_names():
    adapter = to_official(random_model())
    other = {"b": torch.ones(1), "a": torch.ones(1)}
    message = r"^x.pth: expected SAM weights, got an official MA-SAM adapter; check the order of the files$"
    with pytest.raises(ModelError, match=message):
        require_sam(adapter, "x.pth")
    with pytest.raises(ModelError, match=r"expected SAM weights, got other tensors \(a, b\)"):
        require_sam(other)
    with pytest.raises(ModelError, match=r"expected SAM weights, got other tensors \(none\)"):
        require_sam({})
    with pytest.raises(ModelError, match=r"^x.pth: expected an official MA-SAM adapter, got SAM weights;"):
        require_adapter(sam_state(), "x.pth")
    assert require_adapter(adapter) is adapter
    assert set(require_sam({**sam_state(), "pixel_mean": torch.ones(3, 1, 1)})) == set(sam_state())


def test_the_size_is_inferred_despite_missing_tensors(monkeypatch):
    """Loading can then list all missing tensors."""
    published = replace(SAM, name="vit_t")
    monkeypatch.setitem(SIZES, "vit_t", published)
    state = sam_state()
    lost = [
        "image_encoder.blocks.0.attn.rel_pos_h",
        "image_encoder.blocks.0.mlp.lin1.weight",
        "image_encoder.blocks.1.attn.rel_pos_h",
        "mask_decoder.iou_token.weight",
    ]
    for name in lost:
        del state[name]
    assert infer_sam_size(state, HEADS) == published
    message = (
        r"^sam.pth: 4 tensors do not fit the model; missing, so the file is incomplete: "
        r"image_encoder.blocks.\{0-1\}.attn.rel_pos_h, image_encoder.blocks.0.mlp.lin1.weight, "
        r"mask_decoder.iou_token.weight; give a complete SAM file of vit_t$"
    )
    with pytest.raises(ModelError, match=message):
        load_sam_state(random_model(replace(SPEC, sam=published)), state, published, where="sam.pth")


def test_a_model_on_the_meta_device_gets_copies():
    state = dict(random_model().state_dict())
    with torch.device("meta"):
        model = Masam(SPEC)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    load_strictly(model, {name: tensor.half() for name, tensor in state.items()})
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].half().float()), name
    assert frozen == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    first = next(iter(state))
    state[first].zero_()
    assert model.state_dict()[first].abs().sum() > 0
