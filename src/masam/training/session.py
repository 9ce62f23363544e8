"""A training run in progress: the loop with validation, metrics and saved states."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from masam.errors import InputError, some_of
from masam.model.masam import Masam
from masam.training.budget import Budget
from masam.training.checkpoint import (
    changed_names,
    load_checkpoint,
    optimizer_moments,
    save_checkpoint,
    trained_weights,
)
from masam.training.dataset import WindowSamples
from masam.training.initial_model import STARTED_FROM
from masam.training.interrupt import StopFlag
from masam.training.logs import LOG_STEPS, SAVE_SECONDS, mean_of_steps, open_logs
from masam.training.loop import Loop, StepReport
from masam.training.setup import RunContext, RunSetup
from masam.training.sharding import gather_full_tensor
from masam.training.validate import mean_scores, score_cases
from masam.weights.model_file import write_model
from masam.weights.tensors import write_tensors


@dataclass
class RunState:
    """Progress of a run; the fields are the keys of ``state.json``, of which older files lack the last ones."""

    step: int  # completed optimiser steps
    best_dice: float | None  # best validation Dice so far, or None
    scaler: dict[str, Any]  # state of the fp16 loss scaler; empty for other precisions
    dataset: str  # hash of the training windows, which must be the same when the run resumes
    pending: list[StepReport] = field(default_factory=list)  # steps that ``metrics.csv`` does not include yet
    base: str | None = None  # hash of the tensors of the SAM file, which must be the same when the run resumes, or None
    total_steps: int | None = None  # steps of the run, if fewer than its epochs have
    seconds: float = 0.0  # duration of the run so far
    worse: int = 0  # validations since the best one
    # hash of the trained model that the run started from, which must be the same when it resumes, or None
    init: str | None = None


class _Decision(NamedTuple):
    """What all processes do after a step."""

    stop_signal: int | None
    total_steps: int
    save: bool


class Session:
    """The part of one process in a run, whose work started at ``started`` (``time.monotonic``).

    Attributes:
        loop: The training loop.
        state: Progress of the run; step, scaler, total_steps and seconds are those of the last saved state.
    """

    def __init__(
        self, context: RunContext, setup: RunSetup, model: Masam, samples: WindowSamples, started: float
    ) -> None:
        self.context, self.config, self.group = context, context.config, context.group
        self.plan, self.validation = setup.plan, setup.validation
        self.loop = Loop(model, samples, context.config, context.device, context.group, self._keep_bad_step)
        base, init = model.card.base, model.card.training.get(STARTED_FROM)
        names = [case.folder.name for case in samples.cases]  # they depend on content and preprocessing
        self.state = RunState(
            step=0,
            best_dice=None,
            scaler={},
            dataset=hashlib.sha256(json.dumps(names).encode()).hexdigest(),
            base=None if base is None else base.tensors_sha256,
            init=None if init is None else init["content_sha256"],
        )
        self._saved_at = time.monotonic()
        # Start of the whole run, if earlier processes had run without interruption.
        self._started = started
        self._budget = None if self.config.max_hours is None else Budget(self.config.max_hours * 3600)

    def restore(self) -> None:
        """Return to the saved state, unless the data or the SAM file have changed since it was saved."""
        folder, model, now = self.context.folder, self.loop.model, self.state
        unchanged = set(model.state_dict()) - changed_names(model)
        state = load_checkpoint(folder.root, model, self.loop.optimizer.adamw, RunState, StepReport, unchanged)
        for is_same, what, where in (
            (state.dataset == now.dataset, "the training cases, their preprocessing or the split have", folder.root),
            (state.init == now.init, "the model that the run started from has", self.config.model.init),
            (state.base in (None, now.base), "the SAM file has", self.config.model.sam_checkpoint),
        ):
            if not is_same:
                fix = "restore the original, or start a new run"
                raise InputError(f"{what} changed since the run started", where=where, fix=fix)
        self.state = replace(state, base=now.base)
        self.loop.step = state.step
        self._started -= state.seconds
        if state.total_steps is not None:
            self.loop.end_at(state.total_steps)
        if state.scaler:
            self.loop.optimizer.scaler.load_state_dict(state.scaler)
        if self.group.is_first:
            folder.drop_metrics_after(state.step)

    def run(self) -> None:
        """Train to the end, or until a signal arrives, which raises a StoppedError after the state is saved."""
        loop, progress = self.loop, self.context.progress
        log_folder = self.context.folder if self.group.is_first else None
        with StopFlag() as stop, open_logs(log_folder, loop.step, progress, self.config) as write_row:
            progress.start("training", loop.total_steps - loop.step)
            for report in loop.steps():
                self.state.pending.append(report)
                progress.advance(self._progress_note(report))
                is_validated = self._is_validation_due()
                row = self._flush() if is_validated or self._is_log_due() else {}
                if is_validated:
                    row |= self._validate()
                    progress.start("training", loop.total_steps - loop.step)
                write_row(row)
                decision = self._decide(stop.signal_number, is_validated)
                if decision.total_steps < loop.total_steps:
                    self._shorten(decision.total_steps)
                if decision.save or decision.stop_signal is not None:
                    self.save_state()
                if decision.stop_signal is not None:
                    raise stop.error(decision.stop_signal, report.step, loop.total_steps, self.context.folder.last)
            write_row(self._flush() if self.state.pending else {})
            # Inside the block, so that a signal does not interrupt the writing of the result.
            if not self.validation or self.state.best_dice is None:
                self._save_model(None)
            self.save_state()

    def save_state(self) -> None:
        """Write the state from which the run can resume; all processes must call this."""
        loop, optimizer = self.loop, self.loop.optimizer
        weights, moments = trained_weights(loop.model), optimizer_moments(loop.model, optimizer.adamw)
        scaler, seconds = optimizer.scaler.state_dict(), time.monotonic() - self._started
        self.state = replace(self.state, step=loop.step, scaler=scaler, total_steps=loop.total_steps, seconds=seconds)
        root, record = self.context.folder.root, asdict(self.state)
        self.group.run_on_first_process(lambda: save_checkpoint(root, weights, moments, record))
        self._saved_at = time.monotonic()

    def _progress_note(self, report: StepReport) -> str:
        pace = self.config.batch_windows / report.seconds
        epoch = self.loop.epoch_of(report.step)
        return f"epoch {epoch} loss {report.loss:.3f} Dice {1 - report.dice_loss:.3f} {pace:.3g} windows/s"

    def _is_log_due(self) -> bool:
        every = min(LOG_STEPS, max(1, self.loop.samples.per_epoch // self.config.batch_windows))
        return self.loop.step % every == 0 or self.loop.step == self.loop.total_steps

    def _is_validation_due(self) -> bool:
        if not self.validation:
            return False
        step, every = self.loop.step, self.config.validate_every
        starts_interval = self.loop.epoch_of(step) // every > self.loop.epoch_of(step - 1) // every
        return starts_interval or step == self.loop.total_steps

    def _flush(self) -> dict[str, float | int]:
        """Return the means over the steps since the last row."""
        reports, self.state.pending = self.state.pending, []
        return {
            "step": self.loop.step,
            "epoch": self.loop.epoch_of(self.loop.step),
            **mean_of_steps(reports, "windows", self.config.batch_windows),
        }

    def _decide(self, stop_signal: int | None, is_validated: bool) -> _Decision:
        """Decide from the clock of the first process and the signals of all."""
        total = self.loop.total_steps
        if self._budget is not None:
            total = self._budget.affordable_steps(self.loop.step, total, time.monotonic() - self._started)
        if self.config.patience is not None and self.state.worse >= self.config.patience:
            total = self.loop.step
        save = is_validated or time.monotonic() - self._saved_at > SAVE_SECONDS
        decisions = self.group.gather(_Decision(stop_signal, total, save))
        signals = [decision.stop_signal for decision in decisions if decision.stop_signal is not None]
        return decisions[0]._replace(stop_signal=signals[0] if signals else None)

    def _shorten(self, total_steps: int) -> None:
        if self.state.worse:
            why = f"{self.state.worse} validations without a better Dice"
        else:
            why = f"no more fit into {self.config.max_hours:g} hours"
        self.context.progress.log(f"step {self.loop.step}: the run ends after {total_steps} steps ({why})")
        self.loop.end_at(total_steps)
        self.context.progress.start("training", total_steps - self.loop.step)

    def _validate(self) -> dict[str, float]:
        run, group = self.context, self.group
        # With FSDP all processes must run the model on the same cases; otherwise they share the cases.
        is_joint = self.loop.is_sharded
        scores = score_cases(
            self.loop.model,
            self.plan,
            self.validation if is_joint else self.validation[group.rank :: group.size],
            device=str(run.device),
            precision=self.config.precision,
            stride=self.config.validation_stride or self.plan.window,
            progress=run.progress,
        )
        all_scores = scores if is_joint else [case for part in group.gather(scores) for case in part]
        means = mean_scores(self.plan, all_scores)
        present = [dice for dice in means.values() if not math.isnan(dice)]
        mean = sum(present) / len(present) if present else 0.0
        run.progress.log(f"step {self.loop.step}: validation Dice {mean:.4f}")
        self.state.worse += 1
        if self.state.best_dice is None or mean > self.state.best_dice:
            self.state.best_dice, self.state.worse = mean, 0
            self._save_model(mean)
        return {"validation_dice": mean, **{f"dice.{name}": dice for name, dice in means.items()}}

    def _save_model(self, dice: float | None) -> None:
        model, plan = self.loop.model, self.plan
        facts = {**model.card.training, "steps": self.loop.step, "validation_dice": dice, "dataset": plan.name}
        if self.config.prompt_rate > 0:
            # Prediction with prompts requires a model that was trained with them.
            facts["prompt_rate"] = self.config.prompt_rate
        model.card = replace(model.card, plan=plan, training=facts)
        tensors = {name: gather_full_tensor(tensor) for name, tensor in model.state_dict().items()}
        self.group.run_on_first_process(lambda: write_model(self.context.folder.model, model, tensors))

    def _keep_bad_step(self, step: int, cases: list[str]) -> None:
        """Write the windows of a step with non-finite loss or gradients for inspection."""
        file = self.context.folder.root / "diverged" / f"step{step:06d}.safetensors"
        self.context.progress.log(
            f"warning: step {step} was skipped because its loss or gradients were not finite; its windows of "
            f"{some_of(cases)} are kept in {file}"
        )
        indices = self.loop.windows_of(step)
        self.group.run_on_first_process(lambda: _write_windows(self.loop.samples, indices, file))


def _write_windows(samples: WindowSamples, indices: range, file: Path) -> None:
    images, labels, cases = zip(*(samples[index] for index in indices), strict=True)
    notes = {"cases": json.dumps(cases), "samples": json.dumps(list(indices))}
    write_tensors(file, {"images": torch.stack(images), "labels": torch.stack(labels)}, notes)
