import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import Bomb
from weight_files import PLAN, build, same_state, sha256, shake

from masam.errors import ConfigError, ModelError
from masam.model.added_classes import with_classes
from masam.predict.prompted import prompted_probabilities
from masam.preprocess.orientation import STORED, Orientation
from masam.prompts.projection import ClassPrompts, VolumePrompts
from masam.volume import Geometry
from masam.weights.model_file import build_masam, load, save
from masam.weights.official import LABELS, import_reference, load_reference, reference_plan, save_reference

GOLDEN = Path(__file__).parents[2] / "golden"
SAM_FILE = GOLDEN / "sam_tiny_256.pth"
ADAPTERS = [GOLDEN / "masam_tiny_96_adapter.pth", GOLDEN / "masam_tiny_bbox_96_adapter.pth"]


def golden_model(adapter=ADAPTERS[0]):
    return load_reference(SAM_FILE, str(adapter), 96, decoder_heads=4)


def test_the_official_model_loads_in_one_call():
    model = golden_model()
    expected = load_file(GOLDEN / "masam_tiny_96_expected.safetensors")
    with torch.no_grad():
        out = model(expected["windows"][:, :, None].expand(-1, -1, 3, -1, -1))
    logits = expected["low_res_logits"]
    assert (out.logits.flatten(0, 1) - logits).abs().max() <= 1e-4 * logits.abs().max()
    assert not model.training
    assert model.card.base.sha256 == sha256(SAM_FILE)
    assert (model.spec.num_classes, model.spec.image_size, model.spec.fact_rank) == (3, 96, 4)


def test_the_box_variant_loads_in_the_same_call():
    model = golden_model(ADAPTERS[1])
    expected = load_file(GOLDEN / "masam_tiny_bbox_96_expected.safetensors")
    with torch.no_grad():
        windows = expected["windows"][:, :, None].expand(-1, -1, 3, -1, -1)
        out = model(windows, boxes=expected["boxes"].reshape(2, 5, 4))
    logits = expected["low_res_logits"]
    assert (out.logits.flatten(0, 1) - logits).abs().max() <= 1e-4 * logits.abs().max()


def test_the_box_variant_predicts_through_the_same_path_as_every_model():
    """A 3D box gives a slice the same probabilities as the official code gives for the box's rectangle."""
    model = golden_model(ADAPTERS[1])
    expected = load_file(GOLDEN / "masam_tiny_bbox_96_expected.safetensors")
    windows = expected["windows"][:, :, None].expand(-1, -1, 3, -1, -1)
    boxes = expected["boxes"].reshape(2, 5, 4).numpy()
    logits = expected["low_res_logits"].unflatten(0, (2, 5))
    with torch.no_grad():
        for window, position in itertools.product(range(2), range(5)):
            # The golden file has a different box on each slice; a 3D box has one, so each slice is predicted alone.
            one = range(position, position + 1)
            prompts = VolumePrompts({1: ClassPrompts(one, boxes[window, position])}, 2)
            found = prompted_probabilities(model, model.encode(windows[window : window + 1]), range(5), prompts, one)
            wanted = logits[window, position].softmax(dim=0)
            assert (found[position] - wanted).abs().max() <= 1e-4


@pytest.mark.parametrize("adapter", ADAPTERS, ids=["automatic", "box"])
def test_official_round_trip_bit_for_bit(tmp_path, adapter):
    """Same names and tensors, also by way of our own format: models trained here run in the official code."""
    model = golden_model(adapter)
    save(tmp_path / "model.safetensors", model)
    save_reference(tmp_path / "epoch_1.pth", load(tmp_path / "model.safetensors", SAM_FILE))
    written = torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    original = torch.load(adapter, weights_only=True)
    assert list(written)[:4] == ["q_FacTs_000", "q_FacTs_001", "q_FacTs_002", "q_FacTs_003"]
    assert set(written) == set(original)
    for name, tensor in original.items():
        assert torch.equal(written[name], tensor), name
        assert written[name].dtype == tensor.dtype, name
    assert same_state(model, golden_model(tmp_path / "epoch_1.pth"))


