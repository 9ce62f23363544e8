import json

import onnx
import pytest
from exported import IN_ONNXRUNTIME, PLAN, assert_same_outputs, model_with_plan, run_fresh
from tiny import VARIED, without_type_checks

from masam.errors import ModelError, ResourceError
from masam.export import onnx_file
from masam.export.agreement import TOLERANCE
from masam.export.onnx_file import OPSET, write_onnx


@pytest.fixture
def convert_once(exports, monkeypatch):
    """Converting is most of the time; the tests differ in what follows."""
    monkeypatch.setattr(onnx_file, "_convert", lambda _: exports.graph)
    return exports.model


@pytest.mark.parametrize(("above", "files"), [(1 << 30, ["model.onnx"]), (0, ["model.onnx", "model.onnx.data"])])
def test_large_weights_are_a_file_of_their_own(convert_once, tmp_path, monkeypatch, above, files):
    monkeypatch.setattr(onnx_file, "EXTERNAL_ABOVE_BYTES", above)
    written = write_onnx(convert_once, tmp_path / "model.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == files
    assert written.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert 0 < written.difference <= TOLERANCE


def test_onnxruntime_alone_computes_what_the_model_does(convert_once, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "EXTERNAL_ABOVE_BYTES", 0)
    written = write_onnx(convert_once, tmp_path / "out/model.onnx")
    pairs, facts = run_fresh(IN_ONNXRUNTIME, tmp_path, written.path)
    assert_same_outputs(convert_once, pairs, TOLERANCE)
    assert facts["plan"] == PLAN.model_dump(mode="json")
    assert facts["classes"] == ["background", "ball", "box"]


def sides(values):
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_the_file_describes_itself(exports):
    content = onnx.load(exports.onnx)
    assert [opset.version for opset in content.opset_import if opset.domain == ""] == [OPSET]
    assert sides(content.graph.input) == {"windows": ["B", "S", 3, 32, 32]}
    assert sides(content.graph.output) == {"logits": ["B", "S", 3, 32, 32], "iou": ["B", "S", 3]}
    (description,) = (json.loads(prop.value) for prop in content.metadata_props if prop.key == "masam")
    assert description["format_version"] == 1


@pytest.mark.usefixtures("convert_once")
def test_a_failed_or_stopped_export_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "EXTERNAL_ABOVE_BYTES", 0)
    with pytest.raises(ModelError, match=r"^.*model.onnx: the outputs of the export differ from the model by"):
        write_onnx(model_with_plan(scale=0.2), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_file, "require_agreement", stop)
    with pytest.raises(KeyboardInterrupt):
        write_onnx(model_with_plan(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_existing_weights_are_not_overwritten(convert_once, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "EXTERNAL_ABOVE_BYTES", 0)
    (tmp_path / "model.onnx.data").write_text("mine")
    with pytest.raises(ResourceError, match=r"model.onnx.data: the path already exists"):
        write_onnx(convert_once, tmp_path / "model.onnx")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"model.onnx.data": "mine"}


def test_a_varied_model_is_exported_as_it_is(tmp_path):
    with without_type_checks():
        assert write_onnx(model_with_plan(VARIED), tmp_path / "varied.onnx").difference <= TOLERANCE
