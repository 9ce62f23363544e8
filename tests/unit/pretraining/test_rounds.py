"""Rounds of prompts and their loss."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import SAM, randomise

from masam.model.sam import Sam, SamOutput
from masam.pretraining.clicks import Click
from masam.pretraining.config import PretrainConfig
from masam.pretraining.loss import mask_iou, mask_losses, pool_masks, predicted_masks
from masam.pretraining.rounds import Prompts, first_prompts, prompt_rounds, round_loss, select_mask
from masam.reproducibility import prompt_generator

CONFIG = PretrainConfig(image_size=64)


@pytest.fixture
def masks():
    found = torch.zeros(3, 64, 64, dtype=torch.bool)
    found[0, 10:30, 10:30], found[1, 40:60, 5:50], found[2, 20:44, 20:44] = True, True, True
    return found


@pytest.fixture
def sam():
    torch.manual_seed(0)
    return randomise(Sam(SAM, 64), seed=2)


def test_first_prompts_are_boxes_or_clicks_on_the_object(masks):
    boxes = first_prompts(masks.numpy(), prompt_generator(1, 0), by_box=True)
    assert boxes.boxes.shape == (3, 4)
    assert boxes.points is None
    clicks = first_prompts(masks.numpy(), prompt_generator(1, 0), by_box=False)
    assert clicks.boxes is None
    assert clicks.point_labels.tolist() == [[1], [1], [1]]
    for mask, ((x, y),) in zip(masks, clicks.points.long().tolist(), strict=True):
        assert mask[y, x]


def test_clicks_accumulate_and_the_last_logits_replace_earlier_ones():
    first, last = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    prompts = Prompts(boxes=torch.tensor([[1.0, 2, 3, 4]]))
    prompts = prompts.with_clicks([Click(1, 2, 1)], first).with_clicks([Click(3, 4, 0)], last)
    assert prompts.points.tolist() == [[[1, 2], [3, 4]]]
    assert prompts.point_labels.tolist() == [[1, 0]]
    assert torch.equal(prompts.masks, last)
    assert prompts.boxes.tolist() == [[1, 2, 3, 4]]


def test_after_one_click_the_mask_with_the_largest_predicted_iou_is_selected():
    logits = torch.arange(8.0).reshape(2, 4, 1, 1)
    out = SamOutput(logits, torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.0, 0.7, 0.5, 0.6]]))
    assert select_mask(out, is_ambiguous=True).flatten().tolist() == [2, 5]
    assert select_mask(out, is_ambiguous=False).flatten().tolist() == [0, 4]


@pytest.mark.parametrize(("is_first", "by_box"), [(True, False), (True, True), (False, False), (False, True)])
def test_the_loss_uses_the_masks_that_count(masks, is_first, by_box):
    out = SamOutput(torch.randn(3, 4, 16, 16), torch.rand(3, 4))
    losses = mask_losses(out.logits, pool_masks(masks, 16), CONFIG)
    errors = (out.iou - mask_iou(predicted_masks(out.logits, 64), masks)) ** 2
    best = losses[:, 1:].min(dim=1).values.mean() + errors[:, 1:].mean()
    single = losses[:, 0].mean() + errors[:, 0].mean()
    expected = {(True, False): best, (True, True): (best + single) / 2}.get((is_first, by_box), single)
    torch.testing.assert_close(round_loss(out, masks, CONFIG, is_first=is_first, by_box=by_box), expected)


def test_only_the_best_of_three_masks_gets_a_gradient(masks):
    logits = torch.randn(3, 4, 16, 16, requires_grad=True)
    iou = torch.zeros(3, 4)
    round_loss(SamOutput(logits, iou), masks, CONFIG, is_first=True, by_box=False).backward()
    taught = logits.grad.abs().sum(dim=(2, 3)) > 0
    assert taught.sum(dim=1).tolist() == [1, 1, 1]
    assert not taught[:, 0].any()


@pytest.mark.parametrize("by_box", [True, False])
def test_rounds_add_prompts_and_have_gradients_for_the_pictures(sam, masks, by_box, monkeypatch):
    asked = []
    decode = sam.decode

    def watched(embeddings, multimask, **prompts):
        asked.append({name: None if value is None else tuple(value.shape) for name, value in prompts.items()})
        return decode(embeddings, multimask=multimask, **prompts)

    monkeypatch.setattr(sam, "decode", watched)
    embeddings = torch.randn(2, 32, 4, 4, requires_grad=True)
    of = torch.tensor([0, 0, 1])
    rounds = prompt_rounds(sam, embeddings, of, masks, CONFIG, prompt_generator(1, 0), count=3, by_box=by_box)
    gradients = []
    for loss in rounds:
        loss.backward()
        gradients.append(embeddings.grad.clone())
    assert [one["masks"] for one in asked] == [None, (3, 1, 16, 16), (3, 1, 16, 16)]
    clicks = [None, (3, 1, 2), (3, 2, 2)] if by_box else [(3, 1, 2), (3, 2, 2), (3, 3, 2)]
    assert [one["points"] for one in asked] == clicks
    assert [one["boxes"] for one in asked] == [(3, 4) if by_box else None] * 3
    assert not any(np.array_equal(a, b) for a, b in pairwise(gradients))
