import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_io_pytorch_file import Bomb
from tiny import LABELS, SAM, random_model, random_windows, randomise

from masam.errors import ConfigError, InputError, ModelError
from masam.io.tensors import read_tensors, write_tensors
from masam.model.sam import Sam
from masam.model.sizes import SIZES
from masam.plan import Plan
from masam.preprocess.intensity import Window
from masam.weights import ModelCard, build_masam, describe, load, load_reference, save

GOLDEN = Path(__file__).parent.parent / "golden"
TINY = replace(SAM, name="vit_t", decoder_heads=2)
PLAN = Plan(
    name="tiny", modality="CT", slice_axis="axial", intensity=Window(low=-100, high=200), window=3, image_size=32,
    labels=LABELS,
)  # fmt: skip


@pytest.fixture
def sam_file(tmp_path, monkeypatch):
    """A SAM of the smallest size, which is made yet smaller."""
    monkeypatch.setitem(SIZES, "vit_t", TINY)
    path = tmp_path / "sam_vit_t.pth"
    torch.save(randomise(Sam(TINY, 64), seed=4).state_dict(), path)
    return path


def build(sam_checkpoint=None, seed=0):
    torch.manual_seed(seed)
    return build_masam(
        "vit_t", num_classes=2, image_size=32, window=3, fact_rank=3, adapter_channels=6, sam_checkpoint=sam_checkpoint
    )


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same_state(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def shake(model):
    """Change what training changes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.1
    return model


def test_a_model_is_built_on_sams_weights(sam_file):
    model = build(sam_file)
    state = torch.load(sam_file, weights_only=True)
    name = "image_encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(model.state_dict()[name], state[name])
    assert (model.spec.sam, model.spec.num_classes, model.spec.fact_dropout) == (TINY, 2, 0.1)
    assert model.card == ModelCard(base_sha256=sha256(sam_file))
    assert not model.get_parameter(name).requires_grad


def test_a_model_is_built_on_nothing(sam_file):
    model = build()
    assert model.card == ModelCard()
    with pytest.raises(ConfigError, match=r"^size: expected a model size of"):
        build_masam("vit_x")
    with pytest.raises(ConfigError, match=r"^image_size: expected a multiple of 16 pixels, got 100$"):
        build_masam("vit_t", image_size=100)


def test_a_sam_of_another_size_is_refused(sam_file, monkeypatch):
    monkeypatch.setitem(SIZES, "vit_b", replace(SIZES["vit_b"], decoder_heads=2))
    message = (
        r"sam_vit_t.pth: expected the weights of vit_b \(12 blocks of width 768\), the file holds vit_t \(2 blocks of "
        r"width 16\); give the file of vit_b, or build vit_t$"
    )
    with pytest.raises(ModelError, match=message):
        build_masam("vit_b", image_size=64, sam_checkpoint=sam_file)


def test_round_trip_without_a_base_holds_everything(tmp_path, sam_file):
    model = shake(build())
    model.card = ModelCard(PLAN, None, {"steps": 7, "validation_dice": 0.5})
    save(tmp_path / "run" / "model.safetensors", model)
    for path in (tmp_path / "run", str(tmp_path / "run"), tmp_path / "run" / "model.safetensors"):
        loaded = load(path)
        assert same_state(model, loaded)
        assert loaded.spec == model.spec
        assert loaded.card == model.card
        assert not loaded.training
    with torch.no_grad():
        windows = random_windows()
        assert torch.equal(model.eval()(windows).logits, loaded(windows).logits)


def test_round_trip_on_a_base_holds_what_was_trained(tmp_path, sam_file):
    model, path = shake(build(sam_file)), tmp_path / "model.safetensors"
    model.card = ModelCard(PLAN, model.card.base_sha256, {})
    save(path, model)
    assert set(load_file(path)) == model.trained_names()
    loaded = load(path, sam_file)
    assert same_state(model, loaded)
    assert loaded.card == model.card
    # A copy under another name is the same file.
    copy = tmp_path / "copy.pth"
    copy.write_bytes(sam_file.read_bytes())
    assert same_state(model, load(path, str(copy)))


def test_the_base_is_asked_for_by_its_hash(tmp_path, sam_file):
    path = tmp_path / "model.safetensors"
    save(path, build(sam_file))
    wanted = f"the SAM file of vit_t with SHA-256 {sha256(sam_file)}"
    message = f"model.safetensors: the model stands on {wanted}; give that file with --sam-checkpoint$"
    with pytest.raises(ModelError, match=message):
        load(path)
    other = tmp_path / "other.pth"
    torch.save(randomise(Sam(TINY, 64), seed=5).state_dict(), other)
    message = f"other.pth: expected {wanted}, got a file with SHA-256 {sha256(other)}; give the right file$"
    with pytest.raises(ModelError, match=message):
        load(path, other)
    with pytest.raises(InputError, match=r"nothing.pth: expected a file, got none"):
        load(path, tmp_path / "nothing.pth")


def test_a_trained_encoder_is_in_the_file(tmp_path, sam_file):
    model, path = build(sam_file), tmp_path / "model.safetensors"
    model.train_everything()
    shake(model)
    save(path, model)
    loaded = load(path)
    assert same_state(model, loaded)
    assert loaded.card.base_sha256 is None


def test_a_model_without_a_card_can_be_saved(tmp_path):
    model = random_model()
    save(tmp_path / "model.safetensors", model)
    assert same_state(model, load(tmp_path / "model.safetensors"))


def test_the_file_says_what_it_is(tmp_path, sam_file):
    path = tmp_path / "model.safetensors"
    model = build(sam_file)
    model.card = ModelCard(PLAN, model.card.base_sha256, {"steps": 7})
    save(path, model)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["masam"])
    assert header["format_version"] == 1
    assert header["plan"]["labels"] == LABELS
    assert header["spec"] == json.loads(json.dumps(asdict(model.spec)))
    facts = describe(tmp_path / "model.safetensors")
    assert (facts["size"], facts["num_classes"], facts["classes"]) == ("vit_t", 2, LABELS)
    assert facts["encoder"] == f"SAM file {sha256(sam_file)}"
    assert facts["values_in_file"] == sum(tensor.numel() for tensor in load_file(path).values())


@pytest.mark.parametrize("where", ["header", "tensors"])
def test_flipped_bits_are_seen(tmp_path, where):
    path = tmp_path / "model.safetensors"
    save(path, random_model())
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    start, stop = (8, header) if where == "header" else (header, len(whole))
    for position in torch.linspace(start, stop - 1, 40).long().tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model.safetensors: "):
            load(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="expected a safetensors file, it cannot be read"):
        load(path)


def rewrite(path, change):
    """Write a model's file anew, with a right hash but other metadata."""
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata["masam"])
    change(header)
    write_tensors(path, tensors, {"masam": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda h: h.update(format_version=2),
            "the file has format version 2, this masam reads version 1; update masam",
        ),
        (lambda h: h.pop("plan"), "the file has format version 1"),
        (lambda h: h.pop("format_version"), "expected a model that masam has written, its metadata are missing"),
        (lambda h: h["spec"].pop("num_classes"), "expected the numbers of a model in the metadata"),
        (lambda h: h["spec"].update(surprise=1), "expected the numbers of a model in the metadata"),
        (lambda h: h["spec"]["sam"].pop("global_blocks"), "expected the numbers of a model in the metadata"),
        (lambda h: h["spec"].update(fact_rank=4), r"image_encoder.fact.u has shape \(3, 16\), expected \(4, 16\)"),
        (lambda h: h["spec"]["sam"].update(depth=1), "tensors do not fit the model: unexpected image_encoder.blocks.1"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(tmp_path, change, message):
    path = tmp_path / "model.safetensors"
    save(path, random_model())
    rewrite(path, change)
    with pytest.raises(ModelError, match=message):
        load(path)


def test_other_safetensors_are_no_model(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other.safetensors: expected a file that masam has written"):
        load(tmp_path / "other.safetensors")
    write_tensors(tmp_path / "state.safetensors", {"w": torch.ones(1)}, {})
    with pytest.raises(ModelError, match="expected a model that masam has written, its metadata are missing"):
        load(tmp_path / "state.safetensors")


def test_a_model_with_numbers_that_are_not_finite_is_refused(tmp_path):
    model = random_model()
    with torch.no_grad():
        model.mask_decoder.iou_token.weight[0, 0] = torch.nan
    save(tmp_path / "model.safetensors", model)
    with pytest.raises(
        ModelError, match=r"1 tensors do not fit the model: mask_decoder.iou_token.weight holds values that"
    ):
        load(tmp_path / "model.safetensors")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model.safetensors: expected a file, got none"):
        load(tmp_path)


def test_the_official_model_loads_in_one_call():
    model = load_reference(GOLDEN / "sam_tiny_256.pth", str(GOLDEN / "masam_tiny_96_adapter.pth"), 96, decoder_heads=4)
    expected = load_file(GOLDEN / "masam_tiny_96_expected.safetensors")
    with torch.no_grad():
        out = model(expected["windows"][:, :, None].expand(-1, -1, 3, -1, -1))
    logits = expected["low_res_logits"]
    assert (out.logits.flatten(0, 1) - logits).abs().max() <= 1e-4 * logits.abs().max()
    assert not model.training
    assert model.card.base_sha256 == sha256(GOLDEN / "sam_tiny_256.pth")
    assert (model.spec.num_classes, model.spec.image_size, model.spec.fact_rank) == (3, 96, 4)


def test_the_official_model_survives_our_format(tmp_path):
    sam = GOLDEN / "sam_tiny_256.pth"
    model = load_reference(sam, GOLDEN / "masam_tiny_96_adapter.pth", 96, decoder_heads=4)
    save(tmp_path / "model.safetensors", model)
    assert same_state(model, load(tmp_path / "model.safetensors", sam))


def test_the_official_files_in_the_wrong_places_are_told_apart():
    sam, adapter = GOLDEN / "sam_tiny_256.pth", GOLDEN / "masam_tiny_96_adapter.pth"
    with pytest.raises(ModelError, match=r"masam_tiny_96_adapter.pth: expected a tensor image_encoder.pos_embed"):
        load_reference(adapter, sam, 96)
    with pytest.raises(ModelError, match=r"sam_tiny_256.pth: expected a tensor image_encoder.FacTu.weight with 2 axes"):
        load_reference(sam, sam, 96, decoder_heads=4)


def test_an_official_adapter_of_another_backbone_names_both(sam_file):
    message = (
        "masam_tiny_96_adapter.pth: the adapter belongs to an encoder of 4 blocks of width 48, "
        r"the SAM file holds one of 2 blocks of width 16 \(vit_t\)"
    )
    with pytest.raises(ModelError, match=message):
        load_reference(sam_file, GOLDEN / "masam_tiny_96_adapter.pth", 96, decoder_heads=2)


def test_an_official_adapter_with_faults_lists_them(tmp_path):
    adapter = torch.load(GOLDEN / "masam_tiny_96_adapter.pth", weights_only=True)
    del adapter["mask_decoder.iou_token.weight"]
    adapter["mask_decoder.surprise"] = torch.ones(1)
    # The architecture is read off the SAM file where it can be, so this one is missing and nothing else changes.
    path = tmp_path / "adapter.pth"
    torch.save(adapter, path)
    with pytest.raises(
        ModelError, match=r"adapter.pth: expected a tensor mask_decoder.iou_token.weight with 2 axes, got none"
    ):
        load_reference(GOLDEN / "sam_tiny_256.pth", path, 96, decoder_heads=4)
    adapter["mask_decoder.iou_token.weight"] = torch.full((1, 64), torch.nan)
    del adapter["prompt_encoder.no_mask_embed.weight"]
    torch.save(adapter, path)
    message = (
        "adapter.pth: 3 tensors do not fit the model: missing prompt_encoder.no_mask_embed.weight, "
        "unexpected mask_decoder.surprise, mask_decoder.iou_token.weight holds values that are not finite$"
    )
    with pytest.raises(ModelError, match=message):
        load_reference(GOLDEN / "sam_tiny_256.pth", path, 96, decoder_heads=4)


def test_code_in_a_checkpoint_does_not_run(tmp_path, sam_file):
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save({**torch.load(sam_file, weights_only=True), "bomb": Bomb(canary)}, path)
    for call in (
        lambda: build(path),
        lambda: load_reference(path, path),
        lambda: load_reference(GOLDEN / "sam_tiny_256.pth", path, 96),
    ):
        with pytest.raises(ModelError, match=r"evil.pth: .* it could run code"):
            call()
    assert not canary.exists()


def test_a_truncated_checkpoint_is_refused(tmp_path, sam_file):
    path = tmp_path / "cut.pth"
    path.write_bytes(sam_file.read_bytes()[: sam_file.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"cut.pth: "):
        build(path)
