"""The training loop: one optimiser step after another, each a function of the step's number and the state before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from masam.device import autocast
from masam.errors import ConfigError, DivergedError, ResourceError
from masam.model.masam import Masam
from masam.reproducibility import step_seed
from masam.training.config import TrainConfig
from masam.training.correction import corrected, is_clicked, with_room
from masam.training.dataset import Batch, WindowSamples, load_batches
from masam.training.loss import LossSums, loss_of, loss_sums, part_of_loss
from masam.training.parallel import Place, World, exchange, share, whole
from masam.training.schedule import WarmupPolynomial


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
    """Model, optimiser and samples of one run, as one of its processes has them.

    The windows of a step are cut into micro-batches, which the processes take in turn. What comes of one depends on its
    number in the run, never on who takes it: the number of processes changes rounding only.

    Args:
        model: Model on its device.
        samples: All windows of the run.
        config: The run's configuration.
        device: Where the model is.
        world: The processes of the run; None for this one alone.
        on_bad_step: Told the number of the first of some steps that were skipped, as their numbers were not finite, and
            the cases of its windows.

    Raises:
        ConfigError: The micro-batches of the processes do not divide the batch, or fp16 is to be sharded.
    """

    def __init__(
        self,
        model: Masam,
        samples: WindowSamples,
        config: TrainConfig,
        device: torch.device,
        world: World | None = None,
        on_bad_step: Callable[[int, list[str]], None] = lambda step, cases: None,
    ) -> None:
        self.on_bad_step = on_bad_step
        self.world = world or World(Place())
        _require_divisible(config, self.world.size)
        self.model = model
        self.samples = samples
        self.config = config
        self.device = device
        self.step = 0
        self.total_steps = math.ceil(config.epochs * samples.per_epoch / config.batch_windows)
        self._planned_steps = self.total_steps
        self.schedule = self._schedule()
        self._shared = share(model, model.image_encoder.blocks, self.world, config.sharing, device)
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._weights = {"cross_entropy_weight": config.cross_entropy_weight, "dice_weight": config.dice_weight}
        self._skipped = 0

    def epoch_of(self, step: int) -> int:
        """Return how many whole epochs are done after so many steps."""
        return step * self.config.batch_windows // self.samples.per_epoch

    def windows_of(self, step: int) -> range:
        """Return the numbers of the windows of a step, counted over the run; steps from 0."""
        return range(step * self.config.batch_windows, (step + 1) * self.config.batch_windows)

    def end_at(self, total_steps: int) -> None:
        """Let the run end earlier than planned, with a learning rate that decays by then.

        Args:
            total_steps: New number of steps, not more than before.
        """
        self.total_steps = total_steps
        self.schedule = self._schedule()

    def _schedule(self) -> WarmupPolynomial:
        config = self.config
        decay_epochs = config.schedule_epochs or config.epochs
        decay_steps = math.ceil(decay_epochs * self.samples.per_epoch / config.batch_windows)
        return WarmupPolynomial(
            config.learning_rate,
            # A short run still has a peak: the warm-up takes at most a tenth of it.
            min(config.warmup_steps, math.ceil(self.total_steps / 10)),
            math.ceil(decay_steps * self.total_steps / self._planned_steps),
            config.power,
        )

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
            turn=(self.world.rank, self.world.size),
        )
        with _resource_errors(self.config), closing(batches):
            while self.step < self.total_steps:
                yield self._one_step(batches)

    def _one_step(self, batches: Iterator[Batch]) -> StepReport:
        started = time.monotonic()
        rate = self.schedule.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        count = self.config.batch_windows // (self.config.micro_batch_windows * self.world.size)
        own = map(self._corrected, islice(batches, count))
        if self.config.dice_pooling == "batch":
            loss, cases = self._pooled_gradients(list(own))
        else:
            loss, cases = self._gradients(own, count)
        is_sound = self._apply(bool(loss.isfinite().all()))
        if not is_sound:
            self._require_not_diverged(cases)
        self.step += 1
        total, cross_entropy, dice = loss.tolist()
        return StepReport(self.step, total, cross_entropy, dice, rate, time.monotonic() - started)

    @torch.no_grad()
    def _corrected(self, batch: Batch) -> Batch:
        """Add clicks in the largest errors of the model's own answers: none to ``corrective_clicks``, step by step."""
        rounds = self.step % (self.config.corrective_clicks + 1)
        # A sharded model is put together by all processes at once, so each runs it as often as the others.
        is_sharded = self.config.sharing == "fsdp" and self.world.size > 1
        if batch.prompts is None or rounds == 0 or not (is_sharded or is_clicked(batch.prompts)):
            return batch
        images = self.model.as_input(batch.images.to(self.device, non_blocking=True))
        prompts = with_room(batch.prompts, rounds)
        # Without dropout, as it will be asked; nothing is drawn.
        self.model.eval()
        for _ in range(rounds):
            with autocast(self.device, self.config.precision):
                logits = self.model(images, *(one.to(self.device) for one in prompts), apart=True).logits
            prompts = corrected(prompts, batch.labels, logits.argmax(dim=2).cpu())
        self.model.train()
        return batch._replace(prompts=prompts)

    def _gradients(self, own: Iterable[Batch], count: int) -> tuple[Tensor, list[str]]:
        """Add up the gradients of the micro-batches' mean loss; returns it and this process's cases."""
        mean = torch.zeros(3, device=self.device)
        cases: list[str] = []
        for number, batch in enumerate(own):
            with exchange(self._shared, now=number == count - 1):
                loss = loss_of(self._sums(self._shared, batch, number), **self._weights)
                # Exchanged gradients are a mean over processes.
                self.scaler.scale(loss.total / count).backward()
            mean += torch.stack(list(loss)).detach() / (count * self.world.size)
            cases.extend(batch.cases)
        return self.world.sum(mean), cases

    def _pooled_gradients(self, own: list[Batch]) -> tuple[Tensor, list[str]]:
        """Add up the gradients of the loss of the whole batch, whoever has its windows."""
        # What the loss of all depends on must be known before the first gradient, which takes a pass without any; of a
        # single micro-batch the graph is kept instead.
        is_single = len(own) == 1
        with torch.set_grad_enabled(is_single):
            parts = [self._sums(self._shared if is_single else self.model, one, n) for n, one in enumerate(own)]
        batch_sums = self._over_processes([torch.stack(some).detach().sum(dim=0) for some in zip(*parts, strict=True)])
        for number, batch in enumerate(own):
            with exchange(self._shared, now=number == len(own) - 1):
                sums = parts[0] if is_single else self._sums(self._shared, batch, number)
                # Exchanged gradients are a mean over processes, this is a sum.
                self.scaler.scale(part_of_loss(sums, batch_sums, **self._weights) * self.world.size).backward()
        loss = torch.stack(list(loss_of(batch_sums, **self._weights)))
        return loss, [case for batch in own for case in batch.cases]

    def _over_processes(self, own: list[Tensor]) -> LossSums:
        together = self.world.sum(torch.cat([value.reshape(-1) for value in own]))
        split = together.split([value.numel() for value in own])
        return LossSums(*(value.view_as(mine) for value, mine in zip(split, own, strict=True)))

    def _sums(self, model: nn.Module, batch: Batch, number: int) -> LossSums:
        """Run a micro-batch forward; ``number`` counts those of this process in the step."""
        in_run = self.windows_of(self.step).start // self.config.micro_batch_windows
        # Dropout too depends on the micro-batch alone.
        torch.manual_seed(step_seed(self.config.seed, in_run + number * self.world.size + self.world.rank))
        images = self.model.as_input(batch.images.to(self.device, non_blocking=True))
        labels = batch.labels.to(self.device, non_blocking=True).long()
        with autocast(self.device, self.config.precision):
            if batch.prompts is None:
                logits = model(images).logits
            else:
                prompts = (one.to(self.device, non_blocking=True) for one in batch.prompts)
                logits = model(images, *prompts, apart=True).logits
        return loss_sums(logits.flatten(0, 1), labels.flatten(0, 1))

    def _apply(self, is_finite: bool) -> bool:
        """Take the optimiser's step, or skip it where a number is not finite; returns whether it was taken."""
        self.scaler.unscale_(self.optimizer)
        changed = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in changed if p.grad is not None])
        is_finite = is_finite and bool(whole(norm).isfinite())
        if is_finite:
            if self.config.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(changed, self.config.clip_norm, norm)
            self.scaler.step(self.optimizer)
        self._skipped = 0 if is_finite else self._skipped + 1
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return is_finite

    def _require_not_diverged(self, cases: list[str]) -> None:
        names = sorted({case for some in self.world.gather(cases) for case in some})
        if self._skipped == 1:
            self.on_bad_step(self.step, names)
        if self._skipped >= self.config.max_bad_steps:
            steps = "1 step" if self._skipped == 1 else f"{self._skipped} steps"
            raise DivergedError(
                f"loss or gradients were not finite for {steps} in a row, the last at step {self.step} with windows of "
                f"{', '.join(names)}",
                fix="lower learning_rate, or use precision float32 or bf16",
            )


def _require_divisible(config: TrainConfig, processes: int) -> None:
    if config.batch_windows % (config.micro_batch_windows * processes):
        raise ConfigError(
            f"expected a divisor of batch_windows = {config.batch_windows}, got {config.micro_batch_windows}"
            + (f" in each of {processes} processes" if processes > 1 else ""),
            where="micro_batch_windows",
        )
    if config.sharing == "fsdp" and config.precision == "fp16" and processes > 1:
        raise ConfigError(
            "fp16 needs a loss scale that all processes share, which sharding does not keep",
            where="precision",
            fix="take bf16, or sharing ddp",
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
