from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import SPEC, random_model

from masam.errors import ModelError
from masam.export.agreement import (
    BATCHES,
    TOLERANCE,
    Exported,
    random_windows,
    require_agreement,
    require_same_tensors,
)

WHERE = Path("folder/model.pt2")


@pytest.fixture(scope="module")
def model():
    return random_model()


def test_the_model_agrees_with_itself(model):
    seen = []

    def run(windows):
        seen.append(windows)
        return tuple(model(windows))

    assert require_agreement(model, run, WHERE) == 0
    assert [tuple(windows.shape) for windows in seen] == [(b, SPEC.window, 3, 32, 32) for b in BATCHES]
    assert len(set(BATCHES)) == 2
    for windows in seen:
        assert torch.equal(windows, random_windows(model, len(windows)))
        assert len(windows.unique()) > windows.numel() / 2, "each channel has numbers of its own"


@pytest.mark.parametrize("output", [0, 1])
def test_the_largest_difference_of_any_output_counts(model, output):
    def run(windows):
        outputs = [tensor.clone() for tensor in model(windows)]
        if len(windows) == max(BATCHES):
            outputs[output].view(-1)[-1] += 0.5 * TOLERANCE * outputs[output].abs().max()
        return tuple(outputs)

    assert require_agreement(model, run, WHERE) == pytest.approx(0.5 * TOLERANCE, rel=0.02)


@pytest.mark.parametrize(("change", "shown"), [(1.5 * TOLERANCE, "0.00015"), (torch.nan, "nan"), (torch.inf, "inf")])
def test_a_difference_above_the_tolerance_is_an_error(model, change, shown):
    def run(windows):
        logits = model(windows).logits
        logits[0, 0, 0, 0, 0] += change * logits.abs().max()
        return (logits,)

    message = (
        f"^folder/model.pt2: the outputs of the export differ from the model by {shown} of their largest value, "
        "more than 0.0001; nothing was written; please report it$"
    )
    with pytest.raises(ModelError, match=message):
        require_agreement(model, run, WHERE)


def test_dropout_does_not_act(model):
    expected = random_model()
    assert require_agreement(model.train(), expected, WHERE) == 0
    assert not model.training


def test_outputs_of_nothing_but_zeros_agree():
    model = random_model()
    with torch.no_grad():
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight.zero_()
            mlp.layers[-1].bias.zero_()
    assert not model(random_windows(model, 1)).logits.any()
    assert require_agreement(model, model, WHERE) == 0


def test_the_record_is_plain():
    assert Exported(WHERE, 12, 1e-6).record() == {
        "path": "folder/model.pt2",
        "size_bytes": 12,
        "largest_difference": 1e-6,
        "tolerance": 1e-4,
    }


def test_equal_tensors_are_the_same_model(model):
    assert require_same_tensors(model, random_model(), WHERE) == 0
    other = random_model()
    with torch.no_grad():
        other.mask_decoder.iou_token.weight[0, 0] = torch.nextafter(
            other.mask_decoder.iou_token.weight[0, 0], torch.tensor(9.0)
        )
    message = r"^folder/model.pt2: the tensors of the export differ from the model; nothing was written; please report"
    with pytest.raises(ModelError, match=message):
        require_same_tensors(model, other, WHERE)
    with pytest.raises(ModelError, match=message):
        require_same_tensors(model, random_model(replace(SPEC, fact_rank=0)), WHERE)
