"""A training run as a whole: from a data set folder to a run folder."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from masam.cases.folder import Case, CaseFolder, Split, load_case, make_splits, read_dataset, read_splits, write_splits
from masam.device import choose_device, training_on
from masam.errors import ConfigError, InputError
from masam.preprocess.cache import PreparedCase, prepare_cases
from masam.preprocess.fingerprint import fingerprint
from masam.preprocess.plan import Plan, make_plan, make_video_plan
from masam.progress import Progress, Silent
from masam.runs.lock import locked
from masam.training.cases import are_videos, labelled_loader, preparation_of
from masam.training.config import TrainConfig
from masam.training.dataset import WindowSamples
from masam.training.initial_model import build_model, plan_to_continue, require_start
from masam.training.logs import require_logs
from masam.training.parallel import World, find_place, joined
from masam.training.run_folder import RunFolder
from masam.training.session import Session, dataset_key
from masam.volume import Volume
from masam.weights.model_file import fold_folder


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        folder: The run folder.
        steps: Optimiser steps done.
        best_dice: Best mean foreground Dice in validation; None without validation.
        seconds: Time spent, of this process.
        dataset: Hash of the prepared training cases.
        base: Hash of the tensors of the SAM file that the model stands on; None without one.
        processes: Number of processes that took part.
    """

    folder: RunFolder
    steps: int
    best_dice: float | None
    seconds: float
    dataset: str
    base: str | None
    processes: int


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
    # The device is a setting, which a resumed run has in its folder.
    known = RunFolder(out).read_settings()[1] if resume else config
    with _processes(known, progress) as (world, device, heard):
        return _train(dataset_root, out, config, plan, resume, heard, world, device)


