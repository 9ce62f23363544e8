"""SAM's loss."""

import pytest
import torch
import torch.nn.functional as F

from masam.pretraining.config import PretrainConfig
from masam.pretraining.loss import mask_iou, mask_losses, pool_masks, predicted_masks

CONFIG = PretrainConfig()


def changed(**values):
    return CONFIG.changed(values, where="test")


def test_pooled_masks_keep_thin_objects():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :, 3] = True
    got = pool_masks(mask, 2)
    torch.testing.assert_close(got, torch.tensor([[[0.25, 0.0], [0.25, 0.0]]]))


def test_with_binary_targets_the_loss_is_focal_loss_and_dice():
    logits, target = torch.randn(2, 3, 6, 6), (torch.rand(2, 6, 6) < 0.4).float()
    probability, wanted = logits.sigmoid(), target[:, None].expand(-1, 3, -1, -1)
    right = torch.where(wanted == 1, probability, 1 - probability)
    focal = (-((1 - right) ** 2) * right.log()).mean(dim=(2, 3))
    dice = 1 - (2 * (probability * wanted).sum((2, 3)) + 1) / (probability.sum((2, 3)) + wanted.sum((2, 3)) + 1)
    torch.testing.assert_close(mask_losses(logits, target, CONFIG), 20 * focal + dice)
    torch.testing.assert_close(mask_losses(logits, target, changed(dice_weight=0, focal_weight=1)), focal)


def test_focal_loss_is_minimal_where_the_probability_equals_the_target():
    config = changed(dice_weight=0)
    grid = torch.linspace(0.02, 0.98, 97).logit().reshape(1, -1, 1, 1)
    for share in (0.1, 0.5, 0.85):
        losses = mask_losses(grid, torch.full((1, 1, 1), share), config)[0]
        assert grid.flatten()[losses.argmin()].sigmoid() == pytest.approx(share, abs=0.011)


def test_mask_iou_counts_pixels():
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, :2] = True
    answer = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    answer[0, 0, 1:3], answer[0, 2] = True, masks[0]
    torch.testing.assert_close(mask_iou(answer, masks), torch.tensor([[1 / 3, 0.0, 1.0]]))


def test_predicted_masks_are_upsampled_logits_above_zero():
    logits = torch.randn(1, 2, 4, 4)
    expected = F.interpolate(logits, size=(16, 16), mode="bilinear", align_corners=False) > 0
    assert torch.equal(predicted_masks(logits, 16), expected)
