"""The training loop: each optimiser step is a function of its number and the previous state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from masam.device import autocast
from masam.errors import ConfigError
from masam.model.masam import Masam
from masam.reproducibility import step_seed
from masam.training.config import TrainConfig
from masam.training.correction import add_corrective_clicks, has_clicks, pad_clicks
from masam.training.dataset import Batch, WindowSamples, load_batches
from masam.training.loss import LossSums, loss_of, loss_sums, part_of_loss
from masam.training.optimizer import GuardedAdamW
from masam.training.processes import ProcessGroup, ProcessRank
from masam.training.resources import resource_errors
from masam.training.schedule import WarmupPolynomial
from masam.training.sharding import distribute_model, gradient_sync


class StepReport(NamedTuple):
    """Result of one optimiser step."""

    step: int  # completed steps, including this one
    loss: float  # mean loss of the windows
    cross_entropy: float  # cross-entropy term, unweighted
    dice_loss: float  # Dice term, unweighted
    learning_rate: float
    seconds: float


class Loop:
    """Model, optimiser and samples of one run in one of its processes.

    The windows of a step are divided into micro-batches, which are distributed over the processes. The result of a
    micro-batch depends on its number in the run, not on its process: the number of processes affects only rounding.

    Args:
        group: Processes of the run; None for one process.
        on_bad_step: Called at the first of consecutive skipped steps with its number and the cases of its windows.

    Attributes:
        step: Completed optimiser steps.
        total_steps: Steps of the whole run.
        is_sharded: Whether the parameters are distributed over several processes.
    """

    def __init__(
        self,
        model: Masam,
        samples: WindowSamples,
        config: TrainConfig,
        device: torch.device,
        group: ProcessGroup | None = None,
        on_bad_step: Callable[[int, list[str]], None] = lambda step, cases: None,
    ) -> None:
        self.model, self.samples, self.config, self.device = model, samples, config, device
        self.group = group or ProcessGroup(ProcessRank())
        self.on_bad_step = on_bad_step
        require_divisible(config, self.group.size)
        self.step = 0
        self.total_steps = self._planned_steps = math.ceil(config.epochs * samples.per_epoch / config.batch_windows)
        self.schedule = self._schedule()
        self._distributed = distribute_model(model, model.image_encoder.blocks, self.group, config.sharing, device)
        self.is_sharded = config.sharing == "fsdp" and self.group.size > 1
        self.optimizer = GuardedAdamW(
            model.parameters(),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            max_bad_steps=config.max_bad_steps,
            scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        )
        self._weights = {"cross_entropy_weight": config.cross_entropy_weight, "dice_weight": config.dice_weight}

    def epoch_of(self, step: int) -> int:
        """Return the number of complete epochs after a number of steps."""
        return step * self.config.batch_windows // self.samples.per_epoch

    def windows_of(self, step: int) -> range:
        """Return the sample indices of a step, counted over the run; steps start at 0."""
        return range(step * self.config.batch_windows, (step + 1) * self.config.batch_windows)

    def end_at(self, total_steps: int) -> None:
        """Shorten the run to ``total_steps``; the learning rate decays by the new end."""
        self.total_steps = total_steps
        self.schedule = self._schedule()

    def _schedule(self) -> WarmupPolynomial:
        config = self.config
        decay_epochs = config.schedule_epochs or config.epochs
        decay_steps = math.ceil(decay_epochs * self.samples.per_epoch / config.batch_windows)
        return WarmupPolynomial(
            config.learning_rate,
            # At most a tenth of the run, so that a short run reaches the largest learning rate.
            min(config.warmup_steps, math.ceil(self.total_steps / 10)),
            math.ceil(decay_steps * self.total_steps / self._planned_steps),
            config.power,
        )

    def steps(self) -> Iterator[StepReport]:
        """Train from ``self.step`` to the end and yield after each step, which ``self.step`` then includes."""
        config = self.config
        batches = load_batches(
            self.samples,
            self.step * config.batch_windows,
            self.total_steps * config.batch_windows,
            config.micro_batch_windows,
            config.workers,
            self.group.rank,
            self.group.size,
        )
        load = f"{config.micro_batch_windows} windows at once"
        fix = "lower micro_batch_windows, the image size or the model's size"
        with resource_errors("training", load, fix, config.workers), closing(batches):
            while self.step < self.total_steps:
                yield self._one_step(batches)

    def _one_step(self, batches: Iterator[Batch]) -> StepReport:
        started = time.monotonic()
        rate = self.schedule.rate(self.step)
        self.model.train()
        count = self.config.batch_windows // (self.config.micro_batch_windows * self.group.size)
        step_batches = map(self._add_corrective_clicks, islice(batches, count))
        if self.config.dice_pooling == "batch":
            loss, cases = self._pooled_gradients(list(step_batches))
        else:
            loss, cases = self._gradients(step_batches, count)
        if not self.optimizer.step(rate, loss_is_finite=bool(loss.isfinite().all())):
            names = sorted({case for part in self.group.gather(cases) for case in part})
            if self.optimizer.skipped == 1:
                self.on_bad_step(self.step, names)
            self.optimizer.require_not_diverged(self.step, f" with windows of {', '.join(names)}")
        self.step += 1
        total, cross_entropy, dice = loss.tolist()
        return StepReport(self.step, total, cross_entropy, dice, rate, time.monotonic() - started)

    @torch.no_grad()
    def _add_corrective_clicks(self, batch: Batch) -> Batch:
        """Add clicks at the largest errors of the model, in turn 0 to ``corrective_clicks`` of them per step."""
        rounds = self.step % (self.config.corrective_clicks + 1)
        # FSDP gathers the parameters in all processes at once, so each must run the model equally often.
        if batch.prompts is None or rounds == 0 or not (self.is_sharded or has_clicks(batch.prompts)):
            return batch
        images = self.model.as_input(batch.images.to(self.device, non_blocking=True))
        prompts = pad_clicks(batch.prompts, rounds)
        # Evaluation mode as in prediction; without dropout, no random numbers are drawn.
        self.model.eval()
        for _ in range(rounds):
            with autocast(self.device, self.config.precision):
                logits = self.model(images, *(tensor.to(self.device) for tensor in prompts), apart=True).logits
            prompts = add_corrective_clicks(prompts, batch.labels, logits.argmax(dim=2).cpu())
        self.model.train()
        return batch._replace(prompts=prompts)

    def _gradients(self, batches: Iterable[Batch], count: int) -> tuple[Tensor, list[str]]:
        """Accumulate the gradients of the mean loss of the micro-batches; return the loss and this process's cases."""
        mean = torch.zeros(3, device=self.device)
        cases: list[str] = []
        for number, batch in enumerate(batches):
            with gradient_sync(self._distributed, enabled=number == count - 1):
                loss = loss_of(self._loss_sums(self._distributed, batch, number), **self._weights)
                # Synchronised gradients are averaged over the processes.
                self.optimizer.scaler.scale(loss.total / count).backward()
            mean += torch.stack(list(loss)).detach() / (count * self.group.size)
            cases.extend(batch.cases)
        return self.group.all_reduce(mean), cases

    def _pooled_gradients(self, batches: list[Batch]) -> tuple[Tensor, list[str]]:
        """Accumulate the gradients of the loss of the whole batch, over all processes."""
        # The first gradient already depends on the sums over the whole batch. They take a forward pass without
        # gradients; with a single micro-batch its graph is kept instead.
        is_single = len(batches) == 1
        with torch.set_grad_enabled(is_single):
            model = self._distributed if is_single else self.model
            parts = [self._loss_sums(model, batch, number) for number, batch in enumerate(batches)]
        batch_sums = self._sum_over_processes(
            [torch.stack(values).detach().sum(dim=0) for values in zip(*parts, strict=True)]
        )
        for number, batch in enumerate(batches):
            with gradient_sync(self._distributed, enabled=number == len(batches) - 1):
                sums = parts[0] if is_single else self._loss_sums(self._distributed, batch, number)
                # Synchronised gradients are averaged over the processes, but this loss needs their sum.
                scaled = part_of_loss(sums, batch_sums, **self._weights) * self.group.size
                self.optimizer.scaler.scale(scaled).backward()
        loss = torch.stack(list(loss_of(batch_sums, **self._weights)))
        return loss, [case for batch in batches for case in batch.cases]

    def _sum_over_processes(self, sums: list[Tensor]) -> LossSums:
        total = self.group.all_reduce(torch.cat([value.reshape(-1) for value in sums]))
        parts = total.split([value.numel() for value in sums])
        return LossSums(*(part.view_as(value) for part, value in zip(parts, sums, strict=True)))

    def _loss_sums(self, model: nn.Module, batch: Batch, number: int) -> LossSums:
        """Run the forward pass of micro-batch ``number`` of this process in the current step."""
        first = self.windows_of(self.step).start // self.config.micro_batch_windows
        # Dropout too depends only on the number of the micro-batch in the run.
        torch.manual_seed(step_seed(self.config.seed, first + number * self.group.size + self.group.rank))
        images = self.model.as_input(batch.images.to(self.device, non_blocking=True))
        labels = batch.labels.to(self.device, non_blocking=True).long()
        with autocast(self.device, self.config.precision):
            if batch.prompts is None:
                logits = model(images).logits
            else:
                prompts = (tensor.to(self.device, non_blocking=True) for tensor in batch.prompts)
                logits = model(images, *prompts, apart=True).logits
        return loss_sums(logits.flatten(0, 1), labels.flatten(0, 1))


def require_divisible(config: TrainConfig, processes: int) -> None:
    """Refuse batches that cannot be divided among processes and micro-batches, and fp16 with FSDP."""
    if config.batch_windows % (config.micro_batch_windows * processes):
        raise ConfigError(
            f"expected a divisor of batch_windows = {config.batch_windows}, got {config.micro_batch_windows}"
            + (f" in each of {processes} processes" if processes > 1 else ""),
            where="micro_batch_windows",
        )
    if config.sharing == "fsdp" and config.precision == "fp16" and processes > 1:
        raise ConfigError(
            "fp16 needs a loss scale common to all processes, which fsdp does not support",
            where="precision",
            fix="use bf16, or sharing ddp",
        )
