"""The pre-training loop: each optimiser step is a function of its number and of the state before."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from masam.axes import Images
from masam.device import autocast
from masam.errors import DivergedError, ResourceError
from masam.model.sam import Sam
from masam.model.sizes import find_size
from masam.pretrain.config import PretrainConfig
from masam.pretrain.half_size import HalfSize
from masam.pretrain.objects import Objects, training_objects
from masam.pretrain.patches import PatchQuestions
from masam.pretrain.rounds import rounds_of
from masam.reproducibility import prompt_generator
from masam.training.dataset import made_ahead
from masam.training.schedule import WarmupPolynomial


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


class Pupil(nn.Module):
    """All that a run changes: the SAM, and the layer that reads its patches' embeddings, which is thrown away.

    Args:
        sam: Model on its device.
        pixel_weight: As of ``PatchQuestions``.
    """

    def __init__(self, sam: Sam, pixel_weight: float) -> None:
        super().__init__()
        self.sam = sam
        channels = sam.prompt_encoder.no_mask_embed.embedding_dim
        self.patches = PatchQuestions(channels, pixel_weight).to(sam.pixel_mean.device)


class PretrainLoop:
    """Model and optimiser of one run.

    Args:
        sam: Model on its device.
        config: The run's settings.
        device: Where the model is.

    Attributes:
        step: Steps done.
        pupil: What learns.
    """

    def __init__(self, sam: Sam, config: PretrainConfig, device: torch.device) -> None:
        self.sam, self.config, self.device = sam, config, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.pupil = Pupil(sam, config.pixel_weight)
        self._half = HalfSize(sam, find_size(config.size)) if config.half_size_share > 0 else None
        self.step = 0
        warmup = min(config.warmup_steps, math.ceil(config.steps / 10))
        self.schedule = WarmupPolynomial(config.learning_rate, warmup, config.steps - warmup, power=1.0)
        self.optimizer = torch.optim.AdamW(
            self.pupil.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
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
        self.pupil.train()
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
        """Add up the gradients of all rounds and of the patches; returns the loss.

        Each round's graph of the decoder goes as soon as it is used: the encoder gets the sum of what they say at once.
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
        decoding = self.sam if half is None else half.sam
        seen = embeddings.detach().requires_grad_()
        total = self._patch_gradients(seen, objects)
        # Every other object begins with a box, so that most pictures have both.
        halves = [
            (by_box, torch.arange(int(not by_box), len(masks), 2, device=self.device)) for by_box in (True, False)
        ]
        for by_box, own in halves:
            share = len(own) / (len(masks) * count)
            if share == 0:
                continue
            rounds = rounds_of(
                decoding, seen, picture_of[own], masks[own], config, generator, count=count, by_box=by_box
            )
            for loss in rounds:
                (share * loss).backward()
                total += share * loss.detach()
        embeddings.backward(seen.grad)
        return float(total)

    def _patch_gradients(self, seen: Float[Tensor, "B D h w"], objects: Objects) -> Float[Tensor, ""]:
        if self.config.patch_weight == 0:
            return torch.zeros((), device=self.device)
        loss = self.config.patch_weight * self.pupil.patches(seen, objects.visible, objects.images)
        loss.backward()
        return loss.detach()

    def _apply(self, loss: float) -> None:
        """Change the weights, unless the numbers are not finite."""
        parameters = [parameter for parameter in self.pupil.parameters() if parameter.grad is not None]
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


def normalised(sam: Sam, images: Images, is_unit: Bool[Tensor, " B"]) -> Images:
    """Return pictures in either range that an encoder meets later.

    SAM normalises pictures of 0..255; MA-SAM gives its frozen encoder slices in 0..1 as they are.

    Args:
        sam: Has SAM's mean and deviation.
        images: In 0..1.
        is_unit: Whether a picture stays in 0..1.
    """
    normed = (images * 255 - sam.pixel_mean) / sam.pixel_std
    return torch.where(is_unit[:, None, None, None], images, normed)
