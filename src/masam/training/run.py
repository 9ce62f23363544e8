"""Train a model: from a data set folder to a run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from masam.cases.folder import read_dataset
from masam.device import choose_device, training_on
from masam.errors import ConfigError
from masam.preprocess.plan import Plan
from masam.progress import Progress, Silent
from masam.runs.lock import locked
from masam.runs.manifest import build_manifest, write_manifest
from masam.training.config import TrainConfig, require_no_settings, resolve_config, suggested_settings
from masam.training.dataset import WindowSamples
from masam.training.initial_model import build_model
from masam.training.processes import connect_processes, find_process_rank
from masam.training.run_folder import RunFolder
from masam.training.session import Session
from masam.training.setup import RunContext, RunSetup, derive_plan, prepare_training_cases, set_up, split_cases
from masam.weights.model_file import fold_folder


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run."""

    folder: RunFolder
    steps: int  # completed optimiser steps
    best_dice: float | None  # best mean foreground Dice in validation; None without validation
    seconds: float  # duration of this process
    seed: int  # seed of the run

    def facts(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "steps": self.steps, "best_dice": self.best_dice, "seconds": round(self.seconds, 1), "seed": self.seed
        }  # fmt: skip


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
    with _start_run(Path(dataset), RunFolder(Path(out)), config, plan, resume, progress) as run:
        return _train(run)


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
    root = Path(out)
    with _start_run(Path(dataset), RunFolder(fold_folder(root, 0)), config, plan, resume, progress) as run:
        plan, has_state = run.group.run_on_first_process(lambda: _plan_folds(run, root))
        results = []
        for fold, is_started in enumerate(has_state):
            run.progress.log(f"fold {fold} of 0 to {len(has_state) - 1}")
            folder = RunFolder(fold_folder(root, fold))
            new = (plan, run.config.model_copy(update={"fold": fold}))
            fold_plan, fold_config = folder.read_settings() if is_started else new
            results.append(_train(replace(run, folder=folder, config=fold_config, plan=fold_plan, resume=is_started)))
        return results


@contextmanager
def _start_run(
    dataset: Path,
    folder: RunFolder,
    config: TrainConfig | Mapping[str, Any] | None,
    plan: Plan | None,
    resume: bool,
    progress: Progress | None,
) -> Iterator[RunContext]:
    """Determine the settings, choose the device and connect to the other processes of the run."""
    if resume:
        require_no_settings(config, plan)
        plan, resolved = folder.read_settings()
    else:
        resolved = resolve_config(TrainConfig(), config, suggested_settings(config, plan))
    rank = find_process_rank(os.environ)
    device = choose_device(resolved.device)
    if device.type == "cuda" and rank.size > 1:
        device = choose_device(f"cuda:{rank.local_rank}")
        torch.cuda.set_device(device)
    listener = (progress or Silent()) if rank.is_first else Silent()
    with training_on(device), connect_processes(rank, device) as group:
        yield RunContext(dataset, folder, resolved, plan, resume, device, group, listener)


def _plan_folds(run: RunContext, root: Path) -> tuple[Plan, list[bool]]:
    """Return the plan of all folds, and whether each has a saved state."""
    dataset = read_dataset(run.dataset)
    splits = split_cases(dataset, run.config.model_copy(update={"fold": 0}))[2]
    if not splits:
        raise ConfigError(
            "expected 1 or more, since each fold is held out for validation, got 0",
            where="validate_every",
            fix="set it to 1 or more, or train a single run",
        )
    folders = [RunFolder(fold_folder(root, fold)) for fold in range(len(splits))]
    if not run.resume:
        for folder in folders:
            folder.require_free()
    return run.plan or derive_plan(dataset, run.config, run.progress), [folder.has_state for folder in folders]


def _train(run: RunContext) -> TrainResult:
    started_utc, started = datetime.now(UTC), time.monotonic()
    folder, config, group = run.folder, run.config, run.group
    with ExitStack() as stack:
        # Locked first, so that a folder without write access is refused before the data are read.
        group.run_on_first_process(lambda: stack.enter_context(locked(folder.root)))
        setup = group.run_on_first_process(lambda: set_up(run))
        session = _create_session(run, setup, started)
        # All checks are done: a run that is refused leaves no folder.
        if run.resume:
            group.run_on_all_processes(session.restore)
        else:
            group.run_on_first_process(lambda: setup.create_folder(folder, config))
            # The run can be resumed from its first moment, and a full disk is noticed before hours of work.
            session.save_state()
        session.run()
        seconds = time.monotonic() - started
        result = TrainResult(folder, session.loop.step, session.state.best_dice, seconds, config.seed)
        group.run_on_first_process(lambda: _write_manifest(result, session, started_utc))
    return result


def _create_session(run: RunContext, setup: RunSetup, started: float) -> Session:
    plan, config = setup.plan, run.config
    samples = WindowSamples(
        prepare_training_cases(run, setup),
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
        run.progress.log(
            "warning: the encoder is frozen with random weights; give SAM's weights (--sam-checkpoint), "
            "or train the encoder too (--set model.trained=everything)"
        )
    model = run.group.run_on_all_processes(lambda: build_model(config, plan, run.device).to(run.device))
    return Session(run, setup, model, samples, started)


def _write_manifest(result: TrainResult, session: Session, started: datetime) -> None:
    manifest = build_manifest(
        "train",
        started=started,
        dataset=session.context.dataset,
        dataset_sha256=session.state.dataset,
        base_tensors_sha256=session.state.base,
        processes=session.group.size,
        gpus=[torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        **result.facts(),
    )
    write_manifest(result.folder.manifest, manifest)
