import json
from dataclasses import replace

import monai
import numpy as np
import pytest
import torch
from exported import PLAN
from tiny import LABELS, SPEC

import masam
from masam.errors import ConfigError
from masam.export.bundle_texts import bundle_metadata, inference_config, licence, readme
from masam.model.sizes import SIZES

REQUIRED = {  # of MONAI's bundle specification
    *("version", "changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
    *("task", "description", "authors", "copyright", "network_data_format"),
}
TENSOR = {
    *("type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"),
    "channel_def",
}


@pytest.fixture(scope="module")
def metadata():
    return json.loads(json.dumps(bundle_metadata(SPEC, PLAN, monai.__version__)))


def test_metadata_have_what_monai_asks_for(metadata):
    assert set(metadata) >= REQUIRED
    assert set(metadata["changelog"]) == {metadata["version"]}
    assert metadata["required_packages_version"]["masam"] == masam.__version__
    assert metadata["numpy_version"] == np.__version__
    assert metadata["pytorch_version"] == torch.__version__.split("+")[0]
    assert metadata["task"] == "Segmentation of CT volumes: ball, box"
    assert "Not a medical device" in metadata["intended_use"]


def test_input_and_output_are_described_by_plan_and_spec(metadata):
    inputs, outputs = metadata["network_data_format"]["inputs"], metadata["network_data_format"]["outputs"]
    assert set(inputs["image"]) == set(outputs["pred"]) == TENSOR
    assert (inputs["image"]["num_channels"], inputs["image"]["value_range"]) == (1, [0, 1])
    assert inputs["image"]["spatial_shape"] == outputs["pred"]["spatial_shape"] == [3, 32, 32]
    assert outputs["pred"]["num_channels"] == 3
    assert outputs["pred"]["channel_def"] == {"0": "background", "1": "ball", "2": "box"}


@pytest.mark.parametrize("name", ["$__import__('os').getcwd()", "@network_def", "%other.json"])
def test_a_class_that_monai_would_run_is_refused(name):
    plan = PLAN.model_copy(update={"labels": {"background": 0, name: 1, "box": 4}})
    with pytest.raises(
        ConfigError, match=r"^labels: expected a name that MONAI does not run as code, got .* rename it in the plan"
    ):
        bundle_metadata(SPEC, plan, "1.0")


@pytest.mark.parametrize("name", ["50% stenosis", "a@b", "cost $", "Größe"])
def test_other_characters_are_text(name):
    plan = PLAN.model_copy(update={"labels": {"background": 0, name: 1, "box": 4}})
    metadata = bundle_metadata(SPEC, plan, "1.0")
    parser = monai.bundle.ConfigParser(metadata)
    assert parser.get_parsed_content("network_data_format#outputs#pred#channel_def") == {
        "0": "background",
        "1": name,
        "2": "box",
    }


def texts_in(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, str):
        yield value


def test_the_configuration_runs_nothing_but_its_own_expressions():
    evil = replace(SPEC, sam=replace(SPEC.sam, name="$print('run')"))
    config = inference_config(evil)
    expressions = {text for text in texts_in(config) if text.startswith("$")}
    assert expressions == {
        "$@bundle_root + '/data'",
        "$@bundle_root + '/eval'",
        "$@bundle_root + '/models/model.pt'",
        "$@bundle_root + '/configs/plan.yaml'",
        "$@evaluator.run()",
    }
    assert config["network_def"]["sam"]["name"] == "custom"
    known = inference_config(replace(SPEC, sam=SIZES["vit_b"]))
    assert known["network_def"]["sam"]["name"] == "vit_b"


def test_the_pages_name_classes_and_limits():
    page = readme(PLAN)
    for label, (name, value) in enumerate(LABELS.items()):
        assert f"| {label} | {value} | {name} |" in page
    assert "[B, 1, 3, 32, 32]" in page
    assert "Not a medical device" in page
    assert "Apache" in licence(None)
    assert "Licence: CC-BY-4.0" in licence("CC-BY-4.0")
