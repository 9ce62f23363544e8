"""The paper's loss: 0.2 cross-entropy + 0.8 soft Dice on full-resolution logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from masam.axes import LabelMaps

IGNORE_INDEX = -100
"""Label of pixels that count in neither part."""

DICE_SMOOTH = 1e-5


class LossParts(NamedTuple):
    """A loss and what it is made of."""

    total: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    dice: Float[Tensor, ""]


def soft_dice_loss(logits: Float[Tensor, "N K H W"], labels: LabelMaps) -> Float[Tensor, ""]:
    """Return 1 - Dice, mean over classes.

    Each class is pooled over the whole batch (all slices and pixels), the background counts as a class, and the
    denominator sums squares (paper.md 1.6).

    Args:
        logits: [N, K, H, W].
        labels: [N, H, W] in 0..K-1, or ``IGNORE_INDEX``.
    """
    known = labels != IGNORE_INDEX
    # Class by class sums in float32 whatever the logits' type: half precision cannot sum a million pixels.
    probabilities = logits.float().softmax(dim=1) * known[:, None]
    target = torch.where(known, labels, 0)
    hit = probabilities.gather(1, target[:, None])[:, 0]
    # Sums per class by bincount-like scatter; a one-hot target of [N, K, H, W] would double the memory.
    classes = logits.shape[1]
    flat_target = target[known]
    intersection = hit.new_zeros(classes).index_add(0, flat_target, hit[known])
    target_sum = hit.new_zeros(classes).index_add(0, flat_target, torch.ones_like(hit[known]))
    prediction_sum = probabilities.square().sum(dim=(0, 2, 3))
    dice = (2 * intersection + DICE_SMOOTH) / (prediction_sum + target_sum + DICE_SMOOTH)
    return (1 - dice).mean()


def segmentation_loss(
    logits: Float[Tensor, "N K H W"], labels: LabelMaps, cross_entropy_weight: float = 0.2, dice_weight: float = 0.8
) -> LossParts:
    """Return the weighted sum of cross-entropy (mean over known pixels) and soft Dice loss.

    Args:
        logits: [N, K, H, W].
        labels: [N, H, W] in 0..K-1, or ``IGNORE_INDEX``.
        cross_entropy_weight: Factor of the cross-entropy.
        dice_weight: Factor of the Dice loss.
    """
    cross_entropy = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX)
    dice = soft_dice_loss(logits, labels)
    return LossParts(cross_entropy_weight * cross_entropy + dice_weight * dice, cross_entropy, dice)
