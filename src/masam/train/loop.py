"""The training loop: one optimiser step after another, each a function of the step's number and the state before."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import torch

from masam.errors import ConfigError, DivergedError, ResourceError
from masam.model.masam import Masam
from masam.predict import autocast
from masam.reproducibility import step_seed
from masam.train.config import TrainConfig
from masam.train.dataset import Batch, WindowSamples, load_batches
from masam.train.loss import LossParts, segmentation_loss
from masam.train.schedule import WarmupPolynomial

MAX_SKIPPED_STEPS = 20
"""Steps in a row without finite numbers that mean divergence; fewer are normal while fp16 finds its scale."""


class StepReport(NamedTuple):
    """What one optimiser step did.

    Attributes:
        step: Steps done, this one included.
        loss: Mean loss of its windows.
        cross_entropy: Cross-entropy part, unweighted.
        dice_loss: Dice part, unweighted.
        learning_rate: The step's rate.
        seconds: How long it took.
    """

    step: int
    loss: float
    cross_entropy: float
    dice_loss: float
    learning_rate: float
    seconds: float


class Loop:
    """Model, optimiser and samples of one run.

    Args:
        model: Model on its device.
        samples: All windows of the run.
        config: The run's configuration.
        device: Where the model is.

    Raises:
        ConfigError: The micro-batch does not divide the batch.
    """

    def __init__(self, model: Masam, samples: WindowSamples, config: TrainConfig, device: torch.device) -> None:
        if config.batch_windows % config.micro_batch_windows:
            raise ConfigError(
                f"expected a divisor of batch_windows = {config.batch_windows}, got {config.micro_batch_windows}",
                where="micro_batch_windows",
            )
        self.model = model
        self.samples = samples
        self.config = config
        self.device = device
        self.step = 0
        self.total_steps = math.ceil(config.epochs * samples.per_epoch / config.batch_windows)
        decay_epochs = config.schedule_epochs or config.epochs
        self.schedule = WarmupPolynomial(
            config.learning_rate,
            # A short run still has a peak: the warm-up takes at most a tenth of it.
            min(config.warmup_steps, math.ceil(self.total_steps / 10)),
            math.ceil(decay_epochs * samples.per_epoch / config.batch_windows),
            config.power,
        )
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._skipped = 0

    def epoch_of(self, step: int) -> int:
        """Return how many whole epochs are done after so many steps."""
        return step * self.config.batch_windows // self.samples.per_epoch

    def steps(self) -> Iterator[StepReport]:
        """Train from ``self.step`` to the end, yielding after each step; ``self.step`` counts it already.

        Raises:
            DivergedError: Loss or gradients stay infinite or NaN.
            InputError: A cached case is damaged.
            ResourceError: Memory ran out.
        """
        size = self.config.batch_windows
        batches = load_batches(
            self.samples,
            self.step * size,
            self.total_steps * size,
            self.config.micro_batch_windows,
            self.config.workers,
        )
        with _resource_errors(self.config), closing(batches):
            while self.step < self.total_steps:
                yield self._one_step(batches)

    def _one_step(self, batches: Iterator[Batch]) -> StepReport:
        started = time.monotonic()
        rate = self.schedule.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(step_seed(self.config.seed, self.step))
        self.model.train()
        parts = self.config.batch_windows // self.config.micro_batch_windows
        sums = torch.zeros(3, device=self.device)
        cases: list[str] = []
        for _ in range(parts):
            batch = next(batches)
            loss = self._loss(batch)
            self.scaler.scale(loss.total / parts).backward()
            sums += torch.stack(list(loss)).detach() / parts
            cases.extend(batch.cases)
        self._apply(bool(sums.isfinite().all()), cases)
        self.step += 1
        total, cross_entropy, dice = sums.tolist()
        return StepReport(self.step, total, cross_entropy, dice, rate, time.monotonic() - started)

    def _loss(self, batch: Batch) -> LossParts:
        images = self.model.as_input(batch.images.to(self.device, non_blocking=True))
        labels = batch.labels.to(self.device, non_blocking=True).long()
        with autocast(self.device, self.config.precision):
            logits = self.model(images).logits
        return segmentation_loss(
            logits.flatten(0, 1), labels.flatten(0, 1), self.config.cross_entropy_weight, self.config.dice_weight
        )

    def _apply(self, finite: bool, cases: list[str]) -> None:
        """Take the optimiser's step, or skip it where a number is not finite."""
        self.scaler.unscale_(self.optimizer)
        changed = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in changed if p.grad is not None])
        finite = finite and bool(norm.isfinite())
        if finite:
            if self.config.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(changed, self.config.clip_norm, norm)
            self.scaler.step(self.optimizer)
            self._skipped = 0
        else:
            self._skipped += 1
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._skipped >= MAX_SKIPPED_STEPS:
            raise DivergedError(
                f"loss or gradients were not finite for {self._skipped} steps in a row, the last at step {self.step} "
                f"with windows of {', '.join(sorted(set(cases)))}",
                fix="lower learning_rate, or use precision float32 or bf16",
            )


@contextmanager
def _resource_errors(config: TrainConfig) -> Iterator[None]:
    """Explain what a machine could not give."""
    smaller = "lower micro_batch_windows, the image size or the model's size"
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(
            f"memory ran out with {config.micro_batch_windows} windows at once", where="training", fix=smaller
        ) from error
    except RuntimeError as error:
        if "can't start new thread" in str(error):
            raise ResourceError(
                f"the system allows no {config.workers} more threads", where="training", fix="lower workers"
            ) from error
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise ResourceError("memory ran out", where="training", fix=smaller) from error
        raise
