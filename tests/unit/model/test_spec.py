import inspect
import json
from dataclasses import asdict, fields, replace

import pytest
from tiny import SPEC, without_type_checks

import masam
from masam.errors import ConfigError
from masam.model.sizes import SIZES, find_size
from masam.model.spec import MasamSpec, ModelOptions
from masam.training.config import ModelSettings


def test_the_options_reach_settings_and_build_masam():
    parameters = inspect.signature(masam.build_masam).parameters
    for option in fields(ModelOptions):
        setting = ModelSettings.model_fields[option.name]
        assert parameters[option.name].default == setting.default == option.default
        assert setting.description == option.metadata["description"]
    assert {option.name for option in fields(ModelOptions)} <= {entry.name for entry in fields(MasamSpec)}
    with pytest.raises(TypeError, match="decodr"):
        masam.build_masam("vit_t", decodr="sam")


def test_sizes_are_found_by_name():
    assert find_size("vit_h") is SIZES["vit_h"]
    with pytest.raises(ConfigError, match=r"^size: expected a model size of vit_h, vit_l, vit_b, vit_t, got 'vit_x'$"):
        find_size("vit_x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 40}, "image_size: expected a multiple of 16 pixels, got 40"),
        ({"image_size": 0}, "image_size: expected a multiple of 16 pixels, got 0"),
        ({"num_classes": 0}, "num_classes: expected an integer from 1 to 4096, got 0"),
        ({"window": 0}, "window: expected an integer from 1 to 4096, got 0"),
        ({"fact_rank": -1}, "fact_rank: expected an integer from 0 to 65536, got -1"),
        ({"adapter_channels": -1}, "adapter_channels: expected an integer from 1 to 65536, got -1"),
        ({"fact_dropout": 1.0}, "fact_dropout: expected 0 or more and less than 1, got 1.0"),
        ({"adapter_depth_kernel": 4}, "adapter_depth_kernel: expected an odd number of slices, got 4"),
        ({"adapter_depth_kernel": 65}, "adapter_depth_kernel: expected an integer from 1 to 63, got 65"),
        ({"adapter_dilation": 0}, "adapter_dilation: expected an integer from 1 to 64, got 0"),
        ({"fact_blocks": (2,)}, r"fact_blocks: expected all, or different block indices from 0 to 1, got \(2,\)"),
        ({"adapter_blocks": (0, 0)}, r"adapter_blocks: expected all, or different block indices .*, got \(0, 0\)"),
        ({"class_groups": ((0, 1),)}, r"class_groups: expected each channel from 0 to 2 in one group, got .*"),
        ({"class_groups": ((0, 1, 2), ())}, r"class_groups: expected each channel from 0 to 2 in one group, got .*"),
        ({"class_groups": ((0, 1), (1, 2))}, r"class_groups: expected each channel from 0 to 2 in one group, got .*"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        replace(SPEC, **change)


@pytest.mark.parametrize(
    ("key", "choices"),
    [("increments", "fact, lora"), ("adapter_places", "both, attention, mlp, none"), ("decoder", "progressive, sam")],
)
def test_unknown_choices_are_refused(key, choices):
    with without_type_checks(), pytest.raises(ConfigError, match=f"^{key}: expected one of {choices}, got 'x'$"):
        replace(SPEC, **{key: "x"})


def test_a_specification_survives_json():
    spec = replace(
        SPEC, increments="lora", fact_blocks=(1,), adapter_blocks=(), decoder="sam", class_groups=((0, 2), (1,))
    )
    for one in (SPEC, spec):
        assert MasamSpec.from_plain(json.loads(json.dumps(asdict(one)))) == one
    assert SPEC.variations() == {}
    assert set(spec.variations()) == {"increments", "fact_blocks", "adapter_blocks", "decoder", "class_groups"}


def test_channels_are_classes_and_background():
    assert MasamSpec(SIZES["vit_b"], 12).num_channels == 13
