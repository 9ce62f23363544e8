"""Train a model: from a data set folder to a run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from masam.cases.folder import read_dataset
from masam.device import choose_device, training_on
from masam.errors import ConfigError
from masam.preprocess.cache import PreparedCase
from masam.preprocess.plan import Plan
from masam.progress import Progress, Silent
from masam.runs.lock import locked
from masam.runs.manifest import build_manifest, write_manifest
from masam.training.config import TrainConfig, require_no_settings, resolve_config, suggested_settings
from masam.training.dataset import WindowSamples
from masam.training.initial_model import build_model, require_start
from masam.training.logs import require_logs
from masam.training.processes import ProcessGroup, connect_processes, find_process_rank
from masam.training.run_folder import RunFolder
from masam.training.session import RunContext, Session
from masam.training.setup import RunSetup, derive_plan, prepare_training_cases, set_up, split_cases
from masam.weights.model_file import fold_folder


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run.

    Attributes:
        folder: The run folder.
        steps: Completed optimiser steps.
        best_dice: Best mean foreground Dice in validation; None without validation.
        seconds: Duration of this process.
        seed: Seed of the run.
    """

    folder: RunFolder
    steps: int
    best_dice: float | None
    seconds: float
    seed: int

    def facts(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "steps": self.steps, "best_dice": self.best_dice, "seconds": round(self.seconds, 1), "seed": self.seed
        }  # fmt: skip


@dataclass(frozen=True)
class _Request:
    """What the caller asked for; with ``resume`` plan and configuration are those of the run folder."""

    dataset: Path
    folder: RunFolder
    config: TrainConfig
    plan: Plan | None
    resume: bool

    @classmethod
    def resumed(cls, dataset: Path, folder: RunFolder) -> _Request:
        plan, config = folder.read_settings()
        return cls(dataset, folder, config, plan, resume=True)


@dataclass(frozen=True)
class _Process:
    """This process of the run; its progress listener is silent in all processes but the first."""

    group: ProcessGroup
    device: torch.device
    progress: Progress


