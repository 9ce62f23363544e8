from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny import LABELS, random_windows, randomise, write_dataset
from training_runs import MODEL, PLAN, TINY, StopAt, assert_same_run, config

from masam.cases.folder import read_dataset
from masam.errors import ConfigError, InputError, ModelError, StoppedError
from masam.labels import LabelScheme
from masam.model.sam import Sam
from masam.model.sizes import SIZES
from masam.training.initial_model import build_model, match_classes, plan_to_continue, require_start
from masam.training.run import train
from masam.weights.model_file import build_masam, load, save

CPU = torch.device("cpu")
FOUR = {"background": 0, "new": 2, "ball": 1, "box": 4}
"""The classes of PLAN and one between them."""


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch):
    monkeypatch.setitem(SIZES, "vit_t", TINY)


@pytest.fixture
def sam(tmp_path):
    path = tmp_path / "sam.pth"
    torch.save(randomise(Sam(TINY, 64), seed=4).state_dict(), path)
    return path


@pytest.fixture
def trained(tmp_path, sam):
    """A trained model of PLAN's classes that stands on a SAM file."""
    torch.manual_seed(3)
    model = build_masam(
        "vit_t", 2, 32, 3, fact_rank=2, adapter_channels=4, sam_checkpoint=sam, increments="lora", adapter_places="mlp"
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in model.trained_names():
                parameter += 0.05 * torch.randn_like(parameter)
    model.card = replace(model.card, plan=PLAN, training={"steps": 9}, licence="MIT")
    path = tmp_path / "trained.safetensors"
    save(path, model)
    return path


def settings(init, sam=None, **changes):
    """A configuration that starts from a model; the fixture's other numbers are left out."""
    model = {"init": str(init), "sam_checkpoint": None if sam is None else str(sam), **changes.pop("model", {})}
    return config(model=model, **changes)


def build(config, plan=PLAN):
    return build_model(config, plan, CPU)


def test_a_run_starts_from_a_trained_model_of_the_same_classes(trained, sam):
    earlier, model = load(trained, sam), build(settings(trained, sam))
    assert model.spec == earlier.spec
    ours, theirs = earlier.state_dict(), model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert model.card.base == earlier.card.base
    assert (model.card.licence, set(model.card.training)) == ("MIT", {"started_from"})
    assert model.card.training["started_from"]["classes"] == ["ball", "box"]
    assert {name for name, p in model.named_parameters() if p.requires_grad} <= model.trained_names()


def test_a_new_class_is_added_by_its_name_and_old_logits_stay_bit_for_bit(trained, sam):
    earlier = load(trained, sam)
    # The new class lies between the old ones, whose values may differ, too: names count.
    plan = PLAN.model_copy(update={"labels": {"background": 0, "ball": 3, "new": 5, "box": 9}, "window": 4})
    model = build(settings(trained, sam), plan).eval()
    assert (model.spec.num_classes, model.spec.class_groups, model.spec.window) == (3, ((0, 1, 3), (2,)), 4)
    with torch.no_grad():
        before, after = earlier(random_windows()).logits, model(random_windows()).logits
    assert torch.equal(after[:, :, [0, 1, 3]], before)
    assert not after[:, :, 2].any()


def test_classes_are_matched_by_name():
    old = LabelScheme.from_mapping(LABELS)
    assert match_classes(old, LabelScheme.from_mapping(FOUR)) == (0, 1, None, 2)
    assert match_classes(old, LabelScheme.from_mapping({"tissue": 0, "box": 1, "ball": 2})) == (0, 2, 1)
    message = (
        r"^model: the model to start from has the classes ball, box, the data set ball, Box, cube: box cannot be "
        r"removed or renamed; name the classes in dataset.json as the model does$"
    )
    scheme = LabelScheme.from_mapping({"background": 0, "ball": 1, "Box": 2, "cube": 3})
    with pytest.raises(ConfigError, match=message):
        match_classes(old, scheme, "model")


@pytest.mark.parametrize(
    ("changes", "plan", "message"),
    [
        ({"model": {"fact_rank": 5}}, {}, "model.fact_rank: expected 2, that of the model to start from, got 5; leave"),
        ({"model": {"increments": "lora", "decoder": "sam"}}, {}, "model.decoder: expected progressive, that of"),
        ({"model": {"adapter_zero_start": True}}, {}, "model.adapter_zero_start: expected False, that of the model"),
        ({"model": {"size": "vit_b"}}, {}, "model.size: expected vit_t, that of the model to start from, got vit_b"),
        ({}, {"image_size": 64}, "image_size: the plan has 64, the model to start from 32; give no --plan, so that"),
        ({}, {"channels": ("a", "b")}, "channels: the plan has 2, the model to start from 1; give no --plan"),
        ({}, {"labels": {"background": 0, "ball": 1}}, "has the classes ball, box, the data set ball: box cannot"),
    ],
)
def test_settings_that_contradict_the_initial_model_are_refused(trained, sam, changes, plan, message):
    with pytest.raises(ConfigError, match=message):
        require_start(settings(trained, sam, **changes), PLAN.model_copy(update=plan), CPU)
    # What is said again of the model is no contradiction.
    require_start(settings(trained, sam, model={"increments": "lora", "fact_rank": 2, "size": "vit_t"}), PLAN, CPU)


def test_an_initial_model_without_a_plan_is_refused(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "x.safetensors"
    save(path, build_masam("vit_t", 2, 32, 3, 2, 1.0, 4))
    with pytest.raises(ModelError, match=r"x.safetensors: the model carries no plan, so its classes have no names; im"):
        require_start(settings(path), PLAN, CPU)
    with pytest.raises(InputError, match=r"nothing.safetensors: expected a file, got none"):
        require_start(settings(tmp_path / "nothing.safetensors"), PLAN, CPU)


def test_an_initial_model_with_its_encoder_refuses_a_sam_file(tmp_path, trained, sam):
    model = load(trained, sam)
    save(tmp_path / "whole.safetensors", model, embed_base=True)
    with pytest.raises(
        ConfigError, match=r"^model.sam_checkpoint: the file of the model to start from contains the encoder; l"
    ):
        require_start(settings(tmp_path / "whole.safetensors", sam), PLAN, CPU)
    again = build(settings(tmp_path / "whole.safetensors"))
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())
    assert again.card.base is None


def test_decoder_training_needs_an_encoder_without_new_parts(trained, sam):
    model = build(settings(trained, sam, model={"trained": "decoder"}))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if not name.startswith("image_encoder.")
    }
    message = r"^model.trained: 'decoder' trains no increments and no adapters, .*, got 2 and both; set both, or start"
    with pytest.raises(ConfigError, match=message):
        build(config(model={**MODEL, "trained": "decoder"}))
    plain = build(config(model={**MODEL, "trained": "decoder", "fact_rank": 0, "adapter_places": "none"}))
    assert not [name for name in plain.trained_names() if name.startswith("image_encoder.")]


