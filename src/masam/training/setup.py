"""Preparation of a training run: plan, split and cached cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from masam.cases.folder import Case, CaseFolder, Split, make_splits, read_dataset, read_splits, write_splits
from masam.cases.splits import SPLITS_FILE
from masam.errors import ConfigError, InputError
from masam.preprocess.cache import PreparedCase, prepare_cases
from masam.preprocess.plan import Plan
from masam.progress import Progress
from masam.training.cases import are_videos, labelled_loader, preparation_of
from masam.training.config import TrainConfig
from masam.training.initial_model import plan_to_continue, require_start
from masam.training.logs import require_logs
from masam.training.planning import plan_dataset
from masam.training.processes import ProcessGroup
from masam.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunContext:
    """A run as the caller requested it, in one of its processes."""

    dataset: Path  # data set folder
    folder: RunFolder
    config: TrainConfig
    plan: Plan | None  # preprocessing plan; None to derive it from the data
    resume: bool  # continue the run in the folder
    device: torch.device  # device of this process
    group: ProcessGroup  # processes of the run
    progress: Progress  # progress listener; silent in all processes but the first


@dataclass(frozen=True)
class RunSetup:
    """Plan and split of a run."""

    plan: Plan
    case_ids: list[str]  # all training cases of the data set
    training: list[Case]  # cases to train on
    validation: list[Case]  # cases to validate on; empty for no validation
    splits: list[Split]  # all folds

    def create_folder(self, folder: RunFolder, config: TrainConfig) -> None:
        """Write the settings and the split of a new run."""
        folder.create(plan=self.plan, config=config)
        if self.splits:
            write_splits(folder.root / "splits.json", self.splits, self.case_ids)


def set_up(run: RunContext) -> RunSetup:
    """Read the data set and determine plan and split, after all checks that need no prepared data."""
    if not run.resume:
        run.folder.require_free()
    require_logs(run.config)
    dataset, plan = read_dataset(run.dataset), run.plan
    if plan is None:
        plan = derive_plan(dataset, run.config, run.progress)
    require_plan(plan, dataset, where=run.dataset)
    require_start(run.config, plan, run.device)
    return RunSetup(plan, [case.id for case in dataset.training], *split_cases(dataset, run.config))


def require_plan(plan: Plan, dataset: CaseFolder, where: object) -> None:
    """Refuse a plan for another data set; errors name ``where``.

    Raises:
        ConfigError: Classes or the kind of the cases differ.
    """
    fix = "give the plan of this data set"
    labels = dataset.labels.to_mapping()
    if plan.labels != labels:
        raise ConfigError(f"the plan has the classes {plan.labels}, dataset.json has {labels}", where=where, fix=fix)
    if (plan.modality == "video") != are_videos(dataset.training or dataset.test):
        kinds = ("videos", "volumes") if plan.modality == "video" else ("volumes", "videos")
        raise ConfigError(f"the plan is for {kinds[0]}, the data set contains {kinds[1]}", where=where, fix=fix)


def derive_plan(dataset: CaseFolder, config: TrainConfig, progress: Progress) -> Plan:
    """Return the plan of the model that the run starts from, or else a plan derived from the data."""
    init = config.model.init
    return plan_dataset(dataset, progress) if init is None else plan_to_continue(init, dataset)


def split_cases(dataset: CaseFolder, config: TrainConfig) -> tuple[list[Case], list[Case], list[Split]]:
    """Return training cases, validation cases and all folds; without validation all cases are training cases.

    Raises:
        InputError: There are too few cases, or the published split is refused.
        ConfigError: The fold does not exist.
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
    # A published split, as masam convert writes it, has priority.
    published = dataset.root / SPLITS_FILE
    is_published = published.is_file()
    splits = read_splits(published, by_id) if is_published else make_splits(by_id, min(config.folds, len(by_id)))
    if config.fold >= len(splits):
        where = f"fold, of the split in {published}" if is_published else "fold"
        raise ConfigError(f"expected 0 to {len(splits) - 1}, got {config.fold}", where=where)
    split = splits[config.fold]
    return [by_id[case] for case in split["train"]], [by_id[case] for case in split["val"]], splits


def prepare_training_cases(run: RunContext, setup: RunSetup) -> list[PreparedCase]:
    """Preprocess and cache the training cases, distributed over the processes of the run."""
    cases = setup.training[run.group.rank :: run.group.size]
    run.progress.start("preparing cases", len(cases))
    prepared = run.group.run_on_all_processes(
        lambda: prepare_cases(
            cases,
            labelled_loader(setup.plan, run.progress),
            preparation_of(setup.plan),
            setup.plan.scheme,
            run.folder.root.parent / "prepared",
            lambda case: run.progress.advance(case.id),
        )
    )
    by_id = {case.case_id: case for part in run.group.gather(prepared) for case in part}
    return [by_id[case.id] for case in setup.training]
