import json
from dataclasses import asdict, replace

import pytest
import torch
from exported import IN_PYTORCH, PLAN, assert_same_outputs, model_with_plan, run_fresh
from tiny import SPEC, VARIED, random_model, random_windows, without_type_checks

import masam
from masam.errors import ModelError, ResourceError
from masam.export import program
from masam.export.agreement import TOLERANCE, require_agreement
from masam.export.program import least_slices, slices, trace, write_program


@pytest.fixture(scope="module")
def loaded(exports):
    return torch.export.load(exports.torch)


def test_pytorch_alone_computes_what_the_model_does(exports, tmp_path):
    pairs, facts = run_fresh(IN_PYTORCH, tmp_path, exports.torch)
    assert_same_outputs(exports.model, pairs, TOLERANCE)
    assert facts["plan"] == PLAN.model_dump(mode="json")
    assert facts["classes"] == ["background", "ball", "box"]
    assert facts["spec"] == json.loads(json.dumps(asdict(SPEC)))
    assert (facts["format_version"], facts["masam_version"]) == (1, masam.__version__)
    assert facts["slices"] == "3 or more; trained with 3"


def test_one_file_is_written(exports):
    assert [file.name for file in exports.torch.parent.iterdir()] == ["model.pt2"]


def test_the_model_is_left_as_it_was(exports):
    assert exports.traced
    assert exports.model.spec.fact_rank == 3
    assert exports.model.image_encoder.fact is not None


def test_two_slices_are_fewer_than_the_loaded_program_takes(loaded):
    with pytest.raises(AssertionError, match=r"windows.size\(\)\[1\] >= 3"):
        loaded.module()(random_windows(2, 2))


def test_a_model_of_two_slices_keeps_its_number():
    model = random_model(replace(SPEC, window=2))
    with without_type_checks():
        loaded = trace(model).module()
        with torch.no_grad():
            for b in (1, 3):
                expected = model(random_windows(b, 2)).logits
                difference = (loaded(random_windows(b, 2))[0] - expected).abs().max()
                assert difference <= TOLERANCE * expected.abs().max()
    with pytest.raises(AssertionError, match=r"windows.size\(\)\[1\] == 2"):
        loaded(random_windows(2, 3))


def test_adapters_that_look_further_ask_for_more_slices(tmp_path):
    # The other choices are exported to ONNX, by way of the same trace.
    model = model_with_plan(replace(VARIED, window=9, adapter_places="both", class_groups=()))
    with without_type_checks():
        assert require_agreement(model, trace(model).module(), tmp_path) <= TOLERANCE
    assert slices(model) == "9 or more; trained with 9"
    assert least_slices(replace(VARIED, adapter_depth_kernel=1)) == least_slices(SPEC) == 3


def test_a_program_that_differs_is_not_kept(exports, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "trace", lambda _: exports.traced)
    other = random_model(seed=1, scale=0.3)
    with pytest.raises(ModelError, match=r"model.pt2: the outputs of the export differ from .* nothing was written"):
        write_program(other, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_not_overwritten(exports, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "trace", lambda _: exports.traced)
    (tmp_path / "model.pt2").write_text("mine")
    with pytest.raises(ResourceError, match=r"model.pt2: the path already exists"):
        write_program(exports.model, tmp_path / "model.pt2")
    assert (tmp_path / "model.pt2").read_text() == "mine"