def test_missing_blocks_are_refused_before_data_are_prepared():
    for key in ("fact_blocks", "adapter_blocks"):
        with pytest.raises(ConfigError, match=rf"^{key}: expected all, or different .* from 0 to 1, got \(2,\)$"):
            require_start(config(model={**MODEL, key: [2]}), PLAN, CPU)


def test_settings_reach_the_model():
    model = {
        **MODEL, "increments": "lora", "fact_blocks": [1], "adapter_blocks": [0], "adapter_places": "attention",
        "adapter_depth_kernel": 5, "adapter_dilation": 2, "decoder": "sam",
    }  # fmt: skip
    spec = build(config(model=model, checkpointing=True)).spec
    assert spec.variations() == {
        key: tuple(v) if isinstance(v, list) else v for key, v in model.items() if key in spec.variations()
    }
    assert set(spec.variations()) == set(model) - set(MODEL)
    built = [build(config(checkpointing=on)).image_encoder.checkpointing for on in (True, False)]
    assert built == [True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            "^frozen_dtype: expected frozen layers and precision bf16, in which they compute, got precision float32",
        ),
        ({"precision": "fp16"}, "in which they compute, got precision fp16"),
        ({"precision": "bf16", "model": {**MODEL, "trained": "everything"}}, "compute, got trained everything; leave"),
    ],
)
def test_frozen_layers_in_bf16_need_frozen_layers_and_precision_bf16(changes, message):
    with pytest.raises(ConfigError, match=message):
        require_start(config(frozen_dtype="bf16", **changes), PLAN, CPU)


def test_frozen_layers_in_bf16_need_a_sam_file(sam):
    halved = {"frozen_dtype": "bf16", "precision": "bf16"}
    with pytest.raises(ConfigError, match=r"^frozen_dtype: expected an encoder in full precision in a SAM file"):
        require_start(config(**halved), PLAN, CPU)
    model = build(config(**halved, model={**MODEL, "sam_checkpoint": str(sam)}))
    assert model.state_dict()["image_encoder.blocks.0.mlp.lin1.weight"].dtype == torch.bfloat16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