def train_folds(
    dataset_root: Path,
    out: Path,
    config: TrainConfig | None = None,
    *,
    plan: Plan | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[TrainResult]:
    """Train a model for each fold of the split, one after the other, into ``out/fold_0`` and so on.

    Args:
        dataset_root: The data set.
        out: Folder of the run folders.
        config: How to train; its fold does not matter.
        plan: How volumes are prepared; None derives it from the data.
        resume: Go on where it stopped; folds that have not begun take ``config`` and ``plan`` of those that have.
        progress: Told of everything.

    Raises:
        InputError: As of ``train``; also if the split has no folds.
        ConfigError: As of ``train``.
        ResourceError: As of ``train``.
        DivergedError: As of ``train``.
        StoppedError: As of ``train``.
    """
    if resume:
        plan, config = RunFolder(fold_folder(out, 0)).read_settings()
    config = config or TrainConfig()
    with _processes(config, progress) as (world, device, heard):
        plan, begun = world.once(lambda: _plan_folds(dataset_root, out, config, plan, resume, heard))
        results = []
        for fold, goes_on in enumerate(begun):
            heard.say(f"fold {fold} of 0 to {len(begun) - 1}")
            folder, own = fold_folder(out, fold), None if goes_on else config.model_copy(update={"fold": fold})
            results.append(_train(dataset_root, folder, own, None if goes_on else plan, goes_on, heard, world, device))
        return results


def _plan_folds(
    dataset_root: Path, out: Path, config: TrainConfig, plan: Plan | None, resume: bool, progress: Progress
) -> tuple[Plan, list[bool]]:
    """Return the plan of all folds, and which of them have begun."""
    dataset = read_dataset(dataset_root)
    splits = split_cases(dataset, config.model_copy(update={"fold": 0}))[2]
    if not splits:
        raise ConfigError(
            "folds are held out for validation, of which there is none",
            where="validate_every",
            fix="set it to 1 or more, or train one run without folds",
        )
    folders = [RunFolder(fold_folder(out, fold)) for fold in range(len(splits))]
    if not resume:
        for folder in folders:
            folder.require_free()
    if plan is None:
        plan = _plan_for(dataset, config, progress)
    return plan, [folder.has_state for folder in folders]


@contextmanager
def _processes(config: TrainConfig | None, progress: Progress | None) -> Iterator[tuple[World, torch.device, Progress]]:
    """Meet the other processes of the run; yields them, this one's device, and whom it tells of everything."""
    place = find_place(os.environ)
    device = choose_device((config or TrainConfig()).device)
    if device.type == "cuda" and place.size > 1:
        device = choose_device(f"cuda:{place.local_rank}")
        torch.cuda.set_device(device)
    with training_on(device), joined(place, device) as world:
        yield world, device, (progress or Silent()) if place.is_first else Silent()


def _train(
    dataset_root: Path,
    out: Path,
    config: TrainConfig | None,
    plan: Plan | None,
    resume: bool,
    progress: Progress,
    world: World,
    device: torch.device,
) -> TrainResult:
    started, folder = time.monotonic(), RunFolder(out)
    with ExitStack() as held:
        # Held from the start: a folder that cannot be written to is refused before the data are read.
        world.once(lambda: held.enter_context(locked(out)))
        setup = world.once(lambda: _set_up(dataset_root, folder, config, plan, resume, progress, device))
        cases = _prepare(setup, folder, progress, world)
        session = _begin(folder, setup, cases, progress, world, device, started)
        # Everything has been checked by now: what is refused leaves no folder behind.
        if resume:
            world.agree(session.restore)
        else:
            world.once(lambda: _create(folder, setup))
            # Now, so that whatever ends the run it can be gone on with, and a full disk is known before hours of work.
            session.save_state()
        session.go()
    base = session.loop.model.card.base
    return TrainResult(
        folder,
        session.loop.step,
        session.best_dice,
        time.monotonic() - started,
        dataset_key(cases),
        None if base is None else base.tensors_sha256,
        world.size,
    )


def _begin(
    folder: RunFolder,
    setup: _Setup,
    cases: list[PreparedCase],
    progress: Progress,
    world: World,
    device: torch.device,
    started: float,
) -> Session:
    plan, config = setup.plan, setup.config
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
        progress.say(
            "warning: the encoder is frozen at random numbers; give SAM's weights (--sam-checkpoint), "
            "or train it too (--set model.trained=everything)"
        )
    model = world.agree(lambda: build_model(config, plan, device).to(device))
    return Session(
        folder, plan, config, model, samples, dataset_key(cases), setup.validation, progress, world, device, started
    )


@dataclass(frozen=True)
class _Setup:
    """What is decided before the data are prepared.

    Attributes:
        plan: How cases are prepared.
        config: How to train.
        case_ids: All training cases of the data set.
        training: Cases to train on.
        validation: Cases to validate on.
        splits: All folds.
    """

    plan: Plan
    config: TrainConfig
    case_ids: list[str]
    training: list[Case]
    validation: list[Case]
    splits: list[Split]


def _set_up(
    dataset_root: Path,
    folder: RunFolder,
    config: TrainConfig | None,
    plan: Plan | None,
    resume: bool,
    progress: Progress,
    device: torch.device,
) -> _Setup:
    if resume:
        plan, config = folder.read_settings()
    else:
        folder.require_free()
    dataset = read_dataset(dataset_root)
    config = config or TrainConfig()
    require_logs(config)
    if plan is None:
        plan = _plan_for(dataset, config, progress)
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
    return _Setup(plan, config, [case.id for case in dataset.training], training, validation, splits)


def _plan_for(dataset: CaseFolder, config: TrainConfig, progress: Progress) -> Plan:
    """Return the plan of the model that the run starts from, or else one derived from the data."""
    init = config.model.init
    return plan_dataset(dataset, progress) if init is None else plan_to_continue(init, dataset)


def _prepare(setup: _Setup, folder: RunFolder, progress: Progress, world: World) -> list[PreparedCase]:
    """Prepare the training cases, each process its share."""
    own = setup.training[world.rank :: world.size]
    progress.start("preparing cases", len(own))
    share = world.agree(
        lambda: prepare_cases(
            own,
            labelled_loader(setup.plan, progress),
            preparation_of(setup.plan),
            setup.plan.scheme,
            folder.root.parent / "prepared",
            lambda case: progress.advance(case.id),
        )
    )
    prepared = {case.case_id: case for some in world.gather(share) for case in some}
    return [prepared[case.id] for case in setup.training]


def _create(folder: RunFolder, setup: _Setup) -> None:
    folder.create(setup.plan, setup.config)
    if setup.splits:
        write_splits(folder.root / "splits.json", setup.splits, setup.case_ids)


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
