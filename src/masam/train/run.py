"""A training run as a whole: from a data set folder to a run folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from masam import weights
from masam.errors import ConfigError, InputError, StoppedError
from masam.fingerprint import fingerprint
from masam.io.cases import Case, CaseFolder, Split, load_case, make_splits, read_dataset, read_splits, write_splits
from masam.plan import Plan, make_plan, make_video_plan
from masam.predict import choose_device
from masam.preprocess.cache import PreparedCase, prepare_cases
from masam.progress import Progress, Silent
from masam.train.cases import are_videos, labelled_loader, preparation_of
from masam.train.config import TrainConfig
from masam.train.dataset import WindowSamples
from masam.train.initial_model import STARTED_FROM, build_model, plan_to_continue, require_start
from masam.train.interrupt import StopFlag
from masam.train.lock import locked
from masam.train.loop import Loop, StepReport
from masam.train.run_folder import RunFolder, RunState
from masam.train.validate import validate
from masam.volume import Volume

_SAVE_SECONDS = 600.0
"""The state is saved at least this often; a crash costs no more."""

_LOG_STEPS = 20
"""Most steps that share a row of metrics.csv."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        folder: The run folder.
        steps: Optimiser steps done.
        best_dice: Best mean foreground Dice in validation; None without validation.
        seconds: Time spent, of this process.
    """

    folder: RunFolder
    steps: int
    best_dice: float | None
    seconds: float


def plan_dataset(dataset: CaseFolder, progress: Progress | None = None, preset: str | None = None) -> Plan:
    """Look at every training case of a data set and derive its plan; that of videos is the preset's.

    Raises:
        InputError: A case is refused.
        ConfigError: There is no such preset.
    """
    if are_videos(dataset.training or dataset.test):
        return make_video_plan(name=dataset.name, labels=dataset.labels, preset=preset)
    progress = progress or Silent()
    progress.start("reading cases", len(dataset.training))

    found = fingerprint(_read_ahead(dataset.training, progress), ignore_value=dataset.labels.ignore_value)
    return make_plan(
        found, name=dataset.name, channel_names=dataset.channel_names, labels=dataset.labels, preset=preset
    )


def _read_ahead(cases: Sequence[Case], progress: Progress) -> Iterator[tuple[Volume, Volume | None]]:
    """Yield cases in order, reading the next ones on the other cores; one volume a core is held."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        started = deque(pool.submit(load_case, case) for case in cases[:cores])
        try:
            for number, case in enumerate(cases):
                yield started.popleft().result()
                progress.advance(case.id)
                following = cases[number + cores : number + cores + 1]
                started.extend(pool.submit(load_case, further) for further in following)
        finally:
            for waiting in started:
                waiting.cancel()


