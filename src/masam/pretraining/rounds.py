"""Rounds of prompting as SAM was trained: a box or a click, then clicks where the answer is wrong.

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
from masam.pretraining.clicks import Click, click_in, correcting_click, loose_box
from masam.pretraining.config import PretrainConfig
from masam.pretraining.loss import answers, mask_losses, overlap, shares

_SINGLE, _MULTI = slice(0, 1), slice(1, None)


@dataclass(frozen=True, eq=False)
class Prompts:
    """What has been said about some objects so far.

    Attributes:
        points: [N, P, 2] x and y in pixels, or None.
        point_labels: [N, P], or None.
        boxes: [N, 4], or None.
        masks: [N, 1, h, w] logits of the last answer, or None.
    """

    points: Points | None = None
    point_labels: PointLabels | None = None
    boxes: Boxes | None = None
    masks: MaskPrompts | None = None

    def clicked(self, clicks: list[Click], masks: MaskPrompts | None) -> Prompts:
        """Return the prompts with one click more an object, and the last answer.

        Args:
            clicks: N of them.
            masks: [N, 1, h, w] logits of the answer that they correct, or None.
        """
        device = None if masks is None else masks.device
        points = torch.tensor([[[click.x, click.y]] for click in clicks], dtype=torch.float32, device=device)
        labels = torch.tensor([[click.label] for click in clicks], device=device)
        if self.points is not None and self.point_labels is not None:
            points = torch.cat([self.points, points], dim=1)
            labels = torch.cat([self.point_labels, labels], dim=1)
        return replace(self, points=points, point_labels=labels, masks=masks)

    def to(self, device: torch.device) -> Prompts:
        """Return the prompts on a device."""
        return Prompts(*(None if one is None else one.to(device) for one in self.as_arguments().values()))

    def as_arguments(self) -> dict[str, Tensor | None]:
        """Return them as arguments of ``Sam.decode``."""
        return {
            "points": self.points, "point_labels": self.point_labels, "boxes": self.boxes, "masks": self.masks
        }  # fmt: skip


def first_prompts(masks: NDArray[np.bool_], generator: np.random.Generator, *, by_box: bool) -> Prompts:
    """Draw a box or a click for each object.

    Args:
        masks: [N, H, W] objects, none of them empty.
        generator: Source of the draws.
        by_box: A box, not a click.
    """
    if by_box:
        return Prompts(boxes=torch.from_numpy(np.stack([loose_box(mask, generator) for mask in masks])))
    return Prompts().clicked([click_in(mask, 1, generator) for mask in masks], None)


def chosen_answer(out: SamOutput, *, is_ambiguous: bool) -> MaskPrompts:
    """Return the logits of the answer that a user would see: after one click the one that says it is the best of three.

    Args:
        out: Of ``Sam.decode_all``.
        is_ambiguous: Whether the prompt was a single click.
    """
    if not is_ambiguous:
        return out.logits[:, _SINGLE]
    best = out.iou[:, _MULTI].argmax(dim=1)
    return out.logits[:, _MULTI][torch.arange(len(best), device=best.device), best][:, None]


def corrections(
    answer: Bool[Tensor, "N 1 H W"], masks: NDArray[np.bool_], generator: np.random.Generator | None
) -> list[Click]:
    """Return a correcting click an object; drawn, or where the fault is deepest without a generator."""
    said = answer[:, 0].cpu().numpy()
    return [correcting_click(mask, one, generator) for mask, one in zip(masks, said, strict=True)]


def round_loss(
    out: SamOutput,
    masks: Bool[Tensor, "N H W"],
    config: PretrainConfig,
    *,
    is_first: bool,
    by_box: bool,
) -> Float[Tensor, ""]:
    """Return the loss of one round.

    To a first prompt the three masks answer, and the best of them counts; to more than one prompt, and to a box, the
    single mask does.

    Args:
        out: Of ``Sam.decode_all``.
        masks: The objects.
        config: Has the weights.
        is_first: Whether this is the first prompt.
        by_box: Whether that one was a box.
    """
    losses = mask_losses(out.logits, shares(masks, out.logits.shape[-1]), config)
    true = overlap(answers(out.logits.detach(), masks.shape[-1]), masks)
    errors = (out.iou.float() - true) ** 2
    parts = []
    if is_first:
        parts.append(losses[:, _MULTI].min(dim=1).values.mean() + config.iou_weight * errors[:, _MULTI].mean())
    if by_box or not is_first:
        parts.append(losses[:, _SINGLE].mean() + config.iou_weight * errors[:, _SINGLE].mean())
    return torch.stack(parts).mean()


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
    """Prompt for some objects, round after round; yields each round's loss, with its graph.

    Args:
        sam: The model.
        embeddings: [B, D, h, w] of the pictures.
        picture_of: [N] the picture of each object.
        masks: The objects, on the model's device.
        config: Settings of the run.
        generator: Source of the prompts.
        count: Rounds.
        by_box: Begin with boxes, else with clicks.
    """
    objects = masks.cpu().numpy()
    prompts = first_prompts(objects, generator, by_box=by_box).to(embeddings.device)
    for number in range(count):
        with autocast(embeddings.device, config.precision):
            # Gathered anew each round, whose graph goes before the next.
            out = sam.decode_all(embeddings[picture_of], **prompts.as_arguments())
        is_first = number == 0
        yield round_loss(out, masks, config, is_first=is_first, by_box=by_box)
        if number + 1 < count:
            answer = chosen_answer(out, is_ambiguous=is_first and not by_box).detach().float()
            clicks = corrections(answers(answer, masks.shape[-1]), objects, generator)
            prompts = prompts.clicked(clicks, answer)
