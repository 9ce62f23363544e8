"""A training run in action: the loop, its validation, its log and its files, of which the first process writes all."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from masam.cases.folder import Case
from masam.errors import InputError, StoppedError, some_of
from masam.model.masam import Masam
from masam.preprocess.cache import PreparedCase
from masam.preprocess.plan import Plan
from masam.progress import Progress
from masam.training.budget import Budget
from masam.training.config import TrainConfig
from masam.training.dataset import WindowSamples
from masam.training.initial_model import STARTED_FROM
from masam.training.interrupt import StopFlag
from masam.training.logs import Logs
from masam.training.loop import Loop, StepReport
from masam.training.parallel import World, whole
from masam.training.run_folder import RunFolder, RunState, optimizer_moments, trained_weights
from masam.training.validate import mean_scores, score_cases
from masam.weights.model_file import write_model
from masam.weights.tensors import write_tensors

_SAVE_SECONDS = 600.0
"""The state is saved at least this often; a crash costs no more."""

_LOG_STEPS = 20
"""Most steps that share a row of metrics.csv."""


class _Decision(NamedTuple):
    """What all processes do after a step, as the first one's clock and everybody's signals say."""

    stop_signal: int | None
    total_steps: int
    save: bool


class Session:
    """One process's part in a run.

    Args:
        folder: The run folder.
        plan: How cases are prepared.
        config: How to train.
        model: The model, on its device.
        samples: All windows of the run.
        dataset: Names the training windows.
        validation: Cases to validate on; none is no validation.
        progress: Told of everything; silent in all processes but the first.
        world: The processes of the run.
        device: Where this one trains.
        started: When it began, by ``time.monotonic``.

    Attributes:
        loop: Its training loop.
        best_dice: Best mean foreground Dice in validation so far; None without validation.

    Raises:
        ConfigError: Settings do not fit each other or the number of processes.
    """

    def __init__(
        self,
        folder: RunFolder,
        plan: Plan,
        config: TrainConfig,
        model: Masam,
        samples: WindowSamples,
        dataset: str,
        validation: Sequence[Case],
        progress: Progress,
        world: World,
        device: torch.device,
        started: float,
    ) -> None:
        self.folder, self.plan, self.config, self.validation = folder, plan, config, validation
        self.progress, self.world, self._dataset = progress, world, dataset
        self.loop = Loop(model, samples, config, device, world, self._keep_bad_step)
        self.best_dice: float | None = None
        self._worse = 0
        self._pending: list[StepReport] = []
        self._saved_at = time.monotonic()
        # Of the whole run, earlier processes included.
        self._began = started
        self._log_folder = folder if world.is_first else None
        self._budget = None if config.max_hours is None else Budget(config.max_hours * 3600)

    def restore(self) -> None:
        """Go back to the saved state.

        Raises:
            InputError: There is none, or data or base have changed since.
            ModelError: It is damaged.
        """
        state = self.folder.load_state(self.loop.model, self.loop.optimizer)
        if state.dataset != self._dataset:
            raise InputError(
                "the training cases, their preparation or the split have changed since the run began",
                where=self.folder.root,
                fix="restore them, or start a new run",
            )
        if state.init != self._init():
            raise InputError(
                "the model that the run started from is another one than when it began",
                where=self.config.model.init,
                fix="put the old one in its place, or start a new run",
            )
        if state.base not in (None, self._base()):
            raise InputError(
                "the SAM file is another one than when the run began",
                where=self.config.model.sam_checkpoint,
                fix="put the old one in its place, or start a new run",
            )
        self.loop.step, self.best_dice, self._pending = state.step, state.best_dice, list(state.pending)
        self._worse = state.worse
        self._began -= state.seconds
        if state.total_steps is not None:
            self.loop.end_at(state.total_steps)
        if state.scaler:
            self.loop.scaler.load_state_dict(dict(state.scaler))
        if self.world.is_first:
            self.folder.drop_metrics_after(state.step)

    def go(self) -> None:
        """Train to the end, or to a signal.

        Raises:
            StoppedError: A signal asked to stop; the state is saved.
            DivergedError: Numbers do not stay finite.
            ResourceError: Disk, memory or device is not enough, or another process has gone.
        """
        loop = self.loop
        with StopFlag() as stop, Logs(self._log_folder, self.config, loop.step, self.progress) as logs:
            self.progress.start("training", loop.total_steps - loop.step)
            for report in loop.steps():
                self._pending.append(report)
                self.progress.advance(self._note(report))
                row = self._log_row()
                validated = self._validation_due(report.step)
                if validated:
                    row = {**(row or self._flush()), **self._validate()}
                    self.progress.start("training", loop.total_steps - loop.step)
                logs.write(row)
                decision = self._decide(stop.signal_number, validated)
                if decision.total_steps < loop.total_steps:
                    self._shorten(decision.total_steps)
                if decision.save or decision.stop_signal is not None:
                    self.save_state()
                if decision.stop_signal is not None:
                    raise StoppedError(
                        decision.stop_signal,
                        f"stopped after step {report.step} of {loop.total_steps}, the state is in {self.folder.last}",
                        fix="go on with --resume",
                    )
            logs.write(self._flush() if self._pending else {})
            # Still inside: a signal that comes while the result is written shall not lose it.
            if not self.validation or self.best_dice is None:
                self._save_model(None)
            self.save_state()

    def save_state(self) -> None:
        """Write all that it takes to go on from here; all processes must call this."""
        loop = self.loop
        tensors, moments = trained_weights(loop.model), optimizer_moments(loop.model, loop.optimizer)
        state = RunState(
            loop.step,
            self.best_dice,
            loop.scaler.state_dict(),
            self._dataset,
            self._pending,
            self._base(),
            loop.total_steps,
            time.monotonic() - self._began,
            self._worse,
            self._init(),
        )
        self.world.once(lambda: self.folder.save_state(tensors, moments, state))
        self._saved_at = time.monotonic()

    def _base(self) -> str | None:
        base = self.loop.model.card.base
        return None if base is None else base.tensors_sha256

    def _init(self) -> str | None:
        started = self.loop.model.card.training.get(STARTED_FROM)
        return None if started is None else started["content_sha256"]

    def _note(self, report: StepReport) -> str:
        pace = self.config.batch_windows / report.seconds
        return (
            f"epoch {self.loop.epoch_of(report.step)} loss {report.loss:.3f} Dice {1 - report.dice_loss:.3f} "
            f"{pace:.3g} windows/s"
        )

    def _log_row(self) -> dict[str, float | int]:
        every = min(_LOG_STEPS, max(1, self.loop.samples.per_epoch // self.config.batch_windows))
        step = self.loop.step
        return self._flush() if step % every == 0 or step == self.loop.total_steps else {}

    def _flush(self) -> dict[str, float | int]:
        """Return the mean of the steps since the last row."""
        reports, self._pending = self._pending, []
        count = len(reports)
        seconds = sum(r.seconds for r in reports) / count
        return {
            "step": self.loop.step,
            "epoch": self.loop.epoch_of(self.loop.step),
            "loss": sum(r.loss for r in reports) / count,
            "cross_entropy": sum(r.cross_entropy for r in reports) / count,
            "dice_loss": sum(r.dice_loss for r in reports) / count,
            "learning_rate": reports[-1].learning_rate,
            "seconds_per_step": seconds,
            "windows_per_second": self.config.batch_windows / seconds,
        }

    def _decide(self, stop_signal: int | None, validated: bool) -> _Decision:
        total = self.loop.total_steps
        if self._budget is not None:
            total = self._budget.fitting(self.loop.step, total, time.monotonic() - self._began)
        if self.config.patience is not None and self._worse >= self.config.patience:
            total = self.loop.step
        save = validated or time.monotonic() - self._saved_at > _SAVE_SECONDS
        decisions = self.world.gather(_Decision(stop_signal, total, save))
        signals = [each.stop_signal for each in decisions if each.stop_signal is not None]
        return decisions[0]._replace(stop_signal=signals[0] if signals else None)

    def _shorten(self, total_steps: int) -> None:
        if self._worse:
            why = f"{self._worse} validations without a better Dice"
        else:
            why = f"{self.config.max_hours:g} hours are enough for that"
        self.progress.say(f"step {self.loop.step}: the run ends after {total_steps} steps ({why})")
        self.loop.end_at(total_steps)
        self.progress.start("training", total_steps - self.loop.step)

    def _validation_due(self, step: int) -> bool:
        if not self.validation:
            return False
        every = self.config.validate_every
        crossed = self.loop.epoch_of(step) // every > self.loop.epoch_of(step - 1) // every
        return crossed or step == self.loop.total_steps

    def _validate(self) -> dict[str, float]:
        # A sharded model answers only where all processes ask it the same; a whole one lets them share the cases.
        together = self.config.sharing == "fsdp" and self.world.size > 1
        own = self.validation if together else self.validation[self.world.rank :: self.world.size]
        scores = score_cases(
            self.loop.model,
            self.plan,
            own,
            device=str(self.loop.device),
            precision=self.config.precision,
            stride=self.config.validation_stride or self.plan.window,
            progress=self.progress,
        )
        all_scores = scores if together else [case for some in self.world.gather(scores) for case in some]
        means = mean_scores(self.plan, all_scores)
        known = [dice for dice in means.values() if not math.isnan(dice)]
        mean = sum(known) / len(known) if known else 0.0
        self.progress.say(f"step {self.loop.step}: validation Dice {mean:.4f}")
        self._worse += 1
        if self.best_dice is None or mean > self.best_dice:
            self.best_dice, self._worse = mean, 0
            self._save_model(mean)
        return {"validation_dice": mean, **{f"dice.{name}": dice for name, dice in means.items()}}

    def _save_model(self, dice: float | None) -> None:
        model = self.loop.model
        facts = {**model.card.training, "steps": self.loop.step, "validation_dice": dice, "dataset": self.plan.name}
        if self.config.prompt_rate > 0:
            # Prediction asks a model with prompts only if it knows them.
            facts["prompt_rate"] = self.config.prompt_rate
        model.card = replace(model.card, plan=self.plan, training=facts)
        tensors = {name: whole(tensor) for name, tensor in model.state_dict().items()}
        self.world.once(lambda: write_model(self.folder.model, model, tensors))

    def _keep_bad_step(self, step: int, cases: list[str]) -> None:
        """Write the windows of a step whose numbers were not finite, so that one can look at them."""
        file = self.folder.root / "diverged" / f"step{step:06d}.safetensors"
        self.progress.say(
            f"warning: step {step} was skipped, its loss or gradients were not finite; windows of "
            f"{some_of(cases)}, kept in {file}"
        )
        self.world.once(lambda: _write_windows(self.loop.samples, self.loop.windows_of(step), file))


def dataset_key(cases: Sequence[PreparedCase]) -> str:
    """Name the training windows: cached cases are named by their content and settings."""
    return hashlib.sha256(json.dumps([case.folder.name for case in cases]).encode()).hexdigest()


def _write_windows(samples: WindowSamples, numbers: range, file: Path) -> None:
    """Make samples once more, which depend on their number alone, and write them."""
    made = [samples[number] for number in numbers]
    images, labels, cases = zip(*made, strict=True)
    notes = {"cases": json.dumps(cases), "samples": json.dumps(list(numbers))}
    write_tensors(file, {"images": torch.stack(images), "labels": torch.stack(labels)}, notes)
