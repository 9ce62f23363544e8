import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import LABELS, SPEC, TINY, VARIED, random_model, random_windows, randomise
from weight_files import PLAN, build, same_state, sha256, shake

from masam.errors import ConfigError, InputError, ModelError
from masam.model.sam import Sam
from masam.model.sizes import SIZES
from masam.weights.card import Base, ModelCard
from masam.weights.model_file import build_masam, load, read_base, save
from masam.weights.tensors import content_sha256, read_header, read_tensors, write_tensors

GOLDEN = Path(__file__).parents[2] / "golden"


def test_a_model_is_built_on_sams_weights(sam_file):
    model = build(sam_file)
    state = torch.load(sam_file, weights_only=True)
    name = "image_encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(model.state_dict()[name], state[name])
    assert (model.spec.sam, model.spec.num_classes, model.spec.fact_dropout) == (TINY, 2, 0.1)
    assert model.card == ModelCard(base=read_base(sam_file)[1])
    assert model.card.base == Base("vit_t", sha256(sam_file), content_sha256(state), "sam_vit_t.pth")
    assert not model.get_parameter(name).requires_grad


def test_a_model_is_built_without_weights(sam_file):
    model = build()
    assert model.card == ModelCard()
    with pytest.raises(ConfigError, match=r"^size: expected a model size of"):
        build_masam("vit_x")
    with pytest.raises(ConfigError, match=r"^image_size: expected a multiple of 16 pixels, got 100$"):
        build_masam("vit_t", image_size=100)


def test_a_sam_of_another_size_is_refused(sam_file, monkeypatch):
    monkeypatch.setitem(SIZES, "vit_b", replace(SIZES["vit_b"], decoder_heads=2))
    message = (
        r"sam_vit_t.pth: expected the weights of vit_b \(12 blocks of width 768\), the file contains vit_t \(2 blocks "
        r"of width 16\); give the file of vit_b, or build vit_t$"
    )
    with pytest.raises(ModelError, match=message):
        build_masam("vit_b", image_size=64, sam_checkpoint=sam_file)


def test_round_trip_without_a_base_stores_all_tensors(tmp_path, sam_file):
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


def test_round_trip_with_a_base_stores_the_trained_tensors(tmp_path, sam_file):
    model, path = shake(build(sam_file)), tmp_path / "model.safetensors"
    model.card = replace(model.card, plan=PLAN, licence="CC-BY-4.0")
    save(path, model)
    assert set(load_file(path)) == model.trained_names()
    loaded = load(path, sam_file)
    assert same_state(model, loaded)
    assert loaded.card == model.card
    # A copy under another name is the same file.
    copy = tmp_path / "copy.pth"
    copy.write_bytes(sam_file.read_bytes())
    assert same_state(model, load(path, str(copy)))


def test_the_required_base_is_named_by_its_hash(tmp_path, sam_file):
    path = tmp_path / "model.safetensors"
    save(path, build(sam_file))
    wanted = rf"the SAM file of vit_t \(sam_vit_t.pth\) with SHA-256 {sha256(sam_file)}"
    message = f"model.safetensors: the model requires {wanted}; give that file with --sam-checkpoint$"
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
    assert loaded.card.base is None


def test_a_file_can_include_the_encoder(tmp_path, sam_file):
    model, path = shake(build(sam_file)), tmp_path / "model.safetensors"
    save(path, model, embed_base=True)
    loaded = load(path)
    assert same_state(model, loaded)
    assert loaded.card.base is None


def test_the_base_is_accepted_in_another_container(tmp_path, sam_file):
    model, path = shake(build(sam_file)), tmp_path / "model.safetensors"
    save(path, model)
    state = torch.load(sam_file, weights_only=True)
    save_file(state, tmp_path / "sam.safetensors")
    torch.save({"model": state, "epoch": 3}, tmp_path / "training.pth")
    for copy in ("sam.safetensors", "training.pth"):
        assert sha256(tmp_path / copy) != model.card.base.sha256
        assert same_state(model, load(path, tmp_path / copy))