def grown_dataset(tmp_path):
    return write_dataset(tmp_path / "grown", labels=FOUR)


def test_a_run_that_adds_a_class_from_start_to_prediction(tmp_path, trained, sam):
    data = grown_dataset(tmp_path)
    plan = plan_to_continue(str(trained), read_dataset(data))
    assert (plan.labels, plan.image_size, plan.intensity, plan.window) == (FOUR, 32, PLAN.intensity, 3)
    chosen = settings(trained, sam, epochs=1, window_depths=[2, 4], checkpointing=True)
    whole = train(data, tmp_path / "whole", chosen).folder
    model = load(whole.root, sam)
    assert (model.spec.num_classes, model.spec.class_groups) == (3, ((0, 1, 3), (2,)))
    assert model.card.plan.labels == FOUR
    facts = model.card.training
    assert (facts["steps"], facts["started_from"]["dataset"]) == (3, "tiny")
    assert set(load_file(whole.model)) == model.trained_names(), "the encoder stays in the SAM file"
    with pytest.raises(StoppedError):
        train(data, tmp_path / "stopped", chosen, progress=StopAt(2))
    assert_same_run(train(data, tmp_path / "stopped", resume=True).folder, whole)
    # A third run starts from the second.
    again = train(data, tmp_path / "again", settings(whole.root, sam, epochs=1, validate_every=0)).folder
    assert load(again.root, sam).spec.class_groups == model.spec.class_groups


def test_a_data_set_with_other_channels_is_refused(trained, dataset):
    folder = replace(read_dataset(dataset), channel_names=("T1", "T2"))
    message = r"the model to start from is for 1 image channels \(image\), the data set has 2 \(T1, T2\)$"
    with pytest.raises(ConfigError, match=message):
        plan_to_continue(str(trained), folder)
    one = plan_to_continue(str(trained), read_dataset(dataset))
    assert (one.channels, one.name, one.suggestion) == (PLAN.channels, "tiny", None)


def test_another_model_to_start_from_is_refused_on_resume(tmp_path, trained, sam, dataset):
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(dataset, out, settings(trained, sam, validate_every=0), progress=StopAt(2))
    kept = trained.read_bytes()
    other = load(trained, sam)
    with torch.no_grad():
        other.mask_decoder.iou_token.weight += 1
    save(trained, other)
    message = "trained.safetensors: the model that the run started from has changed since the run started; restore the"
    with pytest.raises(InputError, match=message):
        train(dataset, out, resume=True)
    trained.write_bytes(kept)
    assert train(dataset, out, resume=True).steps > 2


def test_a_run_with_bf16_layers_resumes_bit_for_bit(tmp_path, sam, dataset):
    model = {**MODEL, "sam_checkpoint": str(sam)}
    halved = config(precision="bf16", frozen_dtype="bf16", epochs=1, validate_every=0, model=model)
    whole = train(dataset, tmp_path / "whole", halved, plan=PLAN).folder
    with pytest.raises(StoppedError):
        train(dataset, tmp_path / "stopped", halved, plan=PLAN, progress=StopAt(2))
    assert_same_run(train(dataset, tmp_path / "stopped", resume=True).folder, whole)
    # Nor does keeping them in bf16 change a number, as the pass in bf16 rounds them.
    plain = config(precision="bf16", epochs=1, validate_every=0, model=model)
    assert_same_run(train(dataset, tmp_path / "plain", plain, plan=PLAN).folder, whole)
    assert {str(t.dtype) for t in load_file(whole.model).values()} == {"torch.float32"}
    name = "image_encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(load(whole.root, sam).state_dict()[name], torch.load(sam, weights_only=True)[name])


@pytest.mark.parametrize("window", [2, 4])
def test_windows_of_even_depth_train_and_predict(tmp_path, dataset, window):
    from masam.predict.predictor import Predictor

    plan = PLAN.model_copy(update={"window": window})
    result = train(dataset, tmp_path / "run", config(epochs=1, model={**MODEL, "trained": "everything"}), plan=plan)
    scan = dataset / "imagesTr" / "case0_0000.nii.gz"
    labels = [Predictor(result.folder.root, device="cpu", stride=stride).predict(scan) for stride in (1, window)]
    assert all(one.shape == (32, 32, 6) for one in labels)
    assert load(result.folder.root).spec.window == window
