"""The pre-training loop: each optimiser step is a function of its number and of the state before."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from masam.errors import DivergedError, ResourceError
from masam.model.sam import Sam
from masam.predict import autocast
from masam.pretrain.config import PretrainConfig
from masam.pretrain.objects import Objects, training_objects
from masam.pretrain.rounds import rounds_of
from masam.reproducibility import prompt_generator
from masam.train.dataset import made_ahead
from masam.train.schedule import WarmupPolynomial


class PretrainStep(NamedTuple):
    """What one optimiser step did.

    Attributes:
        step: Steps done, this one included.
        loss: Mean loss of its rounds.
        learning_rate: The step's rate.
        seconds: How long it took.
    """

    step: int
    loss: float
    learning_rate: float
    seconds: float


class PretrainLoop:
    """Model and optimiser of one run.

    Args:
        sam: Model on its device.
        config: The run's settings.
        device: Where the model is.

    Attributes:
        step: Steps done.
    """

    def __init__(self, sam: Sam, config: PretrainConfig, device: torch.device) -> None:
        self.sam, self.config, self.device = sam, config, device
        self.step = 0
        warmup = min(config.warmup_steps, math.ceil(config.steps / 10))
        self.schedule = WarmupPolynomial(config.learning_rate, warmup, config.steps - warmup, power=1.0)
        self.optimizer = torch.optim.AdamW(
            sam.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._bad = 0

    def steps(self) -> Iterator[PretrainStep]:
        """Train from ``self.step`` to the end, yielding after each step; ``self.step`` counts it already.

        Raises:
            DivergedError: Loss or gradients stay infinite or NaN.
            ResourceError: Memory ran out.
        """
        made = made_ahead(
            lambda step: training_objects(self.config, step), range(self.step, self.config.steps), self.config.workers
        )
        with closing(made):
            for objects in made:
                yield self._one_step(objects)

    def _one_step(self, objects: Objects) -> PretrainStep:
        started = time.monotonic()
        rate = self.schedule.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.sam.train()
        try:
            loss = self._gradients(objects)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise ResourceError(
                f"memory ran out with {self.config.batch_pictures} pictures of {self.config.image_size} pixels",
                where="pre-training",
                fix="lower batch_pictures, objects or image_size",
            ) from error
        self._apply(loss)
        self.step += 1
        return PretrainStep(self.step, loss, rate, time.monotonic() - started)

    def _gradients(self, objects: Objects) -> float:
        """Add up the gradients of all rounds; returns their mean loss.

        Each round's graph of the decoder goes as soon as it is used: the encoder gets the sum of what they say at once.
        """
        config, generator = self.config, prompt_generator(self.config.seed, self.step)
        is_unit = torch.from_numpy(generator.random(len(objects.images)) < config.unit_share)
        count = int(generator.integers(1, config.rounds, endpoint=True))
        masks = objects.masks.to(self.device)
        picture_of = torch.arange(len(masks), device=self.device) * len(objects.images) // len(masks)
        with autocast(self.device, config.precision):
            embeddings = encode(self.sam, objects.images.to(self.device), is_unit.to(self.device))
        seen = embeddings.detach().requires_grad_()
        total = torch.zeros((), device=self.device)
        # Every other object begins with a box, so that most pictures have both.
        halves = [
            (by_box, torch.arange(int(not by_box), len(masks), 2, device=self.device)) for by_box in (True, False)
        ]
        for by_box, own in halves:
            share = len(own) / (len(masks) * count)
            if share == 0:
                continue
            rounds = rounds_of(
                self.sam, seen, picture_of[own], masks[own], config, generator, count=count, by_box=by_box
            )
            for loss in rounds:
                (share * loss).backward()
                total += share * loss.detach()
        embeddings.backward(seen.grad)
        return float(total)

    def _apply(self, loss: float) -> None:
        """Change the weights, unless the numbers are not finite."""
        parameters = [parameter for parameter in self.sam.parameters() if parameter.grad is not None]
        limit = self.config.clip_norm if self.config.clip_norm is not None else math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        if math.isfinite(loss) and bool(norm.isfinite()):
            self.optimizer.step()
            self._bad = 0
        else:
            self._bad += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self._bad >= self.config.max_bad_steps:
            raise DivergedError(
                f"loss or gradients were not finite for {self._bad} steps in a row, the last at step {self.step}",
                fix="lower learning_rate, or use precision float32",
            )


def encode(sam: Sam, images: Float[Tensor, "B 3 H W"], is_unit: Tensor) -> Float[Tensor, "B D h w"]:
    """Encode pictures in either range that an encoder meets later.

    SAM normalises pictures of 0..255; MA-SAM gives its frozen encoder slices in 0..1 as they are.

    Args:
        sam: The model.
        images: In 0..1.
        is_unit: [B] whether a picture stays in 0..1.
    """
    normed = (images * 255 - sam.pixel_mean) / sam.pixel_std
    return sam.image_encoder(torch.where(is_unit[:, None, None, None], images, normed))