def test_the_size_is_inferred_from_the_file(sam_file):
    torch.manual_seed(0)
    model = build_masam("auto", num_classes=2, image_size=32, fact_rank=3, adapter_channels=6, sam_checkpoint=sam_file)
    assert model.spec.sam == TINY
    golden = GOLDEN / "sam_tiny_256.pth"
    model = build_masam("auto", num_classes=2, image_size=96, fact_rank=3, adapter_channels=6, sam_checkpoint=golden)
    assert (model.spec.sam.name, model.spec.sam.embed_dim, model.spec.sam.depth) == ("custom", 48, 4)
    assert model.card.base.size == "custom"
    assert build_masam("auto", num_classes=1, image_size=32, adapter_channels=6).spec.sam.name == "vit_b"


def test_a_model_file_of_version_1_stays_readable():
    """With its base it still predicts as the official MA-SAM; the complete file has the same tensors."""
    model = load(GOLDEN / "model_v1.safetensors", GOLDEN / "sam_tiny_256.pth")
    expected = load_file(GOLDEN / "masam_tiny_96_expected.safetensors")
    with torch.no_grad():
        out = model(expected["windows"][:, :, None].expand(-1, -1, 3, -1, -1))
    logits = expected["low_res_logits"]
    assert (out.logits.flatten(0, 1) - logits).abs().max() <= 1e-4 * logits.abs().max()
    assert model.card.base == Base("custom", sha256(GOLDEN / "sam_tiny_256.pth"))
    assert model.card.plan.labels == {"background": 0, "liver": 1, "spleen": 2, "kidney": 3}
    assert (model.card.training["steps"], model.card.licence) == (7, None)
    assert same_state(load(GOLDEN / "model_v1_whole.safetensors"), random_model(seed=5))


def test_models_of_version_1_compare_the_hash_of_the_file_only(tmp_path):
    save_file(torch.load(GOLDEN / "sam_tiny_256.pth", weights_only=True), tmp_path / "sam.safetensors")
    wanted = "the SAM file of custom with SHA-256 81f112df3949fd3ebdea5eb54e3aea5ec4e4cda943778e130ef3905fc5a60e65"
    with pytest.raises(ModelError, match=rf"sam.safetensors: expected {wanted}, got a file with SHA-256"):
        load(GOLDEN / "model_v1.safetensors", tmp_path / "sam.safetensors")


def test_a_model_file_of_version_2_stays_readable():
    model = load(GOLDEN / "model_v2.safetensors", GOLDEN / "sam_tiny_256.pth")
    assert same_state(model, load(GOLDEN / "model_v1.safetensors", GOLDEN / "sam_tiny_256.pth"))
    assert model.card.base.file == "sam_tiny_256.pth"
    assert model.card.licence == "Apache-2.0"
    assert same_state(load(GOLDEN / "model_v2_whole.safetensors"), random_model(seed=5))


def test_a_model_file_of_version_3_stays_readable():
    model = load(GOLDEN / "model_v3.safetensors", GOLDEN / "sam_tiny_256.pth")
    earlier = load(GOLDEN / "model_v2.safetensors", GOLDEN / "sam_tiny_256.pth")
    assert same_state(model, earlier)
    assert (model.spec, model.card) == (earlier.spec, earlier.card)
    varied = load(GOLDEN / "model_v3_whole.safetensors")
    assert varied.spec == VARIED
    assert same_state(varied, random_model(VARIED, seed=5))


@pytest.mark.parametrize("version", ["1", "2"])
def test_models_of_earlier_versions_have_the_options_of_the_paper(version):
    assert load(GOLDEN / f"model_v{version}_whole.safetensors").spec == SPEC


def test_a_model_without_a_card_can_be_saved(tmp_path):
    model = random_model()
    save(tmp_path / "model.safetensors", model)
    assert same_state(model, load(tmp_path / "model.safetensors"))


