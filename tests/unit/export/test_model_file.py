from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exported import model_with_plan
from tiny import VARIED, random_windows

from masam.errors import ModelError
from masam.export.agreement import TOLERANCE
from masam.export.model_file import write_model_file
from masam.weights.model_file import load
from masam.weights.official import load_reference

GOLDEN = Path(__file__).parents[2] / "golden"
SAM = GOLDEN / "sam_tiny_256.pth"


@pytest.fixture(scope="module")
def based():
    """A model that stands on a SAM file."""
    return load_reference(SAM, GOLDEN / "masam_tiny_96_adapter.pth", 96, decoder_heads=4)


def logits(model, side=96):
    with torch.no_grad():
        return model(random_windows(2, 3, side)).logits


def test_a_plain_copy_needs_the_base(based, tmp_path):
    exported = write_model_file(based, tmp_path / "model.safetensors", sam_checkpoint=SAM)
    assert exported.difference == 0
    assert exported.size_bytes == exported.path.stat().st_size
    assert torch.equal(logits(load(exported.path, SAM)), logits(based))
    with pytest.raises(ModelError, match="the model requires the SAM file of custom"):
        load(exported.path)


def test_without_the_base_a_copy_cannot_be_proved(based, tmp_path):
    with pytest.raises(ModelError, match="give that file with --sam-checkpoint"):
        write_model_file(based, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_embedded_base_stands_alone(based, tmp_path):
    exported = write_model_file(based, tmp_path / "model.safetensors", embed_base=True)
    loaded = load(exported.path)
    assert torch.equal(logits(loaded), logits(based))
    assert (loaded.spec, loaded.card.base) == (based.spec, None)


def test_a_merged_model_stands_alone_without_fact(based, tmp_path):
    exported = write_model_file(based, tmp_path / "model.safetensors", merge=True, sam_checkpoint=SAM)
    loaded = load(exported.path)
    assert loaded.spec.fact_rank == 0
    assert 0 < exported.difference <= TOLERANCE
    expected = logits(based)
    assert (logits(loaded) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_merged_model_of_lora_is_the_papers_without_increments(tmp_path):
    model = model_with_plan(replace(VARIED, adapter_places="both"))
    loaded = load(write_model_file(model, tmp_path / "model.safetensors", merge=True).path)
    assert (loaded.spec.fact_rank, loaded.image_encoder.increments) == (0, None)
    assert set(loaded.spec.variations()) == {"adapter_depth_kernel", "adapter_dilation", "decoder", "class_groups"}
    expected = logits(model, 32)
    assert (logits(loaded, 32) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_plan_goes_along(tmp_path):
    model = model_with_plan()
    exported = write_model_file(model, tmp_path / "model.safetensors", merge=True)
    assert load(exported.path).card.plan == model.card.plan
