"""Rounds of prompts as in the training of SAM: a box or a click, then clicks at errors of the prediction.

Source: Kirillov et al., Segment Anything (2023), appendix A, training algorithm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from masam.axes import Boxes, MaskPrompts, PointLabels, Points
from masam.device import autocast
from masam.model.sam import Sam, SamOutput
from masam.pretraining.clicks import Click, click_in, corrective_click, loose_box
from masam.pretraining.config import PretrainConfig
from masam.pretraining.loss import mask_iou, mask_losses, pool_masks, predicted_masks

# The masks of SAM's decoder: one for unambiguous prompts, and three for a single prompt.
_SINGLE, _MULTI = slice(0, 1), slice(1, None)


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts of some objects so far; each may be None."""

    points: Points | None = None  # [N, P, 2] x and y in pixels
    point_labels: PointLabels | None = None  # [N, P] 1 on the object, 0 off the object
    boxes: Boxes | None = None  # [N, 4] x0, y0, x1, y1 in pixels
    masks: MaskPrompts | None = None  # [N, 1, h, w] logits of the last prediction

    def with_clicks(self, clicks: list[Click], masks: MaskPrompts | None) -> Prompts:
        """Return the prompts with another click per object and the logits of the last prediction, or None."""
        device = None if masks is None else masks.device
        points = torch.tensor([[[click.x, click.y]] for click in clicks], dtype=torch.float32, device=device)
        labels = torch.tensor([[click.label] for click in clicks], device=device)
        if self.points is not None and self.point_labels is not None:
            points = torch.cat([self.points, points], dim=1)
            labels = torch.cat([self.point_labels, labels], dim=1)
        return replace(self, points=points, point_labels=labels, masks=masks)

    def to(self, device: torch.device) -> Prompts:
        """Return the prompts on a device."""
        return Prompts(**{name: None if x is None else x.to(device) for name, x in self.as_arguments().items()})

    def as_arguments(self) -> dict[str, Tensor | None]:
        """Return the prompts as arguments of ``Sam.decode``."""
        return dict(vars(self))


def first_prompts(masks: NDArray[np.bool_], generator: np.random.Generator, *, by_box: bool) -> Prompts:
    """Draw a box, or else a click, for each of the objects [N, H, W], which are not empty."""
    if by_box:
        return Prompts(boxes=torch.from_numpy(np.stack([loose_box(mask, generator) for mask in masks])))
    return Prompts().with_clicks([click_in(mask, 1, generator) for mask in masks], None)


def select_mask(out: SamOutput, *, is_ambiguous: bool) -> MaskPrompts:
    """Return the logits of the mask that a user would see.

    Args:
        out: Output of ``Sam.decode`` with all masks.
        is_ambiguous: The prompt was a single click: of three masks, the one with the largest predicted IoU is returned.
    """
    if not is_ambiguous:
        return out.logits[:, _SINGLE]
    best = out.iou[:, _MULTI].argmax(dim=1)
    return out.logits[:, _MULTI][torch.arange(len(best), device=best.device), best][:, None]


def corrective_clicks(
    predictions: Bool[Tensor, "N 1 H W"], masks: NDArray[np.bool_], generator: np.random.Generator | None
) -> list[Click]:
    """Return a corrective click for each object; without a generator, in the middle of the error."""
    predicted = predictions[:, 0].cpu().numpy()
    return [corrective_click(mask, one, generator) for mask, one in zip(masks, predicted, strict=True)]


def round_loss(
    out: SamOutput,
    masks: Bool[Tensor, "N H W"],
    config: PretrainConfig,
    *,
    is_first: bool,
    by_box: bool,
) -> Float[Tensor, ""]:
    """Return the loss of one round.

    The best of the three masks counts for the first prompt; the single mask counts for a box and for several prompts.
    """
    losses = mask_losses(out.logits, pool_masks(masks, out.logits.shape[-1]), config)
    iou = mask_iou(predicted_masks(out.logits.detach(), masks.shape[-1]), masks)
    errors = (out.iou.float() - iou) ** 2
    terms = []
    if is_first:
        terms.append(losses[:, _MULTI].min(dim=1).values.mean() + config.iou_weight * errors[:, _MULTI].mean())
    if by_box or not is_first:
        terms.append(losses[:, _SINGLE].mean() + config.iou_weight * errors[:, _SINGLE].mean())
    return torch.stack(terms).mean()


def prompt_rounds(
    sam: Sam,
    embeddings: Float[Tensor, "B D h w"],
    picture_of: Int[Tensor, " N"],
    masks: Bool[Tensor, "N H W"],
    config: PretrainConfig,
    generator: np.random.Generator,
    *,
    count: int,
    by_box: bool,
) -> Iterator[Float[Tensor, ""]]:
    """Prompt for some objects of the pictures ``picture_of`` in several rounds; yield the loss of each with its graph.

    The first prompts are boxes or clicks; the objects are on the device of the model.
    """
    objects = masks.cpu().numpy()
    prompts = first_prompts(objects, generator, by_box=by_box).to(embeddings.device)
    for number in range(count):
        with autocast(embeddings.device, config.precision):
            # Indexed in each round, because the graph of a round is freed before the next.
            out = sam.decode(embeddings[picture_of], multimask=None, **prompts.as_arguments())
        is_first = number == 0
        yield round_loss(out, masks, config, is_first=is_first, by_box=by_box)
        if number + 1 < count:
            logits = select_mask(out, is_ambiguous=is_first and not by_box).detach().float()
            clicks = corrective_clicks(predicted_masks(logits, masks.shape[-1]), objects, generator)
            prompts = prompts.with_clicks(clicks, logits)
