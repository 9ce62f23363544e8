"""``masam train``: from a data set folder to a run folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from masam.cli.console import listening, print_json, print_line
from masam.cli.options import Json, Quiet
from masam.cli.settings import number, require_none_given, with_settings

if TYPE_CHECKING:
    from masam.training.run import TrainResult

_ALL_FOLDS = "all"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example: masam train Dataset009_Spleen --out runs/spleen --size vit_b "
        "--sam-checkpoint sam_vit_b_01ec64.pth"
    )(train)


def train(
    dataset: Annotated[Path, typer.Argument(help="Data set folder, nnU-Net v2 or MSD layout.")],
    out: Annotated[Path, typer.Option(help="Run folder: a new one, or with --resume the one to go on with.")],
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; the paper's recipe without.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Plan of masam plan; derived from the data without.")] = None,
    size: Annotated[
        str | None, typer.Option(help="vit_h, vit_l, vit_b or vit_t; without, that of --sam-checkpoint, or vit_b.")
    ] = None,
    sam_checkpoint: Annotated[
        str | None, typer.Option(help="SAM's or MedSAM's weights to stand on: a file or a published name.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Trained model to start from, run folder or model file; classes it lacks are added."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", "--max-epochs", help="Passes over all windows; the paper's recipe has 160."),
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Hours that the run may take: it is shortened to fit, learning rate included.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Validations without a better Dice after which the run ends; never without.")
    ] = None,
    fold: Annotated[
        str | None, typer.Option(help="Fold that is held out for validation, or all: a run for each; 0 without.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N; auto without.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, such as model.fact_rank=16; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train on a data set; the run folder then serves masam predict. Under torchrun or srun, on many devices."""
    from masam.preprocess.plan import Plan
    from masam.training.config import TrainConfig
    from masam.training.parallel import find_place
    from masam.training.run import train as train_model
    from masam.training.run import train_folds

    chosen = {
        "model.size": size,
        "model.sam_checkpoint": sam_checkpoint,
        "model.init": init,
        "epochs": epochs,
        "max_hours": max_hours,
        "patience": patience,
        "fold": None if fold == _ALL_FOLDS else number(fold),
        "device": device,
    }
    started = datetime.now(UTC)
    given = {key: value for key, value in chosen.items() if value is not None}
    if resume:
        require_none_given(given, setting, config, plan)
    base = TrainConfig() if config is None else TrainConfig.from_yaml(config)
    chosen_plan = None if plan is None else Plan.from_yaml(plan)
    if config is None and chosen_plan is not None and (best := chosen_plan.suggestion) is not None:
        suggested: dict[str, Any] = {
            "micro_batch_windows": best.micro_batch_windows,
            "checkpointing": best.checkpointing,
        }
        # The size of a SAM file or of a model that is given is its own.
        suggested |= {} if sam_checkpoint or init else {"model.size": best.size}
        given = suggested | given
    settings = with_settings(base, given, setting or [])
    # Of several processes one talks to the user.
    is_first = find_place(os.environ).is_first
    with listening(quiet or not is_first) as progress:
        if fold == _ALL_FOLDS:
            results = train_folds(dataset, out, settings, plan=chosen_plan, resume=resume, progress=progress)
        else:
            results = [train_model(dataset, out, settings, plan=chosen_plan, resume=resume, progress=progress)]
    if is_first:
        facts = [_conclude(result, dataset, started) for result in results]
        _tell(results, facts, out, as_json=json)


def _conclude(result: TrainResult, dataset: Path, started: datetime) -> dict[str, Any]:
    """Write a run's manifest and return its facts."""
    import torch

    from masam.runs.manifest import build_manifest, write_manifest

    facts: dict[str, Any] = {
        "steps": result.steps,
        "best_dice": result.best_dice,
        "seconds": round(result.seconds, 1),
        # A resumed run has its own settings.
        "seed": result.folder.read_settings()[1].seed,
    }
    manifest = build_manifest(
        "train",
        started=started,
        dataset=dataset,
        dataset_sha256=result.dataset,
        base_tensors_sha256=result.base,
        processes=result.processes,
        gpus=[torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        **facts,
    )
    write_manifest(result.folder.root / "manifest.json", manifest)
    return facts


def _tell(results: Sequence[TrainResult], facts: Sequence[dict[str, Any]], out: Path, *, as_json: bool) -> None:
    runs = [{"run": str(result.folder.root), **some} for result, some in zip(results, facts, strict=True)]
    if as_json:
        print_json(runs[0] if len(runs) == 1 else {"run": str(out), "folds": runs})
        return
    for result in results:
        dice = "without validation" if result.best_dice is None else f"best validation Dice {result.best_dice:.4f}"
        print_line(f"trained {result.steps} steps in {result.seconds:.0f} s, {dice}: {result.folder.root}")
    scores = [result.best_dice for result in results if result.best_dice is not None]
    if len(scores) > 1:
        print_line(f"mean over {len(scores)} folds {sum(scores) / len(scores):.4f}: masam predict {out} takes them all")