def test_a_model_trained_here_survives_the_official_format(tmp_path, sam_file):
    model = shake(build(sam_file))
    save_reference(tmp_path / "epoch_9.pth", model)
    loaded = load_reference(sam_file, tmp_path / "epoch_9.pth", 32, decoder_heads=2)
    assert same_state(model, loaded)
    assert loaded.spec == replace(model.spec, window=5)  # the official file does not store the window


def test_a_trained_encoder_is_refused_by_the_official_format(tmp_path, sam_file):
    trained = build(sam_file)
    trained.train_everything()
    for model in (build(), trained):
        with pytest.raises(ModelError, match=r"expected a model with FacT, .* frozen encoder .*as safetensors$"):
            save_reference(tmp_path / "epoch_1.pth", model)
    assert [path.name for path in tmp_path.iterdir()] == ["sam_vit_t.pth"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"increments": "lora"}, "increments lora"),
        ({"fact_blocks": (0,)}, r"fact_blocks \(0,\)"),
        ({"adapter_places": "mlp", "decoder": "sam"}, "adapter_places mlp, decoder sam"),
        ({"adapter_depth_kernel": 5}, "adapter_depth_kernel 5"),
    ],
)
def test_other_options_are_refused_by_the_official_format(tmp_path, sam_file, changes, said):
    model = build_masam("vit_t", 2, 32, 3, 3, 1.0, 6, sam_file, **changes)
    message = f"^expected the paper's model, got one with {said}, which the official adapter format cannot store; exp"
    with pytest.raises(ModelError, match=message):
        save_reference(tmp_path / "epoch_1.pth", model)
    grown = with_classes(build(sam_file), (0, 1, None, 2))
    with pytest.raises(ModelError, match=r"got one with class_groups \(\(0, 1, 3\), \(2,\)\), which the official"):
        save_reference(tmp_path / "epoch_1.pth", grown)


def test_an_imported_model_carries_plan_and_licence():
    plan = replace_plan(image_size=96, labels={"background": 0, "a": 1, "b": 2, "c": 3})
    model = import_reference(SAM_FILE, ADAPTERS[0], image_size=96, plan=plan, licence="Apache-2.0")
    assert (model.card.plan, model.card.licence) == (plan, "Apache-2.0")
    assert import_reference(SAM_FILE, ADAPTERS[0], image_size=96).card.plan is None
    prostate = import_reference(SAM_FILE, ADAPTERS[1], image_size=96, trained_on="prostate").card.plan
    assert (prostate.image_size, prostate.labels) == (96, {"background": 0, "prostate": 1})


def replace_plan(**changes):
    return PLAN.model_copy(update=changes)


def test_a_plan_for_other_classes_is_refused():
    with pytest.raises(ModelError, match=r"the plan has 12 classes at 96 pixels, the model 3 at 96; give the plan"):
        import_reference(SAM_FILE, ADAPTERS[0], image_size=96, trained_on="btcv")
    with pytest.raises(ConfigError, match=r"^trained_on: expected one of btcv, prostate, pancreas, got 'amos'$"):
        import_reference(SAM_FILE, ADAPTERS[0], image_size=96, trained_on="amos")
    with pytest.raises(ConfigError, match=r"^plan: plan and trained_on exclude each other; give one of them$"):
        import_reference(SAM_FILE, ADAPTERS[0], image_size=96, trained_on="btcv", plan=PLAN)


@pytest.mark.parametrize(
    ("name", "classes", "rule"),
    [("btcv", 12, "window -200 250"), ("prostate", 1, "percentiles 0 99"), ("pancreas", 1, "window -50 200")],
)
def test_the_official_programs_preparation(name, classes, rule):
    plan = reference_plan(name)
    kind, low, high = rule.split()
    assert (plan.intensity.kind, plan.intensity.low, plan.intensity.high) == (kind, float(low), float(high))
    assert (plan.window_minmax, plan.window, plan.image_size, plan.slice_axis) == (True, 5, 512, "stored")
    assert plan.scheme.num_classes == classes
    assert [label.name for label in plan.scheme.foreground] == list(LABELS[name][1])


