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
    return _dice_loss(_at_least_float32(logits).softmax(dim=1), labels)


def segmentation_loss(
    logits: Float[Tensor, "N K H W"], labels: LabelMaps, cross_entropy_weight: float = 0.2, dice_weight: float = 0.8
) -> LossParts:
    """Return the weighted sum of cross-entropy (mean over known pixels) and soft Dice loss.

    Where no pixel is known, all parts are zero.

    Args:
        logits: [N, K, H, W].
        labels: [N, H, W] in 0..K-1, or ``IGNORE_INDEX``.
        cross_entropy_weight: Factor of the cross-entropy.
        dice_weight: Factor of the Dice loss.
    """
    # One softmax for both parts: at full resolution it is a good share of a small model's step.
    log_probabilities = _at_least_float32(logits).log_softmax(dim=1)
    known = (labels != IGNORE_INDEX).sum().clamp(min=1)
    cross_entropy = F.nll_loss(log_probabilities, labels, ignore_index=IGNORE_INDEX, reduction="sum") / known
    dice = _dice_loss(log_probabilities.exp(), labels)
    return LossParts(cross_entropy_weight * cross_entropy + dice_weight * dice, cross_entropy, dice)


def _dice_loss(probabilities: Float[Tensor, "N K H W"], labels: LabelMaps) -> Float[Tensor, ""]:
    known = labels != IGNORE_INDEX
    target = torch.where(known, labels, 0)
    hit = probabilities.gather(1, target[:, None])[:, 0] * known
    # Sums per slice and class by scatter, then over slices: a one-hot target of [N, K, H, W] would double the memory,
    # and one running float32 sum over the batch stops growing at 2 ** 24 pixels.
    zeros = hit.new_zeros(probabilities.shape[:2])
    intersection = zeros.scatter_add(1, target.flatten(1), hit.flatten(1)).sum(dim=0)
    target_sum = zeros.scatter_add(1, target.flatten(1), known.to(hit.dtype).flatten(1)).sum(dim=0)
    prediction_sum = (probabilities.square() * known[:, None]).sum(dim=(0, 2, 3))
    dice = (2 * intersection + DICE_SMOOTH) / (prediction_sum + target_sum + DICE_SMOOTH)
    return (1 - dice).mean()


def _at_least_float32(logits: Float[Tensor, "N K H W"]) -> Float[Tensor, "N K H W"]:
    """Half precision cannot sum a million pixels."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
