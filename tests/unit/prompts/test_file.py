import json

import pytest

from masam.errors import ConfigError, InputError
from masam.prompts import Box3D, Click
from masam.prompts.file import read_prompts


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def test_prompts_of_each_case(tmp_path):
    content = {
        "unit": "mm",
        "cases": {
            "a": [
                {"class_name": "liver", "box": [0, -1, 2, 3, 4, 5.5]},
                {"class_name": "liver", "not_click": [1, 2, 3]},
            ],
            "b": [{"click": [0, 0, 0]}],
        },
    }  # fmt: skip
    assert read_prompts(written(tmp_path / "p.json", content)) == {
        "a": (Box3D((0, -1, 2, 3, 4, 5.5), "mm", "liver"), Click((1, 2, 3), False, "mm", "liver")),
        "b": (Click((0, 0, 0), True, "mm"),),
    }


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "p.json, a: expected at least one prompt, got none; omit the case"),
        ([{"box": [1, 2, 3]}], "p.json, a, prompt 1: expected 6 numbers x0,y0,z0,x1,y1,z1, got 3"),
        ([{"click": [1, 2, 3]}, {}], "p.json, a, prompt 2: expected one of box, click and not_click, got none"),
        ([{"click": [1, 2, 3], "box": [0]}], "a, prompt 1: expected one of box, click and not_click, got box, click"),
        ([{"klick": [1, 2, 3]}], "p.json: cases.a.0.klick: unknown key; did you mean 'click'?"),
        ([{"click": [1, 2, "3"]}], "p.json: cases.a.0.click.2: expected a valid number, got '3'"),
    ],
)
def test_an_invalid_prompt_is_reported_with_file_case_and_number(tmp_path, entries, message):
    with pytest.raises(ConfigError) as refusal:
        read_prompts(written(tmp_path / "p.json", {"cases": {"a": entries}}))
    assert message in str(refusal.value)


def test_a_file_that_is_not_json_is_rejected(tmp_path):
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(InputError, match=r"p\.json: not valid JSON: "):
        read_prompts(tmp_path / "p.json")
