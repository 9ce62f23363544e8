"""The pre-training loop: each optimiser step is a function of its number and the previous state."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from masam.axes import Images
from masam.device import autocast
from masam.model.sam import Sam
from masam.model.sizes import find_size
from masam.pretraining.config import PretrainConfig
from masam.pretraining.half_size import HalfSize
from masam.pretraining.objects import Objects, training_objects
from masam.pretraining.patches import PatchHead
from masam.pretraining.rounds import prompt_rounds
from masam.reproducibility import prompt_generator
from masam.training.optimizer import GuardedAdamW
from masam.training.prefetch import prefetch
from masam.training.resources import resource_errors
from masam.training.schedule import WarmupPolynomial


class PretrainStep(NamedTuple):
    """Result of one optimiser step."""

    step: int  # completed steps, including this one
    loss: float  # mean loss of the prompt rounds
    learning_rate: float
    seconds: float


class PretrainLoop:
    """Model and optimiser of one run.

    Attributes:
        step: Completed optimiser steps.
        modules: The modules to train: ``sam``, and the head ``patches``, which the result does not include.
        optimizer: Their optimiser.
    """

    def __init__(self, sam: Sam, config: PretrainConfig, device: torch.device) -> None:
        self.sam, self.config, self.device = sam, config, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            head = PatchHead(sam.prompt_encoder.no_mask_embed.embedding_dim, config.pixel_weight).to(device)
        self.modules = nn.ModuleDict({"sam": sam, "patches": head})
        self._half = HalfSize(sam, find_size(config.size)) if config.half_size_share > 0 else None
        self.step = 0
        warmup = min(config.warmup_steps, math.ceil(config.steps / 10))
        self.schedule = WarmupPolynomial(config.learning_rate, warmup, config.steps - warmup, power=1.0)
        self.optimizer = GuardedAdamW(
            self.modules.parameters(),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            max_bad_steps=config.max_bad_steps,
        )

    def steps(self) -> Iterator[PretrainStep]:
        """Train from ``self.step`` to the end and yield after each step, which ``self.step`` then includes."""
        config = self.config
        batches = prefetch(lambda step: training_objects(config, step), range(self.step, config.steps), config.workers)
        load = f"{config.batch_pictures} pictures of {config.image_size} pixels"
        fix = "lower batch_pictures, objects or image_size"
        with resource_errors("pre-training", load, fix, config.workers), closing(batches):
            for objects in batches:
                yield self._one_step(objects)

    def _one_step(self, objects: Objects) -> PretrainStep:
        started = time.monotonic()
        rate = self.schedule.rate(self.step)
        self.modules.train()
        loss = self._gradients(objects)
        self.optimizer.step(rate, loss_is_finite=math.isfinite(loss))
        self.optimizer.require_not_diverged(self.step)
        self.step += 1
        return PretrainStep(self.step, loss, rate, time.monotonic() - started)

    def _gradients(self, objects: Objects) -> float:
        """Accumulate the gradients of all prompt rounds and of the patch head; return the loss.

        The decoder's graph of a round is freed after its backward pass; the encoder runs backward once, on the sum of
        their gradients.
        """
        config, generator = self.config, prompt_generator(self.config.seed, self.step)
        objects = Objects(*(tensor.to(self.device) for tensor in objects))
        is_unit = torch.from_numpy(generator.random(len(objects.images)) < config.unit_share)
        count = int(generator.integers(1, config.rounds, endpoint=True))
        masks = objects.masks
        picture_of = torch.arange(len(masks), device=self.device) * len(objects.images) // len(masks)
        half = self._half if objects.images.shape[-1] < config.image_size else None
        images = normalised(self.sam, objects.images, is_unit.to(self.device))
        with autocast(self.device, config.precision):
            embeddings = self.sam.image_encoder(images) if half is None else half.encode(images)
        decoder = self.sam if half is None else half.sam
        detached = embeddings.detach().requires_grad_()
        total = torch.zeros((), device=self.device)
        if config.patch_weight > 0:
            patch_loss = config.patch_weight * self.modules["patches"](detached, objects.visible, objects.images)
            patch_loss.backward()
            total += patch_loss.detach()
        # Every second object starts with a box, so that most pictures have a box and a click.
        for by_box in (True, False):
            chosen = torch.arange(int(not by_box), len(masks), 2, device=self.device)
            share = len(chosen) / (len(masks) * count)
            if share == 0:
                continue
            rounds = prompt_rounds(
                decoder, detached, picture_of[chosen], masks[chosen], config, generator, count=count, by_box=by_box
            )
            for loss in rounds:
                (share * loss).backward()
                total += share * loss.detach()
        embeddings.backward(detached.grad)
        return float(total)


def normalised(sam: Sam, images: Images, is_unit: Bool[Tensor, " B"]) -> Images:
    """Return pictures in one of the two ranges that the encoder is used with later.

    SAM normalises pictures of 0..255; MA-SAM passes slices in 0..1 to its frozen encoder without normalisation: those
    with ``is_unit`` stay in 0..1.
    """
    normed = (images * 255 - sam.pixel_mean) / sam.pixel_std
    return torch.where(is_unit[:, None, None, None], images, normed)
