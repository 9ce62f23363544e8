from dataclasses import replace

import pytest
import torch
from tiny import SPEC, random_model, random_windows, without_type_checks

from masam.errors import ConfigError
from masam.model.masam import Masam, channel_projection

POINTS = ("prompt_encoder.point_embeddings.0.weight", "prompt_encoder.point_embeddings.1.weight")
CORNERS = ("prompt_encoder.point_embeddings.2.weight", "prompt_encoder.point_embeddings.3.weight")
PADDING = "prompt_encoder.not_a_point_embed.weight"
NO_MASK = "prompt_encoder.no_mask_embed.weight"


def prompts(b=2, s=3, side=32):
    generator = torch.Generator().manual_seed(5)
    start = torch.rand(b, s, 2, generator=generator) * side / 2
    return {
        "boxes": torch.cat([start, start + side / 3], dim=-1),
        "points": torch.rand(b, s, 2, 2, generator=generator) * side,
        "point_labels": torch.tensor([1, 0]).expand(b, s, 2),
        "masks": torch.randn(b, s, 1, side // 4, side // 4, generator=generator),
    }


@pytest.mark.parametrize("image_size", [16, 32, 48, 80])
@pytest.mark.parametrize(("b", "s"), [(1, 1), (2, 3), (1, 6)])
@pytest.mark.parametrize("num_classes", [1, 4])
def test_logits_at_full_resolution_for_any_window(image_size, b, s, num_classes):
    model = Masam(replace(SPEC, image_size=image_size, num_classes=num_classes)).eval()
    with torch.no_grad():
        out = model(random_windows(b, s, image_size))
    assert out.logits.shape == (b, s, num_classes + 1, image_size, image_size)
    assert out.iou.shape == (b, s, num_classes + 1)


def test_prompts_affect_their_own_slice_only():
    model, windows, given = random_model(), random_windows(), prompts()
    with torch.no_grad():
        before = model(windows, **given).logits
        moved = {name: tensor.clone() for name, tensor in given.items()}
        moved["boxes"][1, 2] += 4
        after = model(windows, **moved).logits
    differs = (before != after).flatten(2).any(dim=2)
    assert differs.tolist() == [[False] * 3, [False, False, True]]


def test_decoding_embeddings_is_what_forward_does():
    model, windows = random_model(), random_windows()
    boxes = prompts()["boxes"]
    with torch.no_grad():
        out = model(windows, boxes=boxes)
        embeddings = model.encode(windows)
        logits, iou = model.decode(embeddings, boxes=boxes.flatten(0, 1))
    assert embeddings.shape == (6, 32, 2, 2)
    assert torch.equal(out.logits.flatten(0, 1), logits)
    assert torch.equal(out.iou.flatten(0, 1), iou)


def test_each_slice_is_decoded_with_its_own_prompts():
    model, given = random_model(), {name: tensor.flatten(0, 1) for name, tensor in prompts().items()}
    boxes, points, labels, masks = given["boxes"], given["points"], given["point_labels"].clone(), given["masks"]
    boxes[[0, 3]] = torch.nan
    labels[:2] = -1
    labels[4, 1] = -1
    masks[[0, 1, 2, 4]] = torch.nan
    with torch.no_grad():
        embeddings = model.encode(random_windows())
        logits, iou = model.decode_each(embeddings, boxes, points, labels, masks)
        alone = [
            model.decode(embeddings[:1]),
            model.decode(embeddings[1:2], boxes=boxes[1:2]),
            model.decode(embeddings[2:3], points[2:3], labels[2:3], boxes[2:3]),
            model.decode(embeddings[3:4], points[3:4], labels[3:4], masks=masks[3:4]),
            model.decode(embeddings[4:5], points[4:5, :1], labels[4:5, :1], boxes[4:5]),
            model.decode(embeddings[5:], points[5:], labels[5:], boxes[5:], masks[5:]),
        ]
        without_masks, _ = model.decode_each(embeddings, boxes, points, labels)
    torch.testing.assert_close(logits, torch.cat([one for one, _ in alone]), rtol=0, atol=1e-5)
    torch.testing.assert_close(iou, torch.cat([one for _, one in alone]), rtol=0, atol=1e-5)
    same = [torch.allclose(one, other, atol=1e-5) for one, other in zip(without_masks, logits, strict=True)]
    assert same == [True, True, True, False, True, False]


def test_a_batch_of_windows_is_its_windows_one_by_one():
    model, windows, given = random_model().double(), random_windows(3, dtype=torch.float64), prompts(3)
    given = {name: t.double() if t.is_floating_point() else t for name, t in given.items()}
    with torch.no_grad():
        together = model(windows, **given).logits
        alone = [model(windows[i : i + 1], **{k: t[i : i + 1] for k, t in given.items()}).logits for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "got"),
    [((1, 3, 3, 16, 16), "1, 3, 3, 16, 16"), ((1, 3, 1, 32, 32), "1, 3, 1, 32, 32"), ((3, 3, 32, 32), "3, 3, 32, 32")],
)
def test_windows_of_another_shape_are_refused(shape, got):
    message = rf"^windows: expected windows of shape \[B, S, 3, 32, 32\], got \[{got}\]$"
    with without_type_checks(), pytest.raises(ConfigError, match=message):
        random_model()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("boxes", (6, 4), "2, 3, 4"),
        ("boxes", (2, 3, 1, 4), "2, 3, 4"),
        ("points", (2, 3, 2), "2, 3, P, 2"),
        ("points", (1, 3, 2, 2), "2, 3, P, 2"),
        ("point_labels", (2, 3, 5), "2, 3, 2"),
        ("masks", (2, 3, 1, 32, 32), "2, 3, 1, 8, 8"),
        ("masks", (2, 3, 8, 8), "2, 3, 1, 8, 8"),
    ],
)
def test_prompts_of_another_shape_are_refused(name, shape, expected):
    given = prompts()
    given[name] = torch.zeros(shape, dtype=given[name].dtype)
    got = ", ".join(map(str, shape))
    with (
        without_type_checks(),
        pytest.raises(ConfigError, match=rf"^{name}: expected the shape \[{expected}\], got \[{got}\]$"),
    ):
        random_model()(random_windows(), **given)


