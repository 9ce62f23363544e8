import re
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest
from tiny import SPEC, without_type_checks

from masam.errors import ConfigError
from masam.model.masam import empty_model
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan
from masam.training.memory import TrainingMemory, least_memory, predict_memory
from masam.training.suggest import BATCH_WINDOWS, parse_memory, suggest

PLAN = Plan(
    name="tiny", modality="CT", slice_axis="axial", intensity=Window(low=-60, high=240), window=3, image_size=64,
    labels={"background": 0, "a": 1, "b": 2},
)  # fmt: skip


@pytest.fixture(autouse=True)
def _as_users_run_it():
    """Tensors without bytes do not get along with the checks of annotations."""
    with without_type_checks():
        yield


def test_predicted_memory_has_the_expected_parts():
    spec = replace(SPEC, image_size=64)
    model = empty_model(spec)
    trained = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = 4 * sum(p.numel() for p in model.parameters() if not p.requires_grad)
    one, two = predict_memory(spec, 1), predict_memory(spec, 2)
    assert one.optimizer_bytes == two.optimizer_bytes == 2 * trained
    # Weights, gradients, and something for activations, which grow with the windows.
    assert one.tensor_bytes > 2 * trained + frozen
    assert two.tensor_bytes - one.tensor_bytes > 3 * 64 * 64 * 3 * 4
    # What one knows without a step is a part of that, and less than any step takes.
    least = least_memory(spec)
    assert (least.tensor_bytes, least.optimizer_bytes) == (trained + frozen, 2 * trained)
    everything, decoder = (predict_memory(spec, 1, trained=what) for what in ("everything", "decoder"))
    assert everything.optimizer_bytes == 2 * (trained + frozen)
    # An encoder that is wholly frozen has no gradients, and keeps nothing of its forward pass.
    fewer = (one.optimizer_bytes - decoder.optimizer_bytes) // 2
    assert 0 < fewer < one.tensor_bytes - decoder.tensor_bytes
    assert predict_memory(spec, 1) == one
    checkpointed = predict_memory(spec, 2, checkpointing=True)
    assert checkpointed.optimizer_bytes == two.optimizer_bytes
    assert 2 * trained + frozen < checkpointed.tensor_bytes < two.tensor_bytes


def test_frozen_layers_in_bf16_need_half_of_their_memory():
    # Frozen from its start, the encoder keeps no activations. The pass in bf16 also copies what trains, which is less.
    wide = replace(SIZES["vit_t"], embed_dim=768, num_heads=12, mlp_dim=3072)
    spec = MasamSpec(wide, 1, 32, window=1, fact_rank=0, adapter_places="none")
    whole, halved = (predict_memory(spec, 1, frozen_dtype=one).tensor_bytes for one in ("float32", "bf16"))
    layers = [
        p for name, p in empty_model(spec).named_parameters()
        if name.startswith("image_encoder.") and name.endswith("weight") and "norm" not in name and p.ndim > 1
    ]  # fmt: skip
    assert 0.7 * 2 <= (whole - halved) / sum(p.numel() for p in layers) <= 2


@cache
def peak_of_spec():
    return predict_memory(SPEC, 1).peak_bytes


@pytest.mark.parametrize("change", [{"image_size": 64}, {"num_classes": 40}, {"window": 7}, {"adapter_channels": 900}])
def test_larger_models_and_inputs_need_more_memory(change):
    assert predict_memory(replace(SPEC, **change), 1).peak_bytes > peak_of_spec()


@pytest.mark.slow
def test_the_prediction_is_close_to_a_real_step():
    done = subprocess.run([sys.executable, "benchmarks/training_memory.py"], capture_output=True, text=True, check=True)
    errors = [int(found) for found in re.findall(r"\(([+-]\d+) %\)", done.stdout)]
    assert len(errors) == 7
    assert max(map(abs, errors)) <= 15, done.stdout


@pytest.mark.parametrize(
    ("text", "expected"), [("8GB", 8 * 10**9), (" 7.5 GiB ", 8053063680), ("512mb", 512 * 10**6), ("1TiB", 2**40)]
)
def test_sizes_in_several_notations(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["8", "GB", "8 bytes", "-1GB", "", "8KB"])
def test_invalid_sizes_are_refused(text):
    with pytest.raises(ConfigError, match=r"^--memory: expected a size such as 8GB or 24GiB, got"):
        parse_memory(text)


def test_the_largest_model_that_fits_is_suggested(monkeypatch):
    # Numbers of the right order in place of real steps, which the tests above take.
    weights = {"vit_b": 500_000_000, "vit_t": 100_000_000}
    monkeypatch.setattr("masam.training.suggest.SIZES", {name: replace(SIZES["vit_t"], name=name) for name in weights})

    def least(spec):
        return TrainingMemory(weights[spec.sam.name], 0)

    def predict(spec, windows, *, checkpointing=False):
        return TrainingMemory(weights[spec.sam.name] * (2 if checkpointing else 4) // 4 * (windows + 3), 10**6)

    monkeypatch.setattr("masam.training.suggest.least_memory", least)
    monkeypatch.setattr("masam.training.suggest.predict_memory", predict)

    def peak(name, windows, **changes):
        return predict(MasamSpec(replace(SIZES["vit_t"], name=name), 2, 64, 3), windows, **changes).peak_bytes

    one = suggest(PLAN, peak("vit_b", 1))
    assert (one.size, one.micro_batch_windows, one.batch_windows) == ("vit_b", 1, BATCH_WINDOWS)
    assert not one.checkpointing
    assert one.predicted_peak_gb == pytest.approx(peak("vit_b", 1) / 1e9, abs=0.01)
    # A size that checkpointing saves is not given up.
    saved = suggest(PLAN, peak("vit_b", 1) - 1)
    assert (saved.size, saved.checkpointing) == ("vit_b", True)
    fewest = peak("vit_b", 1, checkpointing=True)
    assert saved.predicted_peak_gb >= fewest / 1e9 - 0.01
    assert suggest(PLAN, fewest).checkpointing
    assert (suggest(PLAN, fewest - 1).size, suggest(PLAN, fewest - 1).checkpointing) == ("vit_t", False)
    assert suggest(PLAN, peak("vit_t", 4)).micro_batch_windows == 4
    assert suggest(PLAN, peak("vit_t", 6) - 1).micro_batch_windows == 4
    assert suggest(PLAN, 10**12).micro_batch_windows == 24
    with pytest.raises(
        ConfigError, match=r"--memory: the smallest model, vit_t, needs 0.\d GB at 64 pixels, more than"
    ):
        suggest(PLAN, 10**8)
