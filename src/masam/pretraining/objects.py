"""The pictures of a step and the objects to segment in them, a pure function of (seed, step)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from masam.pretraining.config import PretrainConfig
from masam.reproducibility import is_half_size, picture_generator
from masam.synthetic.pictures.picture import make_picture


class Objects(NamedTuple):
    """Pictures, and some objects of each, in the order of the pictures."""

    images: Float[Tensor, "B 3 H W"]  # pictures in 0..1
    # objects; N is a multiple of B, and the first N / B objects belong to the first picture
    masks: Bool[Tensor, "N H W"]
    visible: Int[Tensor, "B H W"]  # number of the object that is visible at each pixel, 0 for none


def training_objects(config: PretrainConfig, step: int) -> Objects:
    """Create the pictures of a step and select their objects; steps start at 0."""
    side = config.image_size // (2 if is_half_size(config.seed, step, config.half_size_share) else 1)
    first = step * config.batch_pictures
    return _make(config.seed, side, range(first, first + config.batch_pictures), config.objects, held_out=False)


def held_out_objects(config: PretrainConfig, numbers: range) -> Objects:
    """Create validation pictures by number, with one object each."""
    return _make(config.seed, config.image_size, numbers, 1, held_out=True)


def _make(seed: int, side: int, numbers: range, objects: int, *, held_out: bool) -> Objects:
    images, chosen, visible = [], [], []
    for number in numbers:
        generator = picture_generator(seed, number, held_out=held_out)
        picture = make_picture(generator, side)
        images.append(picture.image)
        visible.append(picture.visible)
        chosen.append(_choose(picture.masks, objects, generator))
    return Objects(*map(torch.from_numpy, (np.stack(images), np.concatenate(chosen), np.stack(visible))))


def _choose(
    masks: Bool[NDArray[np.bool_], "M H W"], count: int, generator: np.random.Generator
) -> Bool[NDArray[np.bool_], "{count} H W"]:
    """Draw objects with replacement, with probabilities proportional to their diameter.

    Most objects of a picture are small. A model that is trained on small objects alone learns to predict nothing.
    """
    diameters = np.sqrt(masks.sum(axis=(1, 2)))
    return masks[generator.choice(len(masks), count, p=diameters / diameters.sum())]