@pytest.mark.parametrize("name", ["points", "point_labels"])
def test_points_and_their_labels_go_together(name):
    with pytest.raises(ConfigError, match=r"^points: points and point_labels require each other; one of them"):
        random_model()(random_windows(), **{name: prompts()[name]})


def test_trained_names_are_fact_adapters_prompt_encoder_and_decoder():
    model = Masam(SPEC)
    encoder_names = {name for name in model.trained_names() if name.startswith("image_encoder.")}
    parts = ("norm.weight", "norm.bias", "down.weight", "conv.weight", "conv.bias", "up.weight")
    assert encoder_names == {f"image_encoder.fact.{name}" for name in ("u", "v", "sigma_q", "sigma_v")} | {
        f"image_encoder.blocks.{i}.adapter_{place}.{part}"
        for i in (0, 1)
        for place in ("attention", "mlp")
        for part in parts
    }
    rest = {name for name in model.state_dict() if not name.startswith("image_encoder.")}
    assert model.trained_names() == encoder_names | rest
    assert "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" in rest
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == model.trained_names() - {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"}


def test_everything_trains_when_asked_for():
    model = Masam(SPEC)
    model.train_everything()
    assert all(p.requires_grad for p in model.parameters())
    model.train_only_adaptation()
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {
        n for n, _ in model.named_parameters() if n not in model.trained_names()
    }


def untouched(name, given):
    """Return whether a trained tensor gets no gradient (paper.md 1.3)."""
    if "iou_prediction_head" in name or "pe_layer" in name:
        return True
    if name.startswith("prompt_encoder.mask_downscaling"):
        return "masks" not in given
    return {
        **dict.fromkeys(POINTS, "points" not in given),
        **dict.fromkeys(CORNERS, "boxes" not in given),
        PADDING: "points" not in given,
        NO_MASK: "masks" in given,
    }.get(name, False)


@pytest.mark.parametrize(
    "names", [(), ("boxes",), ("points", "point_labels"), ("masks",), ("boxes", "points", "point_labels", "masks")]
)
@pytest.mark.parametrize("everything", [False, True])
def test_two_steps_change_what_trains_and_nothing_else(names, everything):
    model = random_model().train()
    if everything:
        model.train_everything()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = {name: prompt for name, prompt in prompts().items() if name in names}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(random_windows(), **given).logits.square().mean().backward()
        optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    learning = {name for name in model.trained_names() if not untouched(name, given)}
    if everything:
        learning |= {name for name in before if name not in model.trained_names()}
    assert changed == learning


def test_rank_zero_is_a_model_without_increments():
    model = random_model(replace(SPEC, fact_rank=0))
    with_fact = random_model()
    assert model.image_encoder.fact is None
    without = {name for name in with_fact.state_dict() if ".fact." not in name}
    assert set(model.state_dict()) == without
    assert model.trained_names() == with_fact.trained_names() & without
    with torch.no_grad():
        assert model(random_windows()).logits.shape == (2, 3, 3, 32, 32)


def test_adapters_initialised_with_zeros_change_nothing():
    torch.manual_seed(0)
    model = Masam(SPEC).eval()
    windows = random_windows()
    perturbed = model.encode(windows)
    model.zero_adapters()
    slices_apart = model.image_encoder(windows.flatten(0, 1), 1)
    assert torch.equal(model.encode(windows), slices_apart)
    assert not torch.allclose(perturbed, slices_apart)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (2, [[1, 0], [0, 1], [0.5, 0.5]]),
        (4, [[0.5, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0]]),
        (5, [[0.5, 0, 0, 0.5, 0], [0, 0.5, 0, 0, 0.5], [0, 0, 1, 0, 0]]),
    ],
)
def test_a_projection_starts_as_means_of_channels(channels, expected):
    projection = channel_projection(channels)
    assert torch.equal(projection.weight[..., 0, 0], torch.tensor(expected, dtype=torch.float32))
    assert not projection.bias.any()


