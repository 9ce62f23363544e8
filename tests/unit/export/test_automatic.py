import json
from dataclasses import asdict, replace

import pytest
import torch
from exported import PLAN, model_with_plan
from tiny import SPEC, random_model, random_windows

import masam
from masam.export.program import automatic, describe
from masam.weights.card import ModelCard


def test_it_is_a_merged_copy_that_takes_windows_alone():
    model = model_with_plan().double()
    network = automatic(model)
    with torch.no_grad():
        expected = model(random_windows().double())
        outputs = network(random_windows())
    assert type(outputs) is tuple
    for got, wanted in zip(outputs, expected, strict=True):
        assert got.dtype == torch.float32
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert not [name for name in network.state_dict() if ".fact." in name]
    assert next(model.parameters()).dtype == torch.float64


def test_the_description_is_complete():
    assert json.loads(describe(model_with_plan())) == {
        "format_version": 1,
        "masam_version": masam.__version__,
        "input": {
            "windows": "float32 [B, S, 3, 32, 32], grey in three equal channels, preprocessed according to the plan"
        },
        "outputs": {
            "logits": "float32 [B, S, 3, 32, 32], softmax over the third axis",
            "iou": "float32 [B, S, 3], not trained by MA-SAM",
        },
        "slices": "3 or more; trained with 3",
        "spec": json.loads(json.dumps(asdict(SPEC))),
        "classes": ["background", "ball", "box"],
        "plan": PLAN.model_dump(mode="json"),
    }


def test_a_model_of_videos_takes_colours():
    model = model_with_plan()
    model.card = ModelCard(PLAN.model_copy(update={"modality": "video"}))
    wanted = "float32 [B, S, 3, 32, 32], red, green and blue, preprocessed according to the plan"
    assert json.loads(describe(model))["input"] == {"windows": wanted}


@pytest.mark.parametrize(("window", "slices"), [(1, "1"), (2, "2"), (5, "3 or more; trained with 5")])
def test_without_a_plan_there_are_no_classes(window, slices):
    facts = json.loads(describe(random_model(replace(SPEC, window=window))))
    assert (facts["plan"], facts["classes"], facts["slices"]) == (None, None, slices)
