"""One checkpoint, prompted and automatic: each class's prompts are asked apart, and the answers put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from masam.model.masam import Masam
from masam.prompts.projection import MASK_LOGIT, SlicePrompt, VolumePrompts

_LEAST = 1e-12


def prompted_probabilities(
    model: Masam,
    embeddings: Float[Tensor, "N D h w"],
    slices: Sequence[int],
    prompts: VolumePrompts,
    within: range,
) -> Float[Tensor, "N K H W"]:
    """Run a model's decoder on windows with the prompts of their slices.

    Windows were encoded whole; slices are decoded one by one: a slice without a prompt is decoded without one, and not
    at all where prompts decide it. So a model that was trained with a box on every slice is never asked without.

    Args:
        model: The model, in evaluation mode.
        embeddings: [N, D, h, w] what ``Masam.encode`` made of the windows, N = B * S, on the model's device.
        slices: Index in the volume of each of the N slices.
        prompts: Prompts of the volume.
        within: Slices that are asked for; the others come as background.
    """
    side = model.spec.image_size
    touched = [prompts.at(index) if index in within else {} for index in slices]
    automatic = torch.zeros(len(slices), model.spec.num_channels, side, side, device=embeddings.device)
    automatic[:, 0] = 1
    open_ones = [n for n, index in enumerate(slices) if index in within and not prompts.is_decided(index)]
    if open_ones:
        automatic[open_ones] = model.decode(embeddings[open_ones])[0].float().softmax(dim=1)
    answers = {}
    for channel in prompts.classes:
        own = [n for n, some in enumerate(touched) if channel in some]
        if own:
            boxes, points, labels, masks = stack_prompts([touched[n][channel] for n in own], embeddings.device)
            logits, _ = model.decode_each(embeddings[own], boxes, points, labels, masks)
            answers[channel] = own, logits.float().softmax(dim=1)[:, channel]
    return put_together(automatic, answers, [prompts.ruled_out(index) for index in slices])


class PromptTensors(NamedTuple):
    """The prompts of N slices, as ``Masam.decode_each`` takes them."""

    boxes: Float[Tensor, "N 4"]
    points: Float[Tensor, "N P 2"]
    point_labels: Int[Tensor, "N P"]
    masks: Float[Tensor, "N 1 H W"] | None


def stack_prompts(prompts: Sequence[SlicePrompt], device: torch.device) -> PromptTensors:
    """Put the prompts of slices side by side; what a slice lacks is NaN, of points the label -1.

    Args:
        prompts: One a slice, at least one.
        device: Where the tensors are wanted.
    """
    n, most = len(prompts), max(len(prompt.points) for prompt in prompts)
    boxes = torch.full((n, 4), torch.nan)
    points, labels = torch.zeros(n, most, 2), torch.full((n, most), -1)
    shape = next((prompt.mask.shape for prompt in prompts if prompt.mask is not None), None)
    masks = None if shape is None else torch.full((n, 1, *shape), torch.nan)
    for index, prompt in enumerate(prompts):
        if prompt.box is not None:
            boxes[index] = torch.from_numpy(prompt.box)
        points[index, : len(prompt.points)] = torch.from_numpy(prompt.points)
        labels[index, : len(prompt.points)] = torch.from_numpy(prompt.point_labels)
        if masks is not None and prompt.mask is not None:
            masks[index, 0] = (torch.from_numpy(prompt.mask).float() * 2 - 1) * MASK_LOGIT
    placed = None if masks is None else masks.to(device)
    return PromptTensors(boxes.to(device), points.to(device), labels.to(device), placed)


def put_together(
    automatic: Float[Tensor, "N K H W"],
    answers: Mapping[int, tuple[Sequence[int], Float[Tensor, "M H W"]]],
    ruled_out: Sequence[Sequence[int]],
) -> Float[Tensor, "N K H W"]:
    """Make one set of class probabilities of the answers to prompts and the automatic one.

    A prompted class has the probability of its own answer, one that is ruled out has none. Where the prompted classes
    claim more than all, they share it. What they leave goes to background and unprompted classes in the automatic
    answer's proportions.

    Args:
        automatic: [N, K, H, W] probabilities without prompts; not changed.
        answers: Channel to the slices that a prompt touches, and the class's probabilities there.
        ruled_out: For each slice, the channels that are not on it.

    Returns:
        [N, K, H, W], which sum to one over K. Slices without prompts and without classes ruled out are the automatic
        ones.
    """
    given, is_given = torch.zeros_like(automatic), torch.zeros(automatic.shape[:2], dtype=torch.bool)
    for channel, (slices, probabilities) in answers.items():
        given[list(slices), channel] = probabilities
        is_given[list(slices), channel] = True
    for index, channels in enumerate(ruled_out):
        is_given[index, list(channels)] = True
    touched = is_given.any(dim=1).nonzero()[:, 0].to(automatic.device)
    given = given[touched]
    given /= given.sum(dim=1, keepdim=True).clamp_min(1)
    left = (1 - given.sum(dim=1, keepdim=True)).clamp_min(0)
    others = automatic[touched].masked_fill(is_given.to(automatic.device)[touched][..., None, None], 0)
    # Where the automatic answer leaves nothing to any of them, it is the background's.
    others[:, 0].clamp_min_(_LEAST)
    result = automatic.clone()
    result[touched] = given + others / others.sum(dim=1, keepdim=True) * left
    return result
