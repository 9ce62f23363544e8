"""Demonstration of the full pipeline on synthetic phantoms and on a real MRI template.

Generates data, trains, predicts, evaluates and writes a report. As in the paper, the encoder of a pre-trained SAM stays
frozen. It is the small encoder of this package, which was pre-trained on synthetic images only. The scores show that
the pipeline runs, not how well it performs on patients.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masam.atomic import write_text
from masam.augment.settings import AugmentSettings
from masam.cases.folder import find_images, read_dataset
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

_MARKER = "masam-demo.txt"
# Training for minutes requires other hyperparameters than the paper: many small steps at a high learning rate; a large
# weight of the cross-entropy, because the soft Dice of a class absent from a small batch suppresses it everywhere; and
# SAM's own decoder, because half of the upsampling layers of the progressive decoder are not pre-trained.
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
    """A data set of the demonstration."""

    name: str  # name of the folder
    title: str  # heading of the report
    write: Callable[[Path], object]  # writes the data set to a folder
    plan_changes: Mapping[str, Any]  # changes to the automatic plan
    epochs: int  # passes over all windows
    notes: tuple[str, ...]  # limitations of the scores


DEMO_SETS = (
    DemoSet(
        name="phantom",
        title="Phantom: synthetic CT-like abdomens",
        write=lambda root: write_phantom(root, train=46, test=6, seed=7),
        # Soft-tissue window.
        plan_changes={"image_size": 160, "intensity": Window(low=-100, high=200)},
        epochs=1,
        notes=(
            "The volumes are synthetic: the scores only show that the method runs and learns.",
            "On a single slice the duodenum looks like the adjacent bowel loops; it differs only in its course.",
            "The frozen encoder was pre-trained on synthetic images only; the original MA-SAM uses that of SAM.",
        ),
    ),
    DemoSet(
        name="head",
        title="Head: held-out slabs of the MNI152 T1 template",
        write=write_head,
        plan_changes={"image_size": 192},
        epochs=5,
        notes=(
            "Training and test slabs come from one averaged brain: the scores do not generalise to other people.",
            "The labels are derived from the grey and white matter probability maps of the template.",
        ),
    ),
)


def run_demo(out: Path, progress: Progress, only: str | None = None) -> dict[str, tuple[Path, Evaluation]]:
    """Run the demonstration, or resume an earlier one.

    Args:
        out: Output folder, created if necessary.
        progress: Receives all progress.
        only: Name of a data set to run; None runs all.

    Returns:
        Report and scores by name of the data set.

    Raises:
        InputError: ``out`` contains other files.
        ResourceError: Disk space or memory is insufficient, nilearn is not installed, or another process uses ``out``.
        StoppedError: A signal requested to stop.
    """
    if out.exists() and not (out / _MARKER).exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("expected a new folder or that of an earlier demonstration", where=out, fix="use another name")
    write_text(out / _MARKER, "This folder was created by `masam demo`, which may overwrite its content.\n")
    with locked(out):
        return {demo.name: _run(demo, out / demo.name, progress) for demo in DEMO_SETS if only in (None, demo.name)}


def _run(demo: DemoSet, root: Path, progress: Progress) -> tuple[Path, Evaluation]:
    data, run = root / "data", RunFolder(root / "run")
    config = _CONFIG.model_copy(update={"epochs": demo.epochs})
    progress.log(f"{demo.title}: generating the data set")
    if not (data / "dataset.json").exists():
        demo.write(data)
    dataset = read_dataset(data)
    plan = plan_dataset(dataset, progress).model_copy(update=dict(demo.plan_changes))
    progress.log(f"{demo.title}: training with the frozen encoder {config.model.sam_checkpoint}")
    try:
        resume = _same_run(run, plan, config)
        run_config, run_plan = (None, None) if resume else (config, plan)
        train(data, run.root, run_config, plan=run_plan, resume=resume, progress=progress)
    except StoppedError as stop:
        raise StoppedError(stop.exit_code - 128, stop.what, fix="run the same command again to resume") from stop
    progress.log(f"{demo.title}: predicting {len(dataset.test)} held-out cases")
    scans, masks = data / "imagesTs", root / "predictions"
    predict_cohort(Predictor(run.root), find_images(scans), masks, progress).raise_failures()
    evaluation = report_on(
        scans,
        masks,
        data / "labelsTs",
        dataset.labels,
        root / "report.html",
        title=demo.title,
        progress=progress,
        metrics=read_columns(run.root / "metrics.csv"),
        notes=demo.notes,
        model=config.model.sam_checkpoint,
        training_cases=len(dataset.training),
        held_out_cases=len(dataset.test),
        seed=config.seed,
    )
    evaluation.to_json(root / "scores.json")
    return root / "report.html", evaluation


def _same_run(run: RunFolder, plan: Plan, config: TrainConfig) -> bool:
    """Return whether an earlier run can be resumed; remove a run with other settings or without a checkpoint."""
    if run.last.exists() and run.read_settings() == (plan, config):
        return True
    shutil.rmtree(run.root, ignore_errors=True)
    return False
