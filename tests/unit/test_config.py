import os
from typing import Annotated, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from masam.config import MAX_CONFIG_BYTES, Settings
from masam.errors import ConfigError, ResourceError


class Circle(Settings):
    kind: Literal["circle"] = "circle"
    radius_mm: float = Field(gt=0, description="radius, in mm")


class Box(Settings):
    kind: Literal["box"] = "box"
    sides_mm: tuple[float, float] = Field(description="sides, in mm")


class Training(Settings):
    name: str = Field(description="name of the\nrun")
    learning_rate: float = Field(default=8e-4, description="step size")
    slices: int = Field(default=5, ge=1, multiple_of=1, description="slices a window")
    shape: Annotated[Circle | Box, Field(discriminator="kind")] = Circle(radius_mm=3.0)
    extras: tuple[Circle, ...] = ()
    labels: dict[str, int] = Field(default_factory=dict)
    amp: bool = True


def read(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return Training.from_yaml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nlearning_rat: 0.1", r"run.yaml: learning_rat: unknown key; did you mean 'learning_rate'\?"),
        ("name: a\nxyzzy: 0.1", "xyzzy: unknown key; known keys are amp, extras, labels"),
        ("name: a\nshape: {kind: circle, radius: 1}", r"shape.radius: unknown key; did you mean 'radius_mm'\?"),
        ("name: a\nextras: [{radius_mm: 1, radus: 2}]", r"extras.0.radus: unknown key; did you mean 'radius_mm'\?"),
        ("slices: 5", "run.yaml: name: missing key"),
        ("name: a\nslices: five", "slices: expected a valid integer, got 'five'"),
        ("name: a\nslices: '5'", "slices: expected a valid integer, got '5'"),
        ("name: a\nslices: true", "slices: expected a valid integer, got True"),
        ("name: a\nslices: 0", "slices: expected greater than or equal to 1, got 0"),
        ("name: 3", "name: expected a valid string, got 3"),
        ("name: a\nlearning_rate: .nan", "learning_rate: expected a finite number, got nan"),
        ("name: a\nshape: {kind: circle, radius_mm: -1}", "yaml: shape.radius_mm: expected greater than 0, got -1"),
        ("name: a\nshape: {kind: cone}", "shape: .*'cone'.*'circle', 'box'"),
        ("name: a\nshape: {radius_mm: 1}", "shape: missing key that selects the variant"),
        ("name: a\nshape: {kind: box, sides_mm: [1, x]}", r"shape.sides_mm.1: expected a valid number, got 'x'"),
        ("name: a\nslices: 1\nslices: 2", "line 3: duplicate key 'slices'"),
        ("name: a\nshape: {kind: circle, kind: box}", "line 2: duplicate key 'kind'"),
        ("name: &x a\nextras: *x", r"line 2: aliases \(\*name\) are not supported"),
        ("name: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("name: [a", "correct the YAML"),
        ("name: \x07", "not readable as YAML"),
        ("? [a]\n: b", "unhashable key"),
        ("2024-01-01: a", "plain values"),
        ("- a", r"expected a mapping of keys to values, got \['a'\]"),
        ("", "expected a mapping of keys to values, got None"),
        ("[" * 5000, "not readable as YAML"),
    ],
)
def test_an_error_is_one_line_with_file_key_expected_and_actual_value(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert "run.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_errors_are_reported_at_once_and_long_values_truncated(tmp_path):
    with pytest.raises(ConfigError, match=r"slices: .*; amp: expected a valid boolean, got 'xxx.*xx\.\.\.$"):
        read(tmp_path, "name: a\nslices: x\namp: " + "x" * 1000)
    with pytest.raises(ConfigError, match=r"; and 3 more$"):
        Training.from_mapping({"name": "a"} | {f"key{i}": i for i in range(8)}, where="options")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1E3", 1e3), ("-2e+2", -200.0), ("1.5e-3", 1.5e-3), ("1.e5", 1e5), ("2", 2.0)]
)
def test_numbers_with_an_exponent_are_numbers(tmp_path, text, value):
    assert read(tmp_path, f"name: a\nlearning_rate: {text}").learning_rate == value


def test_text_that_looks_like_a_number_stays_text(tmp_path):
    assert read(tmp_path, "name: 1e-4x").name == "1e-4x"


def test_dump_has_descriptions_and_order_of_the_class():
    assert (
        Training(name="a").dump_yaml().startswith("# name of the run\nname: a\n\n# step size\nlearning_rate: 0.0008\n")
    )


@example(name="a\x85b\u2028c\u2029", rate=1.0, sides=(1.0, 1.0), labels={})
@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    sides=st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)),
    labels=st.dictionaries(st.sampled_from(["no", "yes", "1e5", "1", "ignore", "~", "é", "a: b"]), st.integers()),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_yaml_round_trip(tmp_path, name, rate, sides, labels):
    training = Training(name=name, learning_rate=rate, shape=Box(sides_mm=sides), labels=labels)
    training.to_yaml(tmp_path / "run.yaml")
    assert Training.from_yaml(tmp_path / "run.yaml") == training


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Training(name="a").slices = 3


def test_files_that_are_not_settings_are_rejected(tmp_path):
    with pytest.raises(ConfigError, match="settings file not found; check the path"):
        Training.from_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="got a folder or a device"):
        Training.from_yaml(tmp_path)
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="got a folder or a device"):
        Training.from_yaml(pipe)
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="expected UTF-8 text"):
        Training.from_yaml(path)
    path.write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="at most 1048576 bytes, got 1048577"):
        Training.from_yaml(path)
    with pytest.raises(ResourceError, match="cannot be read"):
        Training.from_yaml(tmp_path / ("x" * 300))


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path):
    assert read(tmp_path, "\ufeffname: a").name == "a"


def test_values_without_a_json_form_are_rejected():
    with pytest.raises(ConfigError, match="options: expected plain values"):
        Training.from_mapping({("a", "b"): 1}, where="options")
