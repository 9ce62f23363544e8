"""The pictures of a step and the objects in them that are asked for: a pure function of (seed, step)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from masam.formula.picture import make_picture
from masam.pretrain.config import PretrainConfig
from masam.reproducibility import picture_generator


class Objects(NamedTuple):
    """Pictures, and some objects of each, picture by picture."""

    images: Float[Tensor, "B 3 H W"]
    """In 0..1."""
    masks: Bool[Tensor, "N H W"]
    """N is a multiple of B: the first objects are those of the first picture."""


def training_objects(config: PretrainConfig, step: int) -> Objects:
    """Make the pictures of a step and choose their objects.

    Args:
        config: Settings of the run.
        step: Number of the step, from 0.
    """
    first = step * config.batch_pictures
    return _make(config, range(first, first + config.batch_pictures), config.objects, held_out=False)


def held_out_objects(config: PretrainConfig, numbers: range) -> Objects:
    """Make pictures of validation, by number, with one object each."""
    return _make(config, numbers, 1, held_out=True)


def _make(config: PretrainConfig, numbers: range, objects: int, *, held_out: bool) -> Objects:
    images, chosen = [], []
    for number in numbers:
        generator = picture_generator(config.seed, number, held_out=held_out)
        picture = make_picture(generator, config.image_size)
        masks = picture.masks
        # Few objects are asked for twice, by different prompts.
        order = np.concatenate([generator.permutation(len(masks)) for _ in range(-(-objects // len(masks)))])
        images.append(picture.image)
        chosen.append(masks[order[:objects]])
    return Objects(torch.from_numpy(np.stack(images)), torch.from_numpy(np.concatenate(chosen)))