def test_stored_slices_are_turned_as_the_official_preprocessing_turns_them():
    volume = np.random.default_rng(0).normal(size=(4, 5, 3))
    for codes in ((1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)):
        view = Orientation.of(Geometry(np.diag([*codes, 1.0])), "stored")
        assert view is STORED
        slices = view.apply(volume)
        for index in range(3):
            expected = np.flip(np.rot90(volume[:, :, index], k=1, axes=(0, 1)), axis=1)
            np.testing.assert_array_equal(slices[index], expected)
        np.testing.assert_array_equal(view.invert(slices), volume)
    # Stored towards right, front and head, slices are the axial view.
    assert Orientation.of(Geometry(np.eye(4)), "axial") == STORED


def test_swapped_official_files_are_detected():
    with pytest.raises(
        ModelError, match=r"masam_tiny_96_adapter.pth: expected SAM weights, got an official MA-SAM adap"
    ):
        load_reference(ADAPTERS[0], SAM_FILE, 96)
    with pytest.raises(ModelError, match=r"sam_tiny_256.pth: expected an official MA-SAM adapter, got SAM weights;"):
        load_reference(SAM_FILE, SAM_FILE, 96, decoder_heads=4)


def test_an_official_adapter_of_another_backbone_names_both(sam_file):
    message = (
        "masam_tiny_96_adapter.pth: the adapter belongs to an encoder of 4 blocks of width 48, "
        r"the SAM file contains one of 2 blocks of width 16 \(vit_t\); use the SAM file of an encoder of width 48$"
    )
    with pytest.raises(ModelError, match=message):
        load_reference(sam_file, ADAPTERS[0], 96, decoder_heads=2)


def test_an_official_adapter_with_faults_lists_them(tmp_path):
    adapter = torch.load(ADAPTERS[0], weights_only=True)
    del adapter["mask_decoder.iou_token.weight"]
    del adapter["prompt_encoder.no_mask_embed.weight"]
    adapter["mask_decoder.surprise"] = torch.ones(1)
    adapter["mask_decoder.norm"] = adapter.pop("mask_decoder.transformer.norm_final_attn.weight")
    adapter["v_FacTs_002"] = torch.full((4, 4), torch.nan)
    path = tmp_path / "adapter.pth"
    torch.save(adapter, path)
    message = (
        "adapter.pth: 6 tensors do not fit the model; missing, so the file is incomplete: "
        "mask_decoder.iou_token.weight, mask_decoder.transformer.norm_final_attn.weight, "
        "prompt_encoder.no_mask_embed.weight; unexpected, no part of the model has this name: "
        "mask_decoder.norm, mask_decoder.surprise; not finite, so the file is damaged: "
        "image_encoder.fact.sigma_v$"
    )
    with pytest.raises(ModelError, match=message):
        load_reference(SAM_FILE, path, 96, decoder_heads=4)


def test_code_in_a_checkpoint_does_not_run(tmp_path, sam_file):
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save({**torch.load(sam_file, weights_only=True), "bomb": Bomb(canary)}, path)
    for call in (
        lambda: build(path),
        lambda: load_reference(path, path),
        lambda: load_reference(SAM_FILE, path, 96),
        lambda: load(path),
        lambda: load(GOLDEN / "model_v2.safetensors", path),
    ):
        with pytest.raises(ModelError, match=r"evil.pth: .* it could run code"):
            call()
    assert not canary.exists()


def test_a_truncated_checkpoint_is_refused(tmp_path, sam_file):
    path = tmp_path / "cut.pth"
    path.write_bytes(sam_file.read_bytes()[: sam_file.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"cut.pth: the file is incomplete, or not a zip archive"):
        build(path)


def test_the_official_file_is_a_plain_file_of_the_usual_mode(tmp_path):
    save_reference(tmp_path / "epoch_1.pth", golden_model())
    (tmp_path / "plain").write_bytes(b"x")
    modes = {(tmp_path / name).stat().st_mode for name in ("epoch_1.pth", "plain")}
    assert len(modes) == 1
