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


class LossSums(NamedTuple):
    """All that the loss depends on, as sums over pixels: those of the parts of a batch add up to those of the whole."""

    entropy: Float[Tensor, ""]
    """Cross-entropy."""
    known: Float[Tensor, ""]
    """Pixels that have a label."""
    intersection: Float[Tensor, "K"]
    """Probability of each class on its own pixels."""
    prediction: Float[Tensor, "K"]
    """Squared probability of each class."""
    target: Float[Tensor, "K"]
    """Pixels of each class."""


def loss_sums(logits: Float[Tensor, "N K H W"], labels: LabelMaps) -> LossSums:
    """Sum up what the loss depends on.

    Args:
        logits: [N, K, H, W].
        labels: [N, H, W] in 0..K-1, or ``IGNORE_INDEX``.
    """
    # One softmax for both parts: at full resolution it is a good share of a small model's step.
    log_probabilities = _at_least_float32(logits).log_softmax(dim=1)
    probabilities = log_probabilities.exp()
    known = labels != IGNORE_INDEX
    target = torch.where(known, labels, 0)
    hit = probabilities.gather(1, target[:, None])[:, 0] * known
    # Sums per slice and class by scatter, then over slices: a one-hot target of [N, K, H, W] would double the memory,
    # and one running float32 sum over the batch stops growing at 2 ** 24 pixels.
    zeros = hit.new_zeros(probabilities.shape[:2])
    return LossSums(
        F.nll_loss(log_probabilities, labels, ignore_index=IGNORE_INDEX, reduction="sum"),
        known.sum().to(hit.dtype),
        zeros.scatter_add(1, target.flatten(1), hit.flatten(1)).sum(dim=0),
        (probabilities.square() * known[:, None]).sum(dim=(0, 2, 3)),
        zeros.scatter_add(1, target.flatten(1), known.to(hit.dtype).flatten(1)).sum(dim=0),
    )


def loss_of(sums: LossSums, cross_entropy_weight: float = 0.2, dice_weight: float = 0.8) -> LossParts:
    """Return the weighted sum of cross-entropy (mean over known pixels) and soft Dice loss.

    Dice is a mean over classes, of which the background is one; its denominator sums squares. Where no pixel is known,
    all parts are zero.

    Args:
        sums: Of a batch, or of all its parts together.
        cross_entropy_weight: Factor of the cross-entropy.
        dice_weight: Factor of the Dice loss.

    Source:
        paper.md 1.6.
    """
    cross_entropy = sums.entropy / sums.known.clamp(min=1)
    dice = (2 * sums.intersection + DICE_SMOOTH) / (sums.prediction + sums.target + DICE_SMOOTH)
    dice_loss = (1 - dice).mean()
    return LossParts(cross_entropy_weight * cross_entropy + dice_weight * dice_loss, cross_entropy, dice_loss)


def part_of_loss(part: LossSums, batch: LossSums, **weights: float) -> Float[Tensor, ""]:
    """Return a number whose gradient is what a part of a batch adds to the gradient of the whole batch's loss.

    The loss is a function of sums, so its gradient is the sum of its slopes at the batch's sums times each part's own
    gradients: parts need not be in memory together, nor on one device.

    Args:
        part: Sums of the part, with their graph.
        batch: Sums of all parts of all processes.
        **weights: As of ``loss_of``.
    """
    point = LossSums(*(value.detach().requires_grad_() for value in batch))
    slopes = torch.autograd.grad(loss_of(point, **weights).total, list(point))
    return torch.stack([(slope * value).sum() for slope, value in zip(slopes, part, strict=True)]).sum()


def segmentation_loss(logits: Float[Tensor, "N K H W"], labels: LabelMaps, **weights: float) -> LossParts:
    """Return the loss of a batch.

    Args:
        logits: [N, K, H, W].
        labels: [N, H, W] in 0..K-1, or ``IGNORE_INDEX``.
        **weights: As of ``loss_of``.
    """
    return loss_of(loss_sums(logits, labels), **weights)


def _at_least_float32(logits: Float[Tensor, "N K H W"]) -> Float[Tensor, "N K H W"]:
    """Half precision cannot sum a million pixels."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
