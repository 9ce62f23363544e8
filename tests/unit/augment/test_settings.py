import pytest

from masam.augment import AugmentSettings
from masam.augment.settings import OPERATIONS, PRESETS
from masam.errors import ConfigError
from masam.training.config import TrainConfig


def read(values):
    return AugmentSettings.from_mapping(values, where="augmentation")


def test_a_preset_provides_omitted_keys():
    paper = read({"preset": "paper", "rotation_degrees": [-5, 5]})
    assert paper.rotation_degrees == (-5.0, 5.0)
    assert (paper.picks, paper.outside, paper.erase_label) == (2, "background", "background")
    assert (paper.scale_probability, paper.turn_probability, paper.contrast_grey) == (0, 0.5, None)
    assert paper.pick_from == OPERATIONS


def test_a_preset_name_replaces_the_group():
    assert TrainConfig.from_mapping({"augmentation": "paper"}, "x").augmentation == AugmentSettings(preset="paper")


def test_paper_box_differs_from_paper_only_in_what_moves_the_box():
    paper, box = AugmentSettings(preset="paper"), AugmentSettings(preset="paper-box")
    assert {key for key in AugmentSettings.model_fields if getattr(paper, key) != getattr(box, key)} == {
        "preset", "erase_probability", "pick_from",
    }  # fmt: skip
    assert box.pick_from == ("posterize", "contrast", "brightness", "sharpness", "identity")


def test_none_does_nothing():
    none = AugmentSettings(preset="none")
    assert not any(getattr(none, key) for key in AugmentSettings.model_fields if key.endswith("_probability"))
    assert none.picks == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_the_preset_and_the_differences_are_serialised(preset):
    plain = AugmentSettings(preset=preset)
    assert plain.model_dump(mode="json") == {"preset": preset}
    changed = AugmentSettings(preset=preset, gamma=(0.9, 1.1), picks=1)
    assert changed.model_dump(mode="json") == {"preset": preset, "gamma": [0.9, 1.1], "picks": 1}
    assert read(changed.model_dump(mode="json")) == changed


def test_settings_round_trip_through_a_file(tmp_path):
    config = TrainConfig(augmentation=AugmentSettings(preset="paper", noise_probability=0.1, noise=(0.0, 0.1)))
    config.to_yaml(tmp_path / "config.yaml")
    assert TrainConfig.from_yaml(tmp_path / "config.yaml") == config


def test_another_preset_can_be_set_in_a_written_configuration():
    values = TrainConfig().model_dump(mode="json")
    values["augmentation"]["preset"] = "paper"
    assert TrainConfig.from_mapping(values, "x").augmentation == AugmentSettings(preset="paper")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rotation_degree": [0, 1]}, r"rotation_degree: unknown key; did you mean 'rotation_degrees'\?"),
        ({"preset": "papr"}, r"preset: expected 'default', 'paper', 'paper-box' or 'none', got 'papr'"),
        ({"rotation_degrees": [5, -5]}, r"rotation_degrees: expected the smaller number first, got \(5, -5\)"),
        ({"scale": [0, 1]}, r"scale: expected numbers above 0"),
        ({"noise": [-1, 1]}, r"noise: expected numbers of 0 or more"),
        ({"erase_area": [0.5, 1.5]}, r"erase_area: expected numbers from 0 to 1"),
        ({"posterize_bits": [0, 8]}, r"posterize_bits: expected 1 to 16 bits, got"),
        ({"noise_probability": 1.5}, r"noise_probability: expected less than or equal to 1, got 1.5"),
        ({"low_resolution": [0.5, 2]}, r"expected low_resolution of 1 or more"),
        ({"elastic_points": 30}, r"expected 3 x elastic_amplitude x \(elastic_points - 1\) below 1.* 30 points"),
        ({"picks": 2, "pick_from": ["scale"]}, r"expected pick_from to name each operation once and 2 or more"),
        ({"pick_from": ["scale", "scale"]}, r"expected pick_from to name each operation once"),
        ({"pick_from": ["turn"]}, r"pick_from.0: expected 'shear_x', "),
    ],
)  # fmt: skip
def test_invalid_settings_are_rejected(values, message):
    with pytest.raises(ConfigError, match=rf"^augmentation: {message}"):
        read(values)


def test_the_old_key_is_refused_with_the_new_name():
    with pytest.raises(ConfigError, match=r"augment: unknown key; did you mean 'augmentation'\?"):
        TrainConfig.from_mapping({"augment": False}, "config.yaml")


def test_limits_that_touch_are_accepted():
    read({"elastic_points": 17, "low_resolution": [1, 1], "picks": 1, "pick_from": ["scale"], "erase_area": [1, 1]})
