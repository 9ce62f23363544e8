"""SAM's loss: focal and soft Dice loss of the masks, squared error of the predicted IoU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from masam.pretraining.config import PretrainConfig

_GAMMA = 2.0
_DICE_SMOOTH = 1.0


def pool_masks(masks: Bool[Tensor, "N H W"], side: int) -> Float[Tensor, "N {side} {side}"]:
    """Return the fraction of each pixel of a coarser grid that the masks cover, so that thin objects do not vanish."""
    return F.adaptive_avg_pool2d(masks.float()[:, None], side)[:, 0]


def mask_losses(
    logits: Float[Tensor, "N K h w"], target: Float[Tensor, "N h w"], config: PretrainConfig
) -> Float[Tensor, "N K"]:
    """Return the weighted focal and Dice loss of each mask.

    Args:
        logits: K masks for each object.
        target: Fraction of each pixel that the object covers, 0 to 1.
        config: Configuration with the weights.

    Source:
        Kirillov et al., Segment Anything, appendix A: 20 focal to 1 Dice. Li et al., Generalized focal loss (2020), for
        targets between 0 and 1; its minimum is where the probability equals the target.
    """
    logits = logits.float()
    target = target[:, None].expand_as(logits)
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = ((target - probability).abs() ** _GAMMA * entropy).mean(dim=(2, 3))
    common = (probability * target).sum(dim=(2, 3))
    total = probability.sum(dim=(2, 3)) + target.sum(dim=(2, 3))
    dice = 1 - (2 * common + _DICE_SMOOTH) / (total + _DICE_SMOOTH)
    return config.focal_weight * focal + config.dice_weight * dice


@torch.no_grad()
def predicted_masks(logits: Float[Tensor, "N K h w"], side: int) -> Bool[Tensor, "N K {side} {side}"]:
    """Return the masks of logits at the size of the picture."""
    return F.interpolate(logits.float(), size=(side, side), mode="bilinear", align_corners=False) > 0


def mask_iou(predictions: Bool[Tensor, "N K H W"], masks: Bool[Tensor, "N H W"]) -> Float[Tensor, "N K"]:
    """Return the intersection over union of each prediction with its object, which is not empty."""
    target = masks[:, None]
    return (predictions & target).sum(dim=(2, 3)) / (predictions | target).sum(dim=(2, 3)).float()
