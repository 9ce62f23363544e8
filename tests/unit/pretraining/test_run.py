"""Pre-training runs: what they leave, and that they can be stopped and gone on with."""

import json
import shutil
import signal
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from tiny import TINY

import masam
from masam.errors import ConfigError, DivergedError, InputError, ModelError, StoppedError
from masam.export.identify import identify
from masam.model.sam import Sam
from masam.model.sizes import SIZES
from masam.pretraining import loop as loop_module
from masam.pretraining import objects as objects_module
from masam.pretraining import run as run_module
from masam.pretraining.config import PretrainConfig
from masam.pretraining.loop import PretrainLoop, normalised
from masam.pretraining.objects import held_out_objects, training_objects
from masam.pretraining.run import pretrain
from masam.pretraining.validate import score_prompts
from masam.reproducibility import is_half_size
from masam.runs.metrics import read_columns
from masam.weights.tensors import read_tensors

CONFIG = PretrainConfig(
    image_size=64, steps=6, batch_pictures=2, objects=2, rounds=2, validate_every=4, validation_pictures=3,
    half_size_share=0.5, device="cpu", seed=8,
)  # fmt: skip


@pytest.fixture(autouse=True)
def smallest(monkeypatch):
    monkeypatch.setitem(SIZES, "vit_t", TINY)