def test_the_content_of_the_header(tmp_path, sam_file):
    path = tmp_path / "model.safetensors"
    model = build(sam_file)
    model.card = replace(model.card, plan=PLAN, training={"steps": 7}, licence="MIT")
    save(path, model)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["masam"])
    assert header["format_version"] == 3
    assert header["base"] == asdict(model.card.base)
    assert header["classes"] == [
        {"value": 0, "name": "background", "colour": [0, 0, 0]},
        {"value": 1, "name": "ball", "colour": [230, 159, 0]},
        {"value": 4, "name": "box", "colour": [86, 180, 233]},
    ]
    assert (header["licence"], header["training"]) == ("MIT", {"steps": 7})
    assert set(header["versions"]) == {"masam", "torch"}
    assert header["plan"]["labels"] == LABELS
    assert header["spec"] == json.loads(json.dumps(asdict(model.spec)))
    # Equal models have equal headers.
    save(tmp_path / "again.safetensors", model)
    assert read_header(tmp_path / "again.safetensors")[1] == read_header(path)[1]


@pytest.mark.parametrize("where", ["header", "tensors"])
def test_flipped_bits_are_detected(tmp_path, where):
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
    with pytest.raises(ModelError, match=r"cannot be read as a safetensors file"):
        load(path)


def test_round_trip_of_a_model_with_other_options(tmp_path, sam_file):
    model = random_model(replace(VARIED, sam=TINY))
    model.card = ModelCard(base=read_base(sam_file)[1])
    save(tmp_path / "whole.safetensors", model, embed_base=True)
    loaded = load(tmp_path / "whole.safetensors")
    assert loaded.spec == model.spec
    assert same_state(loaded, model)
    save(tmp_path / "model.safetensors", model)
    assert set(load_file(tmp_path / "model.safetensors")) == model.trained_names()
    assert load(tmp_path / "model.safetensors", sam_file).spec == model.spec


def test_sams_own_decoder_takes_all_matching_tensors_of_sam(sam_file):
    torch.manual_seed(0)
    model = build_masam("vit_t", 2, 32, 3, 3, 1.0, 6, sam_file, decoder="sam", increments="lora", adapter_places="none")
    theirs, ours = torch.load(sam_file, weights_only=True), model.state_dict()
    fresh = ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head")
    shared = [
        name for name, tensor in theirs.items()
        if not any(part in name for part in fresh) and tensor.shape == ours[name].shape
    ]  # fmt: skip
    assert {name.split(".")[2] for name in shared if "output_upscaling" in name} == {"0", "1", "3"}
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)