def train(
    dataset_root: Path,
    out: Path,
    config: TrainConfig | None = None,
    *,
    plan: Plan | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a model on a data set folder in the nnU-Net v2 or MSD layout.

    Args:
        dataset_root: The data set.
        out: The run folder; a new one, or with ``resume`` one to go on with.
        config: How to train; None with ``resume``, whose run folder holds it.
        plan: How volumes are prepared; None derives it from the data.
        resume: Go on where the run in ``out`` stopped.
        progress: Told of everything.

    Raises:
        InputError: The data set or a case is refused, or ``out`` is taken.
        ConfigError: Settings do not fit the data set.
        ResourceError: Disk, memory or device is not enough, or another process trains into ``out``.
        DivergedError: Numbers do not stay finite.
        StoppedError: A signal asked to stop; the state is saved.
    """
    # Held from the start: a folder that cannot be written to is refused before the data are read.
    with locked(out):
        return _train(dataset_root, RunFolder(out), config, plan, resume, progress or Silent())


def _train(
    dataset_root: Path,
    folder: RunFolder,
    config: TrainConfig | None,
    plan: Plan | None,
    resume: bool,
    progress: Progress,
) -> TrainResult:
    started = time.monotonic()
    if resume:
        plan, config = folder.read_settings()
    else:
        folder.require_free()
    dataset = read_dataset(dataset_root)
    config = config or TrainConfig()
    device = choose_device(config.device)
    if plan is None:
        init = config.model.init
        plan = plan_dataset(dataset, progress) if init is None else plan_to_continue(init, dataset)
    elif plan.labels != dataset.labels.to_mapping():
        raise ConfigError(
            f"the plan has the classes {plan.labels}, dataset.json has {dataset.labels.to_mapping()}",
            where=dataset.root,
            fix="give the plan of this data set",
        )
    if (plan.modality == "video") != are_videos(dataset.training):
        kinds = ("videos", "volumes") if plan.modality == "video" else ("volumes", "videos")
        raise ConfigError(
            f"the plan is for {kinds[0]}, the data set holds {kinds[1]}",
            where=dataset.root,
            fix="give the plan of this data set",
        )
    require_start(config, plan, device)
    training, validation, splits = split_cases(dataset, config)
    progress.start("preparing cases", len(training))
    cases = prepare_cases(
        training,
        labelled_loader(plan, progress),
        preparation_of(plan),
        plan.scheme,
        folder.root.parent / "prepared",
        lambda case: progress.advance(case.id),
    )
    samples = WindowSamples(
        cases,
        plan.window,
        config.seed,
        plan.window_minmax,
        config.augmentation,
        plan.colours,
        config.window_depths,
        config.batch_windows,
    )
    if config.model.sam_checkpoint is None and config.model.init is None and config.model.trained != "everything":
        progress.say(
            "warning: the encoder is frozen at random numbers; give SAM's weights (--sam-checkpoint), "
            "or train it too (--set model.trained=everything)"
        )
    model = build_model(config, plan, device).to(device)
    loop = Loop(model, samples, config, device)
    # Everything has been checked by now: what is refused leaves no folder behind.
    if not resume:
        folder.create(plan, config)
        if splits:
            write_splits(folder.root / "splits.json", splits, [case.id for case in dataset.training])
    run = _Run(folder, plan, config, loop, validation, _dataset_key(cases), progress)
    if resume:
        run.restore()
    else:
        # Now, so that whatever ends the run it can be gone on with, and a full disk is known before hours of work.
        run.save_state()
    run.go()
    return TrainResult(folder, loop.step, run.best_dice, time.monotonic() - started)


def split_cases(dataset: CaseFolder, config: TrainConfig) -> tuple[list[Case], list[Case], list[Split]]:
    """Return training and validation cases and all folds; without validation every case trains.

    Raises:
        InputError: There are too few cases, or the published split is refused.
        ConfigError: There is no such fold.
    """
    by_id = {case.id: case for case in dataset.training}
    if config.validate_every == 0:
        return list(dataset.training), [], []
    if len(by_id) < 2:
        raise InputError(
            f"expected at least 2 training cases to hold one out, got {len(by_id)}",
            where=dataset.root,
            fix="add cases, or set validate_every to 0",
        )
    # A published split, as masam convert writes it, goes before one of our own.
    published = dataset.root / "splits_final.json"
    is_published = published.is_file()
    splits = read_splits(published, by_id) if is_published else make_splits(by_id, min(config.folds, len(by_id)))
    if config.fold >= len(splits):
        where = f"fold, of the split in {published}" if is_published else "fold"
        raise ConfigError(f"expected 0 to {len(splits) - 1}, got {config.fold}", where=where)
    split = splits[config.fold]
    return [by_id[case] for case in split["train"]], [by_id[case] for case in split["val"]], splits


def _dataset_key(cases: Sequence[PreparedCase]) -> str:
    """Name the training windows: cached cases are named by their content and settings."""
    return hashlib.sha256(json.dumps([case.folder.name for case in cases]).encode()).hexdigest()


class _Run:
    """The loop with its log, its validation and its files."""

    def __init__(
        self,
        folder: RunFolder,
        plan: Plan,
        config: TrainConfig,
        loop: Loop,
        validation: Sequence[Case],
        dataset: str,
        progress: Progress,
    ) -> None:
        self.folder, self.plan, self.config, self.loop = folder, plan, config, loop
        self.validation, self.dataset, self.progress = validation, dataset, progress
        self.best_dice: float | None = None
        self._pending: list[StepReport] = []
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Go back to the saved state."""
        state = self.folder.load_state(self.loop.model, self.loop.optimizer)
        if state.dataset != self.dataset:
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
        if state.scaler:
            self.loop.scaler.load_state_dict(dict(state.scaler))
        self.folder.drop_metrics_after(state.step)

    def _base(self) -> str | None:
        base = self.loop.model.card.base
        return None if base is None else base.tensors_sha256

    def _init(self) -> str | None:
        started = self.loop.model.card.training.get(STARTED_FROM)
        return None if started is None else started["content_sha256"]

    def go(self) -> None:
        """Train to the end, or to a signal."""
        from torch.utils.tensorboard import SummaryWriter

        loop = self.loop
        with StopFlag() as stop, SummaryWriter(str(self.folder.root / "tensorboard"), purge_step=loop.step) as board:
            self.progress.start("training", loop.total_steps - loop.step)
            for report in loop.steps():
                self._pending.append(report)
                self.progress.advance(f"epoch {loop.epoch_of(report.step)} loss {report.loss:.3f}")
                row = self._log_row()
                validated = self._validation_due(report.step)
                if validated:
                    row = {**(row or self._flush()), **self._validate()}
                    self.progress.start("training", loop.total_steps - loop.step)
                if row:
                    self.folder.append_metrics(row)
                    for key, value in row.items():
                        if key != "step" and isinstance(value, float):
                            board.add_scalar(key, value, report.step)
                if stop.signal_number is not None:
                    self.save_state()
                    raise StoppedError(
                        stop.signal_number,
                        f"stopped after step {report.step} of {loop.total_steps}, the state is in {self.folder.last}",
                        fix="go on with --resume",
                    )
                if validated or time.monotonic() - self._saved_at > _SAVE_SECONDS:
                    self.save_state()
            # Still inside: a signal that comes while the result is written shall not lose it.
            if not self.validation:
                self._save_model(None)
            self.save_state()

    def _log_row(self) -> dict[str, float | int]:
        every = min(_LOG_STEPS, max(1, self.loop.samples.per_epoch // self.config.batch_windows))
        step = self.loop.step
        return self._flush() if step % every == 0 or step == self.loop.total_steps else {}

    def _flush(self) -> dict[str, float | int]:
        """Return the mean of the steps since the last row."""
        reports, self._pending = self._pending, []
        count = len(reports)
        return {
            "step": self.loop.step,
            "epoch": self.loop.epoch_of(self.loop.step),
            "loss": sum(r.loss for r in reports) / count,
            "cross_entropy": sum(r.cross_entropy for r in reports) / count,
            "dice_loss": sum(r.dice_loss for r in reports) / count,
            "learning_rate": reports[-1].learning_rate,
            "seconds_per_step": sum(r.seconds for r in reports) / count,
        }

    def _validation_due(self, step: int) -> bool:
        if not self.validation:
            return False
        every = self.config.validate_every
        crossed = self.loop.epoch_of(step) // every > self.loop.epoch_of(step - 1) // every
        return crossed or step == self.loop.total_steps

    def _validate(self) -> dict[str, float]:
        scores = validate(
            self.loop.model,
            self.plan,
            self.validation,
            device=str(self.loop.device),
            precision=self.config.precision,
            stride=self.config.validation_stride or self.plan.window,
            progress=self.progress,
        )
        known = [dice for dice in scores.values() if not math.isnan(dice)]
        mean = sum(known) / len(known) if known else 0.0
        self.progress.say(f"step {self.loop.step}: validation Dice {mean:.4f}")
        if self.best_dice is None or mean > self.best_dice:
            self.best_dice = mean
            self._save_model(mean)
        return {"validation_dice": mean, **{f"dice.{name}": dice for name, dice in scores.items()}}

    def _save_model(self, dice: float | None) -> None:
        model = self.loop.model
        facts = {**model.card.training, "steps": self.loop.step, "validation_dice": dice, "dataset": self.plan.name}
        model.card = replace(model.card, plan=self.plan, training=facts)
        weights.save(self.folder.model, model)

    def save_state(self) -> None:
        """Write all that it takes to go on from here."""
        loop = self.loop
        scaler = loop.scaler.state_dict()
        state = RunState(loop.step, self.best_dice, scaler, self.dataset, self._pending, self._base(), self._init())
        self.folder.save_state(loop.model, loop.optimizer, state)
        self._saved_at = time.monotonic()
