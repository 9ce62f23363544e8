"""SAM's loss: focal and soft Dice on the masks, squared error on the predicted overlap."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from masam.pretraining.config import PretrainConfig

_GAMMA = 2.0
_DICE_SMOOTH = 1.0


def shares(masks: Bool[Tensor, "N H W"], side: int) -> Float[Tensor, "N {side} {side}"]:
    """Return how much of each pixel of a coarser grid the masks fill: thin objects do not vanish from it."""
    return F.adaptive_avg_pool2d(masks.float()[:, None], side)[:, 0]


def mask_losses(
    logits: Float[Tensor, "N K h w"], target: Float[Tensor, "N h w"], config: PretrainConfig
) -> Float[Tensor, "N K"]:
    """Return the weighted focal and Dice loss of each mask.

    Args:
        logits: Of K masks of each object.
        target: Share of each pixel that the object fills, 0 to 1.
        config: Has the weights.

    Source:
        Kirillov et al., Segment Anything, appendix A: 20 focal to 1 Dice. Li et al., Generalized focal loss (2020), for
        targets between 0 and 1, at which it is least where the probability is the share.
    """
    logits = logits.float()
    wanted = target[:, None].expand_as(logits)
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    focal = ((wanted - probability).abs() ** _GAMMA * entropy).mean(dim=(2, 3))
    common = (probability * wanted).sum(dim=(2, 3))
    total = probability.sum(dim=(2, 3)) + wanted.sum(dim=(2, 3))
    dice = 1 - (2 * common + _DICE_SMOOTH) / (total + _DICE_SMOOTH)
    return config.focal_weight * focal + config.dice_weight * dice


@torch.no_grad()
def answers(logits: Float[Tensor, "N K h w"], side: int) -> Bool[Tensor, "N K {side} {side}"]:
    """Return the masks that logits say at the picture's size."""
    return F.interpolate(logits.float(), size=(side, side), mode="bilinear", align_corners=False) > 0


def overlap(answer: Bool[Tensor, "N K H W"], masks: Bool[Tensor, "N H W"]) -> Float[Tensor, "N K"]:
    """Return intersection over union of each answer with its object, which is not empty."""
    wanted = masks[:, None]
    return (answer & wanted).sum(dim=(2, 3)) / (answer | wanted).sum(dim=(2, 3)).float()
