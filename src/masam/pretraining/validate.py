"""Validation on held-out pictures: mean IoU for a box, for one click, and after three clicks."""

from __future__ import annotations

import torch

from masam.device import autocast
from masam.model.sam import Sam
from masam.pretraining.clicks import click_in, tight_box
from masam.pretraining.config import PretrainConfig
from masam.pretraining.loss import mask_iou, predicted_masks
from masam.pretraining.objects import held_out_objects
from masam.pretraining.rounds import Prompts, corrective_clicks, select_mask

_CLICKS = 3
_BATCH = 8


def score_prompts(sam: Sam, config: PretrainConfig, device: torch.device) -> dict[str, float]:
    """Return the mean intersection over union of held-out objects, one per picture.

    Pictures and first prompts do not depend on the model. The pictures are normalised as SAM does.

    Returns:
        ``miou_box`` for a tight box, ``miou_click`` for a click in the centre, ``miou_3_clicks`` after two corrections.
    """
    sam.eval()
    scores: dict[str, list[torch.Tensor]] = {"miou_box": [], "miou_click": [], "miou_3_clicks": []}
    for first in range(0, config.validation_pictures, _BATCH):
        numbers = range(first, min(first + _BATCH, config.validation_pictures))
        for name, values in _score_batch(sam, config, device, numbers).items():
            scores[name].append(values)
    return {name: float(torch.cat(values).mean()) for name, values in scores.items()}


@torch.no_grad()
def _score_batch(sam: Sam, config: PretrainConfig, device: torch.device, numbers: range) -> dict[str, torch.Tensor]:
    images, masks, _ = held_out_objects(config, numbers)
    objects, side = masks.numpy(), masks.shape[-1]
    masks = masks.to(device)
    scores = {}
    with autocast(device, config.precision):
        embeddings = sam.encode(images.to(device) * 255)
        boxes = torch.stack([torch.from_numpy(tight_box(mask)) for mask in objects])
        out = sam.decode(embeddings, multimask=None, boxes=boxes.to(device))
        predicted = predicted_masks(select_mask(out, is_ambiguous=False), side)
        scores["miou_box"] = mask_iou(predicted, masks)[:, 0].cpu()
        prompts = Prompts().with_clicks([click_in(mask, 1) for mask in objects], None).to(device)
        for number in range(1, _CLICKS + 1):
            out = sam.decode(embeddings, multimask=None, **prompts.as_arguments())
            logits = select_mask(out, is_ambiguous=number == 1).float()
            predicted = predicted_masks(logits, side)
            if name := {1: "miou_click", _CLICKS: "miou_3_clicks"}.get(number):
                scores[name] = mask_iou(predicted, masks)[:, 0].cpu()
            prompts = prompts.with_clicks(corrective_clicks(predicted, objects, None), logits)
    return scores