def rewrite(path, change):
    """Rewrite a model file with other metadata and a valid hash."""
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata["masam"])
    change(header)
    write_tensors(path, tensors, {"masam": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda h: h.update(format_version=4),
            "the file has format version 4, this masam reads versions 1 to 3; update masam",
        ),
        (lambda h: h.pop("plan"), "the metadata lack plan; copy the file again, or export it again"),
        (lambda h: (h.pop("base"), h.pop("licence")), "the metadata lack base, licence"),
        (lambda h: h.update(base={"surprise": 1}), r"expected plan, base and training in the metadata \("),
        (
            lambda h: h.update(base={"size": "vit_t", "sha256": 3}),
            r"expected plan, base and training in the metadata \(",
        ),
        (lambda h: h.update(licence=3), r"expected plan, base and training in the metadata \("),
        (lambda h: h["spec"].update(fact_scale=float("nan")), "fact_scale: expected a finite number, got nan"),
        (lambda h: h.update(training=3), r"expected plan, base and training in the metadata \("),
        (lambda h: h.update(plan={"name": 1}), r"expected plan, base and training in the metadata \(.*missing"),
        (lambda h: h["spec"].update(image_size=2**40), "image_size: expected an integer from 1 to 8192, got 1099"),
        (
            lambda h: h["spec"]["sam"].update(depth=10**9),
            "depth: expected an integer from 1 to 256, got 1000000000",
        ),
        (lambda h: h["spec"]["sam"].update(embed_dim=15), "num_heads: expected widths divisible by the number"),
        (lambda h: h.pop("format_version"), "expected a model written by masam, its metadata are missing"),
        (lambda h: h["spec"].pop("num_classes"), "expected a valid specification in the metadata"),
        (lambda h: h["spec"].update(surprise=1), "expected a valid specification in the metadata"),
        (lambda h: h["spec"]["sam"].pop("global_blocks"), "expected a valid specification in the metadata"),
        (lambda h: h["spec"].update(fact_blocks=[2]), "fact_blocks: expected all, or different block indices from 0"),
        (lambda h: h["spec"].update(fact_blocks={"0": 1}), r"expected a valid specification in the metadata \("),
        (lambda h: h["spec"].update(adapter_depth_kernel=10**9), "adapter_depth_kernel: expected an integer from"),
        (lambda h: h["spec"].update(adapter_places=["both"]), r"expected a valid specification in the metadata \("),
        (lambda h: h["spec"].update(decoder="sam"), r"has this name: mask_decoder.output_upscaling.\{4, 6-7, 9\}.bias"),
        (lambda h: h["spec"].update(class_groups=[[0, 1]]), "class_groups: expected each channel from 0 to 2 in one"),
        (lambda h: h["spec"].update(class_groups=3), r"expected a valid specification in the metadata \("),
        (lambda h: h["spec"].update(increments="lora"), "missing, so the file is incomplete: image_encoder.lora.a_q"),
        (lambda h: h["spec"].update(fact_rank=4), r"image_encoder.fact.u has \(3, 16\), expected \(4, 16\)"),
        (
            lambda h: h["spec"]["sam"].update(embed_dim=2**16),
            r"expected \(65536,\)",
        ),
        (lambda h: h["spec"]["sam"].update(depth=1), "no part of the model has this name: image_encoder.blocks.1"),
    ],
)
def test_invalid_metadata_are_refused(tmp_path, change, message):
    path = tmp_path / "model.safetensors"
    save(path, random_model())
    rewrite(path, change)
    with pytest.raises(ModelError, match=message):
        load(path)


def test_other_safetensors_are_refused(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other.safetensors: expected a model written by masam, its metadata"):
        load(tmp_path / "other.safetensors")
    write_tensors(tmp_path / "state.safetensors", {"w": torch.ones(1)}, {})
    with pytest.raises(ModelError, match="expected a model written by masam, its metadata are missing"):
        load(tmp_path / "state.safetensors")
    message = r"adapter.pth: expected a model written by masam, got an official MA-SAM adapter; import it with masam"
    with pytest.raises(ModelError, match=message):
        load(GOLDEN / "masam_tiny_96_adapter.pth")
    message = r"sam_tiny_256.pth: expected a model .*, got SAM weights; give it with --sam-checkpoint"
    with pytest.raises(ModelError, match=message):
        load(GOLDEN / "sam_tiny_256.pth")


def test_a_model_with_numbers_that_are_not_finite_is_refused(tmp_path):
    model = random_model()
    with torch.no_grad():
        model.mask_decoder.iou_token.weight[0, 0] = torch.nan
    save(tmp_path / "model.safetensors", model)
    message = r"1 tensor does not fit the model; not finite, so the file is damaged: mask_decoder.iou_token.weight$"
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "model.safetensors")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model.safetensors: expected a file, got none"):
        load(tmp_path)


def test_a_projection_of_channels_is_trained_and_kept(tmp_path, sam_file):
    torch.manual_seed(0)
    model = build_masam(
        "vit_t", num_classes=2, image_size=32, window=3, fact_rank=3, adapter_channels=6, sam_checkpoint=sam_file,
        image_channels=2,
    )  # fmt: skip
    shake(model)
    save(tmp_path / "model.safetensors", model)
    loaded = load(tmp_path / "model.safetensors", sam_file)
    assert same_state(model, loaded)
    assert loaded.spec.image_channels == 2
    assert model.input_projection.weight.flatten()[0] != 1
