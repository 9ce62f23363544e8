"""The demonstration: made data, a training run, predictions, scores and a page; then the same on a real template.

As in the paper the encoder of a pre-trained SAM stays frozen; here it is the package's own small one, which has seen
pictures made by formula alone. The figures show that the whole path works; they are no claim about patients.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masam.atomic import write_text
from masam.augment.settings import AugmentSettings
from masam.cases.folder import CaseFolder, find_images, read_dataset
from masam.errors import InputError, StoppedError
from masam.evaluation import Evaluation
from masam.predict.cohort import predict_cohort
from masam.predict.predictor import Predictor
from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan
from masam.progress import Progress
from masam.report.assemble import report_on
from masam.runs.lock import locked
from masam.runs.metrics import read_columns
from masam.synthetic.head import write_head
from masam.synthetic.phantom import write_phantom
from masam.training.config import ModelSettings, TrainConfig
from masam.training.planning import plan_dataset
from masam.training.run import train
from masam.training.run_folder import RunFolder

_MARK = "masam-demo.txt"
# Training of minutes wants other numbers than the paper's of days: many small steps at a high rate, and a strong
# cross-entropy, since a class that a small batch does not hold makes soft Dice push it down everywhere. And SAM's own
# decoder, which is pre-trained: half of the progressive one's upsamplings are not, and minutes do not make up for it.
_CONFIG = TrainConfig(
    model=ModelSettings(
        sam_checkpoint="masam-vit-t", decoder="sam", fact_dropout=0.0, adapter_channels=64, adapter_zero_start=True
    ),
    batch_windows=1,
    micro_batch_windows=1,
    learning_rate=1e-3,
    warmup_steps=100,
    weight_decay=0.01,
    power=1.0,
    clip_norm=1.0,
    cross_entropy_weight=1.0,
    augmentation=AugmentSettings(preset="none"),
    validate_every=0,
)


@dataclass(frozen=True)
class DemoSet:
    """One of the demonstration's data sets.

    Attributes:
        name: Its folder.
        title: Heading of its page.
        write: Writes the data set into a folder.
        plan_changes: What the demonstration decides of the plan.
        epochs: Passes over all windows.
        notes: What its figures do not say.
    """

    name: str
    title: str
    write: Callable[[Path], object]
    plan_changes: Mapping[str, Any]
    epochs: int
    notes: tuple[str, ...]


DEMO_SETS = (
    DemoSet(
        name="phantom",
        title="Phantom: CT-like abdomens made by formula",
        write=lambda root: write_phantom(root, train=46, test=6, seed=7),
        # A soft-tissue window: of all that CT shows, these organs lie between.
        plan_changes={"image_size": 160, "intensity": Window(low=-100, high=200)},
        epochs=1,
        notes=(
            "The volumes are made by formula: they show that the method runs and learns, no more.",
            "The duodenum looks like the loops beside it on any one slice; only its course tells it apart.",
            "The frozen encoder has seen pictures made by formula alone; MA-SAM proper starts from SAM's.",
        ),
    ),
    DemoSet(
        name="head",
        title="Head: the MNI152 T1 template, slabs apart from those trained on",
        write=write_head,
        plan_changes={"image_size": 192},
        epochs=5,
        notes=(
            "Training and test slabs come from one averaged brain: the score says nothing about other people.",
            "The labels are the more probable of the template's own grey and white matter maps.",
        ),
    ),
)


def run_demo(out: Path, progress: Progress, only: str | None = None) -> dict[str, tuple[Path, Evaluation]]:
    """Run the demonstration; what an interrupted or earlier one has done is kept.

    Args:
        out: Folder for everything; it is made if need be.
        progress: Told of everything.
        only: Name of the one data set to run; None runs all.

    Returns:
        For each data set its page and its scores.

    Raises:
        InputError: ``out`` holds other things.
        ResourceError: Disk or memory is not enough, nilearn is not installed, or another process uses ``out``.
        StoppedError: A signal asked to stop.
    """
    if out.exists() and not (out / _MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("expected a new folder, or one of an earlier demonstration", where=out, fix="name another one")
    write_text(out / _MARK, "This folder was made by `masam demo`, which may rewrite it.\n")
    with locked(out):
        return {one.name: _run(one, out / one.name, progress) for one in DEMO_SETS if only in (None, one.name)}


def _run(demo: DemoSet, root: Path, progress: Progress) -> tuple[Path, Evaluation]:
    data, run = root / "data", RunFolder(root / "run")
    config = _CONFIG.model_copy(update={"epochs": demo.epochs})
    progress.say(f"{demo.title}: making the data")
    if not (data / "dataset.json").exists():
        demo.write(data)
    dataset = read_dataset(data)
    plan = plan_dataset(dataset, progress).model_copy(update=dict(demo.plan_changes))
    progress.say(f"{demo.title}: training on the frozen {config.model.sam_checkpoint}")
    try:
        if _same_run(run, plan, config):
            train(data, run.root, resume=True, progress=progress)
        else:
            train(data, run.root, config, plan=plan, progress=progress)
    except StoppedError as stop:
        raise StoppedError(stop.exit_code - 128, stop.what, fix="the same command again goes on from there") from stop
    progress.say(f"{demo.title}: predicting {len(dataset.test)} held-out cases")
    masks = root / "predictions"
    cohort = predict_cohort(Predictor(run.root), find_images(data / "imagesTs"), masks, progress)
    cohort.raise_failures()
    return _report(demo, dataset, root, progress)


def _same_run(run: RunFolder, plan: Plan, config: TrainConfig) -> bool:
    """Say whether an earlier run can be gone on with; one of other settings, or without a state, is removed."""
    if run.last.exists() and run.read_settings() == (plan, config):
        return True
    shutil.rmtree(run.root, ignore_errors=True)
    return False


def _report(demo: DemoSet, dataset: CaseFolder, root: Path, progress: Progress) -> tuple[Path, Evaluation]:
    page = root / "report.html"
    evaluation = report_on(
        dataset.root / "imagesTs",
        root / "predictions",
        dataset.root / "labelsTs",
        dataset.labels,
        page,
        title=demo.title,
        progress=progress,
        metrics=read_columns(root / "run" / "metrics.csv"),
        notes=demo.notes,
        model=_CONFIG.model.sam_checkpoint,
        training_cases=len(dataset.training),
        held_out_cases=len(dataset.test),
        seed=_CONFIG.seed,
    )
    evaluation.to_json(root / "scores.json")
    return page, evaluation