# Creating the pictures takes most of the time of a run; runs that differ in other things share them.
CACHED = cache(objects_module._make)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted."""
    out = tmp_path_factory.mktemp("pretrain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "vit_t", TINY)
        patch.setattr(objects_module, "_make", CACHED)
        return pretrain(out, CONFIG)


def weights_of(folder):
    return read_tensors(folder / "model.safetensors", ours=True)[0]


def assert_same(one, other):
    assert set(one) == set(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_objects_are_a_function_of_seed_and_step():
    first, again = (training_objects(CONFIG, 3) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.masks, again.masks)
    assert first.images.shape == (2, 3, 64, 64)
    assert first.masks.shape == (4, 64, 64)
    assert first.visible.shape == (2, 64, 64)
    assert first.masks.flatten(1).any(dim=1).all()
    assert not torch.equal(first.images, training_objects(CONFIG, 4).images)
    # Two steps of one picture are one step of two.
    single = CONFIG.changed({"batch_pictures": 1, "half_size_share": 0}, where="test")
    assert torch.equal(training_objects(single, 7).images[0], first.images[1])
    held_out = held_out_objects(CONFIG, range(6, 8))
    assert held_out.masks.shape == (2, 64, 64)
    assert not torch.equal(held_out.images, first.images)


def test_the_pictures_of_some_steps_have_half_the_side():
    for share, fewest, most in ((0.0, 0, 0), (0.5, 400, 600), (1.0, 1000, 1000)):
        assert fewest <= sum(is_half_size(CONFIG.seed, step, share) for step in range(1000)) <= most
    config = CONFIG.changed({"batch_pictures": 1}, where="test")
    for is_half, side in ((True, 32), (False, 64)):
        step = next(step for step in range(100) if is_half_size(config.seed, step, 0.5) == is_half)
        assert training_objects(config, step).images.shape[-1] == side


def test_large_objects_are_drawn_more_often():
    masks = np.zeros((2, 20, 20), bool)
    masks[0, :16, :16] = masks[1, 18:, 18:] = True  # 256 and 4 pixels: diameters of 16 and 2
    chosen = objects_module._choose(masks, 2000, np.random.Generator(np.random.Philox(0)))
    assert chosen[:, 0, 0].mean() == pytest.approx(16 / 18, abs=0.03)


def test_the_weights_of_a_run_can_be_used_as_a_sam_file(whole, tmp_path):
    folder = whole.folder.root
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.yaml", "last", "manifest.json", "metrics.csv", "model.safetensors", "tensorboard"
    ]  # fmt: skip
    assert set(weights_of(folder)) == set(Sam(TINY, 64).state_dict())
    described = identify(folder / "model.safetensors")
    assert described["kind"] == "SAM weights"
    assert described["size"] == "vit_t"
    model = masam.build_masam("auto", 2, 64, 3, 2, adapter_channels=4, sam_checkpoint=folder / "model.safetensors")
    name = "image_encoder.blocks.1.mlp.lin1.weight"
    assert torch.equal(model.state_dict()[name], weights_of(folder)[name])
    notes = json.loads(read_tensors(folder / "model.safetensors")[1]["masam_pretrain"])
    assert notes == {"made_of": "pictures made by formula", "steps": 6, "seed": 8, **whole.scores}
    assert PretrainConfig.from_yaml(folder / "config.yaml") == CONFIG


def test_the_log_has_every_step_and_the_scores(whole):
    columns = read_columns(whole.folder.metrics)
    assert columns["step"] == [4, 6]
    assert all(value > 0 for value in columns["loss"])
    assert [columns[name][-1] for name in whole.scores] == list(whole.scores.values())
    assert set(whole.scores) == {"miou_box", "miou_click", "miou_3_clicks"}
    assert all(0 <= value <= 1 for value in whole.scores.values())


@pytest.mark.parametrize(("stop_after", "number"), [(1, signal.SIGTERM), (5, signal.SIGINT)])
def test_a_stopped_run_resumes_bit_for_bit(whole, tmp_path, monkeypatch, stop_after, number):
    steps = PretrainLoop.steps

    def stopping(self):
        for report in steps(self):
            if report.step == stop_after:
                signal.raise_signal(number)
            yield report

    out = tmp_path / "run"
    monkeypatch.setattr(objects_module, "_make", CACHED)
    with monkeypatch.context() as patch:
        patch.setattr(PretrainLoop, "steps", stopping)
        with pytest.raises(StoppedError, match=rf"^stopped after step {stop_after} of 6, .*; continue with --resume$"):
            pretrain(out, CONFIG)
    result = pretrain(out, resume=True)
    assert result.scores == whole.scores
    assert_same(weights_of(out), weights_of(whole.folder.root))
    assert_same(*(read_tensors(run / "last/optimizer.safetensors")[0] for run in (out, whole.folder.root)))
    ours, theirs = (read_columns(run.metrics) for run in (result.folder, whole.folder))
    assert all(ours[name] == theirs[name] for name in ("step", "loss", "miou_box"))


def test_threads_change_nothing(whole, tmp_path):
    pretrain(tmp_path / "run", CONFIG.changed({"workers": 2}, where="test"))
    assert_same(weights_of(tmp_path / "run"), weights_of(whole.folder.root))


@pytest.mark.slow
def test_it_learns():
    config = CONFIG.changed({"steps": 25, "learning_rate": 3e-3, "rounds": 1}, where="test")
    torch.manual_seed(0)
    loop = PretrainLoop(Sam(TINY, 64), config, torch.device("cpu"))
    losses = [report.loss for report in loop.steps()]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_encoder_gets_both_ranges():
    sam = Sam(TINY, 64)
    images = torch.rand(2, 3, 64, 64)
    got = sam.image_encoder(normalised(sam, images, torch.tensor([True, False])))
    torch.testing.assert_close(got[:1], sam.image_encoder(images[:1]))
    torch.testing.assert_close(got[1:], sam.encode(images[1:] * 255))


def test_scores_are_deterministic():
    torch.manual_seed(0)
    sam, config = Sam(TINY, 64), CONFIG.changed({"validation_pictures": 1}, where="test")
    first, again = (score_prompts(sam, config, torch.device("cpu")) for _ in range(2))
    assert first == again


def test_persistent_nan_values_end_the_run_and_change_no_weights(monkeypatch):
    torch.manual_seed(0)
    sam = Sam(TINY, 64)
    before = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
    loop = PretrainLoop(sam, CONFIG.changed({"max_bad_steps": 2}, where="test"), torch.device("cpu"))
    monkeypatch.setattr(loop_module, "prompt_rounds", lambda _, seen, *__, **___: [seen.sum() * float("nan")])
    with pytest.raises(DivergedError, match=r"not finite for 2 steps in a row, the last at step 1; lower learning_rat"):
        list(loop.steps())
    assert_same(sam.state_dict(), before)


def test_used_empty_and_damaged_folders_are_refused(whole, tmp_path):
    with pytest.raises(InputError, match="the folder holds a run already; use --resume, or another --out"):
        pretrain(whole.folder.root, CONFIG)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        pretrain(tmp_path / "none", resume=True)
    copy = shutil.copytree(whole.folder.root, tmp_path / "copy")
    (copy / "last/state.json").write_text('{"version": 1}')
    with pytest.raises(ModelError, match=r"state.json: the state file is damaged$"):
        pretrain(copy, resume=True)
    (copy / "last/state.json").write_text('{"version": 9}')
    with pytest.raises(ModelError, match=r"last: expected state version 1, got 9$"):
        pretrain(copy, resume=True)


def test_a_size_that_its_file_does_not_determine_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "vit_t", replace(TINY, attention_window=4))
    with pytest.raises(ConfigError, match=r"^image_size: at 64 pixels an attention window of vit_t covers .*64"):
        pretrain(tmp_path / "run", CONFIG.changed({"image_size": 64}, where="test"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="image_size: expected a multiple of 32 from 64"):
        CONFIG.changed({"image_size": 40}, where="test")


def test_the_initial_weights_depend_only_on_the_seed():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = run_module._initial_sam(CONFIG)
    assert torch.equal(torch.rand(1), expected)
    assert_same(first.state_dict(), run_module._initial_sam(CONFIG).state_dict())
