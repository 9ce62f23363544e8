"""The paper's loss: 0.2 cross-entropy + 0.8 soft Dice on full-resolution logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from masam.axes import LabelMaps

IGNORE_INDEX = -100
"""Label of pixels that the loss ignores."""

DICE_SMOOTH = 1e-5


class LossParts(NamedTuple):
    """The loss and its unweighted terms."""

    total: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    dice: Float[Tensor, ""]


class LossSums(NamedTuple):
    """Sums over pixels that determine the loss; the sums of a batch are the sums of its parts added up."""

    entropy: Float[Tensor, ""]  # cross-entropy
    known: Float[Tensor, ""]  # number of labelled pixels
    intersection: Float[Tensor, "K"]  # probability of each class on the pixels of that class
    prediction: Float[Tensor, "K"]  # squared probability of each class
    target: Float[Tensor, "K"]  # number of pixels of each class


def loss_sums(logits: Float[Tensor, "N K H W"], labels: LabelMaps) -> LossSums:
    """Return the sums that determine the loss; labels are 0..K-1 or ``IGNORE_INDEX``."""
    # One softmax for both terms: at full resolution it takes a large part of a small model's step.
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

    Dice is averaged over classes including the background; its denominator contains squares. Without labelled pixels
    all terms are zero.

    Source:
        paper.md 1.6.
    """
    cross_entropy = sums.entropy / sums.known.clamp(min=1)
    dice = (2 * sums.intersection + DICE_SMOOTH) / (sums.prediction + sums.target + DICE_SMOOTH)
    dice_loss = (1 - dice).mean()
    return LossParts(cross_entropy_weight * cross_entropy + dice_weight * dice_loss, cross_entropy, dice_loss)


def part_of_loss(part: LossSums, batch: LossSums, **weights: float) -> Float[Tensor, ""]:
    """Return a scalar whose gradient is the contribution of one part to the gradient of the batch's loss.

    The loss is a function of sums. Its gradient is the derivative by the batch's sums times the gradients of each
    part's sums, so the parts need not be in memory together, nor on one device. ``batch`` holds the sums of all parts
    of all processes; the weights are those of :func:`loss_of`.
    """
    point = LossSums(*(value.detach().requires_grad_() for value in batch))
    derivatives = torch.autograd.grad(loss_of(point, **weights).total, list(point))
    return torch.stack([(slope * value).sum() for slope, value in zip(derivatives, part, strict=True)]).sum()


def segmentation_loss(logits: Float[Tensor, "N K H W"], labels: LabelMaps, **weights: float) -> LossParts:
    """Return the loss of a batch."""
    return loss_of(loss_sums(logits, labels), **weights)


def _at_least_float32(logits: Float[Tensor, "N K H W"]) -> Float[Tensor, "N K H W"]:
    """Half precision cannot sum a million pixels."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
