"""How well a model answers prompts on held-out pictures: mean overlap by a box, by a click, and after three clicks."""

from __future__ import annotations

import torch

from masam.device import autocast
from masam.model.sam import Sam
from masam.pretraining.clicks import click_in, tight_box
from masam.pretraining.config import PretrainConfig
from masam.pretraining.loss import answers, overlap
from masam.pretraining.objects import held_out_objects
from masam.pretraining.rounds import Prompts, chosen_answer, corrections

CLICKS = 3
"""Clicks that the last figure is after."""

_AT_ONCE = 8


def score_prompts(sam: Sam, config: PretrainConfig, device: torch.device) -> dict[str, float]:
    """Return the mean intersection over union of held-out objects, one a picture.

    The same pictures and prompts whatever the model, which sees pictures in SAM's own normalisation.

    Args:
        sam: The model, on the device.
        config: Settings of the run.
        device: Where the model is.

    Returns:
        ``miou_box`` by a tight box, ``miou_click`` by a click in the middle, ``miou_3_clicks`` after two corrections.
    """
    sam.eval()
    found: dict[str, list[torch.Tensor]] = {"miou_box": [], "miou_click": [], f"miou_{CLICKS}_clicks": []}
    for first in range(0, config.validation_pictures, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, config.validation_pictures))
        for name, values in _score_some(sam, config, device, numbers).items():
            found[name].append(values)
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


@torch.no_grad()
def _score_some(sam: Sam, config: PretrainConfig, device: torch.device, numbers: range) -> dict[str, torch.Tensor]:
    images, masks, _ = held_out_objects(config, numbers)
    objects, side = masks.numpy(), masks.shape[-1]
    masks = masks.to(device)
    scores = {}
    with autocast(device, config.precision):
        embeddings = sam.encode(images.to(device) * 255)
        boxes = torch.stack([torch.from_numpy(tight_box(one)) for one in objects])
        out = sam.decode_all(embeddings, boxes=boxes.to(device))
        answer = answers(chosen_answer(out, is_ambiguous=False), side)
        scores["miou_box"] = overlap(answer, masks)[:, 0].cpu()
        prompts = Prompts().clicked([click_in(one, 1) for one in objects], None).to(device)
        for number in range(1, CLICKS + 1):
            out = sam.decode_all(embeddings, **prompts.as_arguments())
            logits = chosen_answer(out, is_ambiguous=number == 1).float()
            answer = answers(logits, side)
            if number in (1, CLICKS):
                name = "miou_click" if number == 1 else f"miou_{CLICKS}_clicks"
                scores[name] = overlap(answer, masks)[:, 0].cpu()
            prompts = prompts.clicked(corrections(answer, objects, None), logits)
    return scores