@pytest.mark.parametrize(("channels", "wanted"), [(1, 3), (3, 3), (2, 2), (4, 4)])
def test_images_of_any_number_of_channels(channels, wanted):
    torch.manual_seed(0)
    model = Masam(replace(SPEC, image_channels=channels)).eval()
    images = torch.rand(1, 3, channels, 32, 32)
    windows = model.as_input(images)
    assert windows.shape[2] == model.spec.input_channels == wanted
    out = model(windows).logits
    assert out.shape == (1, 3, SPEC.num_channels, 32, 32)
    has_projection = channels not in (1, 3)
    assert (model.input_projection is not None) == has_projection
    assert ("input_projection.weight" in model.trained_names()) == has_projection
    if has_projection:
        assert model.input_projection.weight.requires_grad
        with pytest.raises(ConfigError, match=rf"expected windows of shape \[B, S, {channels}, 32, 32\]"):
            model(torch.rand(1, 3, 3 if channels == 2 else 2, 32, 32))
    else:
        # One channel is repeated as a grey image.
        assert channels == 3 or torch.equal(windows[:, :, 0], windows[:, :, 2])


def encoder_additions(spec):
    """The parts of the encoder that are not SAM's."""
    names = {name for name in Masam(spec).trained_names() if name.startswith("image_encoder.")}
    return {name.removeprefix("image_encoder.").rsplit(".", 1)[0].removesuffix(".norm") for name in names} - {
        f"blocks.{i}.adapter_{place}.{part}"
        for i in range(spec.sam.depth)
        for place in ("attention", "mlp")
        for part in ("down", "conv", "up")
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"fact", *(f"blocks.{i}.adapter_{place}" for i in (0, 1) for place in ("attention", "mlp"))}),
        (
            {"increments": "lora", "adapter_places": "attention"},
            {"lora", "blocks.0.adapter_attention", "blocks.1.adapter_attention"},
        ),
        ({"adapter_places": "mlp", "adapter_blocks": (1,)}, {"fact", "blocks.1.adapter_mlp"}),
        ({"adapter_places": "none"}, {"fact"}),
        ({"adapter_blocks": ()}, {"fact"}),
        ({"fact_blocks": (), "adapter_blocks": ()}, set()),
        ({"fact_rank": 0, "increments": "lora", "adapter_places": "none"}, set()),
    ],
)  # fmt: skip
def test_the_spec_chooses_increments_and_adapters(change, expected):
    spec = replace(SPEC, **change)
    assert encoder_additions(spec) == expected
    model = random_model(spec)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == model.trained_names() - {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"}
    with torch.no_grad():
        assert model(random_windows()).logits.shape == (2, 3, 3, 32, 32)


@pytest.mark.parametrize("kind", ["fact", "lora"])
def test_increments_of_some_blocks_are_those_of_all_with_the_others_zero(kind):
    some = random_model(replace(SPEC, increments=kind, fact_blocks=(1,)))
    whole = random_model(replace(SPEC, increments=kind))
    state = some.state_dict()
    for name, tensor in list(state.items()):
        if tensor.ndim == 3 and name.startswith(f"image_encoder.{kind}."):
            state[name] = torch.cat([torch.zeros_like(tensor), tensor])
    whole.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(some(random_windows()).logits, whole(random_windows()).logits, rtol=1e-5, atol=1e-5)


def test_slices_beyond_the_reach_of_adapters_have_no_effect():
    windows = random_windows(1, 6)
    moved = windows.clone()
    moved[:, 5] = 0
    for change, changed in (
        ({"adapter_depth_kernel": 1}, [5]),
        ({"adapter_places": "none"}, [5]),
        ({"adapter_places": "mlp", "adapter_blocks": (1,)}, [4, 5]),
        ({"adapter_places": "mlp", "adapter_blocks": (1,), "adapter_dilation": 3}, [2, 5]),
        ({"adapter_places": "mlp", "adapter_blocks": (1,), "adapter_depth_kernel": 5}, [3, 4, 5]),
    ):
        spec = replace(SPEC, **change)
        model = random_model(spec).double()
        with torch.no_grad():
            before, after = model(windows.double()).logits, model(moved.double()).logits
        differs = (before - after).abs().flatten(2).amax(dim=2)[0] > 1e-9
        assert differs.nonzero().flatten().tolist() == changed, change
        assert spec.depth_reach == (5 - min(changed)), change


def test_sams_decoder_ends_at_a_quarter_and_is_resized_bilinearly():
    model = random_model(replace(SPEC, decoder="sam", image_size=48))
    stages = {name: tuple(t.shape) for name, t in model.state_dict().items() if "output_upscaling" in name}
    assert stages == {
        "mask_decoder.output_upscaling.0.weight": (32, 8, 2, 2),
        "mask_decoder.output_upscaling.0.bias": (8,),
        "mask_decoder.output_upscaling.1.weight": (8,),
        "mask_decoder.output_upscaling.1.bias": (8,),
        "mask_decoder.output_upscaling.3.weight": (8, 4, 2, 2),
        "mask_decoder.output_upscaling.3.bias": (4,),
    }
    windows = random_windows(1, 2, 48)
    with torch.no_grad():
        logits = model(windows).logits
        embeddings = model.encode(windows)
        sparse, dense = model.prompt_encoder(2, None, None, None, None)
        quarter, _ = model.mask_decoder(embeddings, model.prompt_encoder.dense_positions(), sparse, dense)
    assert quarter.shape == (2, 3, 12, 12)
    resized = torch.nn.functional.interpolate(quarter, (48, 48), mode="bilinear", align_corners=False)
    assert torch.equal(logits[0], resized)


def test_the_decoder_alone_trains_when_asked_for():
    model = Masam(SPEC)
    model.train_only_decoder()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if not name.startswith("image_encoder.")
    }


def test_halved_frozen_layers_compute_the_same_in_bf16():
    whole, halved = random_model(), random_model()
    before = {name: tensor.clone() for name, tensor in halved.state_dict().items()}
    halved.halve_frozen()
    dtypes = {name for name, tensor in halved.state_dict().items() if tensor.dtype == torch.bfloat16}
    linear = ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2")
    expected = {f"image_encoder.blocks.{i}.{layer}.weight" for i in (0, 1) for layer in linear}
    assert dtypes == expected | {f"image_encoder.{name}.weight" for name in ("patch_embed.proj", "neck.0", "neck.2")}
    assert all(torch.equal(before[name], t) for name, t in halved.state_dict().items() if name not in dtypes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = [model(random_windows()).logits for model in (whole, halved)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.float().square().sum().backward()
    for (name, one), other in zip(whole.named_parameters(), halved.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        assert one.grad is None or torch.equal(one.grad, other.grad), name
