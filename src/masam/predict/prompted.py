"""Class probabilities with prompts: each prompted class is decoded separately, then merged with the automatic ones."""

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

    The automatic decoder runs only on slices that prompts do not fully decide, so a model that was trained with a box
    on every slice is never used without. The N slices, of which ``slices`` are the indices in the volume, may be of
    several windows; those outside ``within`` become background.
    """
    side = model.spec.image_size
    touched = [prompts.at(index) if index in within else {} for index in slices]
    automatic = torch.zeros(len(slices), model.spec.num_channels, side, side, device=embeddings.device)
    automatic[:, 0] = 1
    undecided = [n for n, index in enumerate(slices) if index in within and not prompts.is_decided(index)]
    if undecided:
        automatic[undecided] = model.decode(embeddings[undecided])[0].float().softmax(dim=1)
    prompted = {}
    for channel in prompts.classes:
        with_class = [n for n, of_slice in enumerate(touched) if channel in of_slice]
        if with_class:
            stacked = stack_prompts([touched[n][channel] for n in with_class], embeddings.device)
            logits, _ = model.decode_each(embeddings[with_class], *stacked)
            prompted[channel] = with_class, logits.float().softmax(dim=1)[:, channel]
    return merge_probabilities(automatic, prompted, [prompts.ruled_out(index) for index in slices])


class PromptTensors(NamedTuple):
    """The prompts of N slices, as arguments of ``Masam.decode_each``."""

    boxes: Float[Tensor, "N 4"]
    points: Float[Tensor, "N P 2"]
    point_labels: Int[Tensor, "N P"]
    masks: Float[Tensor, "N 1 H W"] | None


def stack_prompts(prompts: Sequence[SlicePrompt], device: torch.device) -> PromptTensors:
    """Stack the prompts of slices; missing boxes and masks are NaN, missing points have label -1."""
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
    return PromptTensors(
        boxes.to(device), points.to(device), labels.to(device), None if masks is None else masks.to(device)
    )


def merge_probabilities(
    automatic: Float[Tensor, "N K H W"],
    prompted: Mapping[int, tuple[Sequence[int], Float[Tensor, "M H W"]]],
    ruled_out: Sequence[Sequence[int]],
) -> Float[Tensor, "N K H W"]:
    """Merge the probabilities of prompted classes with the automatic probabilities of all classes.

    A prompted class keeps the probability from its prompt, a class that is ruled out gets 0. If prompted classes sum to
    more than 1, they are normalised. The remainder goes to the background and the other classes, in proportion to
    their automatic probabilities.

    Args:
        automatic: [N, K, H, W] probabilities without prompts; not changed.
        prompted: Channel to the slices that a prompt touches, and the probabilities of the class there.
        ruled_out: For each slice, the channels that are not on it.

    Returns:
        [N, K, H, W] probabilities that sum to 1 over K; automatic on slices without prompts and ruled-out classes.
    """
    given, is_given = torch.zeros_like(automatic), torch.zeros(automatic.shape[:2], dtype=torch.bool)
    for channel, (slices, probabilities) in prompted.items():
        given[list(slices), channel] = probabilities
        is_given[list(slices), channel] = True
    for index, channels in enumerate(ruled_out):
        is_given[index, list(channels)] = True
    touched = is_given.any(dim=1).nonzero()[:, 0].to(automatic.device)
    given = given[touched]
    given /= given.sum(dim=1, keepdim=True).clamp_min(1)
    remainder = (1 - given.sum(dim=1, keepdim=True)).clamp_min(0)
    others = automatic[touched].masked_fill(is_given.to(automatic.device)[touched][..., None, None], 0)
    # If all their automatic probabilities are 0, the remainder is background.
    others[:, 0].clamp_min_(_LEAST)
    result = automatic.clone()
    result[touched] = given + others / others.sum(dim=1, keepdim=True) * remainder
    return result
