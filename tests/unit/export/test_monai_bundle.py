import json
import sys
import warnings

import monai.bundle
import pytest
import torch
from exported import PLAN, model_with_plan
from tiny import random_model, random_windows

from masam.errors import ModelError, ResourceError
from masam.export import monai_bundle
from masam.export.agreement import TOLERANCE
from masam.export.monai_bundle import write_bundle
from masam.preprocess.plan import Plan
from masam.weights.card import ModelCard

FILES = [
    "LICENSE", "configs/inference.json", "configs/metadata.json", "configs/plan.yaml", "docs/README.md",
    "models/model.pt",
]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return model_with_plan()


@pytest.fixture(scope="module")
def bundle(exports):
    return exports.bundle


def load_with_monai(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says to trust nothing but one's own bundles
        return monai.bundle.load(folder.name, bundle_dir=folder.parent, workflow_type="inference", device="cpu")


def test_a_model_of_videos_is_refused(model, tmp_path):
    plan = model.card.plan.model_copy(update={"modality": "video"})
    other = random_model()
    other.card = ModelCard(plan)
    with pytest.raises(ModelError, match=r"the model is for video \(tiny\), but bundles segment volumes; export it as"):
        write_bundle(other, tmp_path / "tiny")


def test_it_has_monais_layout(bundle, exports):
    assert sorted(str(f.relative_to(bundle)) for f in bundle.rglob("*") if f.is_file()) == FILES
    assert exports.results["monai-bundle"].json["size_bytes"] == sum((bundle / name).stat().st_size for name in FILES)
    assert exports.results["monai-bundle"].json["largest_difference"] == 0
    assert [folder.name for folder in bundle.parent.iterdir()] == ["tiny"]
    assert Plan.from_yaml(bundle / "configs/plan.yaml") == PLAN
    metadata = json.loads((bundle / "configs/metadata.json").read_text("utf-8"))
    assert metadata["monai_version"] == monai.__version__


@pytest.mark.parametrize("shape", [(1, 3), (4, 3), (2, 5)])
def test_monai_loads_the_network_with_its_weights(model, bundle, shape):
    network = load_with_monai(bundle)
    windows = random_windows(*shape)
    with torch.no_grad():
        got, expected = network(windows.transpose(1, 2)).transpose(1, 2), model(windows).logits
    assert torch.equal(got, expected)


def test_the_weights_are_tensors_alone(model, bundle):
    state = torch.load(bundle / "models/model.pt", weights_only=True)
    assert {name.removeprefix("masam.") for name in state} == set(model.state_dict())


def test_a_merged_bundle_has_no_fact(model, tmp_path):
    merged = write_bundle(model, tmp_path / "tiny", merge=True)
    assert 0 < merged.difference <= TOLERANCE
    network = load_with_monai(merged.path)
    assert network.masam.spec.fact_rank == 0
    with torch.no_grad():
        expected = model(random_windows()).logits
        got = network(random_windows().transpose(1, 2)).transpose(1, 2)
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_monais_own_check_of_shapes_and_types_passes(bundle, tmp_path):
    configs = bundle / "configs"
    metadata = json.loads((configs / "metadata.json").read_text("utf-8"))

    def check():
        file = tmp_path / "metadata.json"
        file.write_text(json.dumps(metadata), "utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            monai.bundle.verify_net_in_out(
                net_id="network_def", meta_file=str(file), config_file=str(configs / "inference.json"), device="cpu"
            )

    check()
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 4
    with pytest.raises(ValueError, match="output channel number `3` doesn't match: `4`"):
        check()


def test_a_model_without_a_plan_is_refused(tmp_path):
    message = "^the model has no plan, which a bundle requires to preprocess volumes; add a plan to the model, or "
    with pytest.raises(ModelError, match=message):
        write_bundle(random_model(), tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_differs_is_not_kept(model, tmp_path, monkeypatch):
    monkeypatch.setattr(monai_bundle, "_runner", lambda _: lambda windows: (model(windows).logits + 1,))
    with pytest.raises(ModelError, match=r"tiny: the outputs of the export differ from the model by"):
        write_bundle(model, tmp_path / "new" / "tiny")
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]


def test_a_folder_that_is_there_is_refused(model, tmp_path):
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ResourceError, match=r"tiny: the path already exists; choose another name$"):
        write_bundle(model, tmp_path / "tiny")
    assert list(tmp_path.rglob("*")) == [tmp_path / "tiny"]


def test_without_monai_the_command_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ResourceError, match=r"requires monai, which is not installed .* pip install 'masam\[export\]'"):
        write_bundle(model, tmp_path / "tiny")
