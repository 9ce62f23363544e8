import json

import pytest
from tiny import LABELS, SPEC, VARIED

from masam.errors import ModelError
from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan
from masam.weights.card import (
    FORMAT_VERSION,
    HEADER,
    Base,
    ModelCard,
    read_card,
    read_header,
    read_spec,
    require_matching_plan,
)
from masam.weights.card import write_header as write

PLAN = Plan(
    name="tiny", modality="CT", slice_axis="axial", intensity=Window(low=-100, high=200), window=3, image_size=32,
    labels=LABELS,
)  # fmt: skip
CARD = ModelCard(PLAN, Base("vit_b", "a" * 64, "b" * 64, "sam.pth"), {"steps": 7, "validation_dice": None}, "CC-BY-4.0")


@pytest.mark.parametrize("card", [CARD, ModelCard(), ModelCard(PLAN)])
def test_card_round_trip(card):
    header = read_header(write(SPEC, card), "x")
    assert read_spec(header["spec"], "x") == SPEC
    assert read_card(header, "x") == card
    assert header["format_version"] == FORMAT_VERSION


def old(**changes):
    """The header of a file of version 1."""
    new = json.loads(write(SPEC, CARD)[HEADER])
    header = {
        "format_version": 1, "masam_version": "0.1.0", "spec": new["spec"], "plan": new["plan"],
        "base_sha256": "a" * 64, "training": {"steps": 7},
    }  # fmt: skip
    return {HEADER: json.dumps(header | changes)}


def test_version_1_is_migrated():
    header = read_header(old(), "x")
    assert read_spec(header["spec"], "x") == SPEC
    assert read_card(header, "x") == ModelCard(PLAN, Base("custom", "a" * 64), {"steps": 7})
    assert header["versions"] == {"masam": "0.1.0"}
    assert read_card(read_header(old(base_sha256=None), "x"), "x").base is None


def test_version_2_is_migrated():
    header = json.loads(write(SPEC, CARD)[HEADER])
    for key in ("increments", "adapter_places", "decoder", "class_groups", "fact_blocks", "adapter_blocks"):
        del header["spec"][key]
    del header["spec"]["adapter_depth_kernel"], header["spec"]["adapter_dilation"]
    read = read_header({HEADER: json.dumps({**header, "format_version": 2})}, "x")
    assert (read_spec(read["spec"], "x"), read_card(read, "x")) == (SPEC, CARD)


def test_round_trip_of_a_specification_with_other_options():
    assert read_spec(read_header(write(VARIED, CARD), "x")["spec"], "x") == VARIED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": []}, r"x: expected a valid specification in the metadata \("),
        ({"spec": {"sam": 3}}, r"x: expected a valid specification in the metadata \("),
        ({"base_sha256": 3}, r"x: expected plan, base and training in the metadata \(expected texts"),
        ({"base_sha256": [3]}, r"x: expected plan, base and training in the metadata \(expected texts"),
        ({"training": "many"}, r"x: expected plan, base and training in the metadata \("),
        ({"plan": [1]}, r"x: expected plan, base and training in the metadata \("),
        ({"format_version": "1"}, r"x: the file has format version 1, this masam reads versions 1 to 3"),
        ({"format_version": None}, r"x: the file has format version None"),
    ],
)
def test_invalid_headers_are_refused(changes, message):
    def read():
        header = read_header(old(**changes), "x")
        return read_spec(header["spec"], "x"), read_card(header, "x")

    with pytest.raises(ModelError, match=message):
        read()


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "[" * 100_000, "{"])
def test_missing_headers_are_refused(text):
    with pytest.raises(ModelError, match=r"x: expected a model written by masam, its metadata are missing"):
        read_header({HEADER: text}, "x")


def test_a_plan_of_another_model_is_refused():
    require_matching_plan(PLAN, SPEC)
    with pytest.raises(
        ModelError, match=r"^the plan has 2 classes at 64 pixels, the model 2 at 32; give the plan that"
    ):
        require_matching_plan(PLAN.model_copy(update={"image_size": 64}), SPEC)