def train(
    dataset: Path | str,
    out: Path | str,
    config: TrainConfig | Mapping[str, Any] | None = None,
    *,
    plan: Plan | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a model on a data set folder in the layout of nnU-Net v2 or MSD.

    Args:
        dataset: Data set folder.
        out: Run folder: a new one, or with ``resume`` an existing one.
        config: Configuration, or some of its keys. Missing keys have the values that the plan suggests, or else the
            defaults, which are the paper's recipe.
        plan: Preprocessing plan; None derives it from the data.
        resume: Continue the run in ``out``, with its own configuration and plan.
        progress: Progress listener.

    Raises:
        InputError: The data set or a case is refused, or ``out`` contains another run.
        ConfigError: Settings are invalid, do not fit the data set, or are given together with ``resume``.
        ModelError: A file of weights or a saved state is damaged.
        ResourceError: Disk, memory or device is not sufficient, or another process uses ``out``.
        DivergedError: Loss or gradients stay infinite or NaN.
        StoppedError: A signal requested the stop; the state is saved.
    """
    request = _request(Path(dataset), RunFolder(Path(out)), config, plan, resume)
    with _start_process(request.config, progress) as process:
        return _train(request, process)


def train_folds(
    dataset: Path | str,
    out: Path | str,
    config: TrainConfig | Mapping[str, Any] | None = None,
    *,
    plan: Plan | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[TrainResult]:
    """Train one model for each fold of the split, one after the other, into ``out/fold_0``, ``out/fold_1``, ...

    Args:
        dataset: Data set folder.
        out: Folder of the run folders.
        config: Configuration, or some of its keys; the key ``fold`` is ignored.
        plan: Preprocessing plan; None derives it from the data.
        resume: Continue where the folds stopped; folds that have not started use the settings of the first one.
        progress: Progress listener.

    Raises:
        ConfigError: The configuration has no validation and so no folds.
        MasamError: Any other error of :func:`train`.
    """
    dataset, out = Path(dataset), Path(out)
    request = _request(dataset, RunFolder(fold_folder(out, 0)), config, plan, resume)
    with _start_process(request.config, progress) as process:
        fold_plan, has_state = process.group.run_on_first_process(lambda: _plan_folds(request, out, process.progress))
        results = []
        for fold, is_started in enumerate(has_state):
            process.progress.say(f"fold {fold} of 0 to {len(has_state) - 1}")
            folder = RunFolder(fold_folder(out, fold))
            fold_config = request.config.model_copy(update={"fold": fold})
            new = _Request(dataset, folder, fold_config, fold_plan, resume=False)
            results.append(_train(_Request.resumed(dataset, folder) if is_started else new, process))
        return results


def _request(
    dataset: Path,
    folder: RunFolder,
    config: TrainConfig | Mapping[str, Any] | None,
    plan: Plan | None,
    resume: bool,
) -> _Request:
    if resume:
        require_no_settings(config, plan)
        return _Request.resumed(dataset, folder)
    resolved = resolve_config(TrainConfig(), config, suggested_settings(config, plan))
    return _Request(dataset, folder, resolved, plan, resume)


@contextmanager
def _start_process(config: TrainConfig, progress: Progress | None) -> Iterator[_Process]:
    """Choose the device and connect to the other processes of the run."""
    rank = find_process_rank(os.environ)
    device = choose_device(config.device)
    if device.type == "cuda" and rank.size > 1:
        device = choose_device(f"cuda:{rank.local_rank}")
        torch.cuda.set_device(device)
    with training_on(device), connect_processes(rank, device) as group:
        yield _Process(group, device, (progress or Silent()) if rank.is_first else Silent())


def _plan_folds(request: _Request, out: Path, progress: Progress) -> tuple[Plan, list[bool]]:
    """Return the plan of all folds, and whether each has a saved state."""
    dataset, config = read_dataset(request.dataset), request.config
    splits = split_cases(dataset, config.model_copy(update={"fold": 0}))[2]
    if not splits:
        raise ConfigError(
            "expected 1 or more, since each fold is held out for validation, got 0",
            where="validate_every",
            fix="set it to 1 or more, or train a single run",
        )
    folders = [RunFolder(fold_folder(out, fold)) for fold in range(len(splits))]
    if not request.resume:
        for folder in folders:
            folder.require_free()
    plan = request.plan or derive_plan(dataset, config, progress)
    return plan, [folder.has_state for folder in folders]


def _train(request: _Request, process: _Process) -> TrainResult:
    started_utc, started = datetime.now(UTC), time.monotonic()
    folder, config, group, progress = request.folder, request.config, process.group, process.progress
    with ExitStack() as stack:
        # Locked first, so that a folder without write access is refused before the data are read.
        group.run_on_first_process(lambda: stack.enter_context(locked(folder.root)))
        setup = group.run_on_first_process(lambda: _checked_setup(request, process))
        context = RunContext(folder, setup.plan, config, setup.validation, process.device, group, progress, started)
        cases = prepare_training_cases(setup, folder.root.parent / "prepared", group, progress)
        session = _create_session(context, cases)
        # All checks are done: a run that is refused leaves no folder.
        if request.resume:
            group.run_on_all_processes(session.restore)
        else:
            group.run_on_first_process(lambda: setup.create_folder(folder, config))
            # The run can be resumed from its first moment, and a full disk is noticed before hours of work.
            session.save_state()
        session.run()
        seconds = time.monotonic() - started
        result = TrainResult(folder, session.loop.step, session.best_dice, seconds, config.seed)
        group.run_on_first_process(lambda: _write_manifest(result, session, request.dataset, started_utc))
    return result


def _checked_setup(request: _Request, process: _Process) -> RunSetup:
    if not request.resume:
        request.folder.require_free()
    require_logs(request.config)
    setup = set_up(request.dataset, request.config, request.plan, process.progress)
    require_start(request.config, setup.plan, process.device)
    return setup


def _create_session(context: RunContext, cases: list[PreparedCase]) -> Session:
    plan, config = context.plan, context.config
    samples = WindowSamples(
        cases,
        plan.window,
        config.seed,
        plan.window_minmax,
        config.augmentation,
        plan.colours,
        config.window_depths,
        config.batch_windows,
        config.prompt_rate,
    )
    if config.model.sam_checkpoint is None and config.model.init is None and config.model.trained != "everything":
        context.progress.say(
            "warning: the encoder is frozen with random weights; give SAM's weights (--sam-checkpoint), "
            "or train the encoder too (--set model.trained=everything)"
        )
    model = context.group.run_on_all_processes(lambda: build_model(config, plan, context.device).to(context.device))
    return Session(context, model, samples)


def _write_manifest(result: TrainResult, session: Session, dataset: Path, started: datetime) -> None:
    manifest = build_manifest(
        "train",
        started=started,
        dataset=dataset,
        dataset_sha256=session.dataset,
        base_tensors_sha256=session.base,
        processes=session.group.size,
        gpus=[torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        **result.facts(),
    )
    write_manifest(result.folder.manifest, manifest)
