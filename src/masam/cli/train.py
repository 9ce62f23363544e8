"""``masam train``: train a model on a data set folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from masam.cli.console import print_json, print_line, show_progress
from masam.cli.options import Json, Quiet, examples, parse_number, parse_settings

if TYPE_CHECKING:
    from masam.training.run import TrainResult

_ALL_FOLDS = "all"


@examples("masam train Dataset009_Spleen --out runs/spleen --size vit_b --sam-checkpoint sam_vit_b_01ec64.pth")
def train(
    dataset: Annotated[Path, typer.Argument(help="Data set folder, nnU-Net v2 or MSD layout.")],
    out: Annotated[Path, typer.Option(help="Run folder: a new one, or with --resume an existing one.")],
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; default: the paper's recipe.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Plan of masam plan; default: derived from the data.")] = None,
    size: Annotated[
        str | None, typer.Option(help="vit_h, vit_l, vit_b or vit_t; default: that of --sam-checkpoint, or vit_b.")
    ] = None,
    sam_checkpoint: Annotated[
        str | None, typer.Option(help="Weights of SAM or MedSAM to start from: a file or a published name.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Trained model to start from: run folder or model file; missing classes are added."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", "--max-epochs", help="Passes over all windows; default: 160, as in the paper."),
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Time limit in hours: run and learning rate schedule are shortened.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="End the run after this many validations without a better Dice; default: never.")
    ] = None,
    fold: Annotated[
        str | None, typer.Option(help="Fold held out for validation, or all for one run per fold; default: 0.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N; default: auto.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, such as model.fact_rank=16; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run where it stopped.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train on a data set. Start it with torchrun or srun to train on several GPUs."""
    from masam.preprocess.plan import Plan
    from masam.training import run
    from masam.training.config import TrainConfig
    from masam.training.processes import find_process_rank

    options = {
        "model.size": size,
        "model.sam_checkpoint": sam_checkpoint,
        "model.init": init,
        "epochs": epochs,
        "max_hours": max_hours,
        "patience": patience,
        "fold": None if fold == _ALL_FOLDS else parse_number(fold),
        "device": device,
    }
    settings = parse_settings(options, setting)
    train_config = settings if config is None else TrainConfig.from_yaml(config).changed(settings, where="options")
    chosen_plan = None if plan is None else Plan.from_yaml(plan)
    # With several processes only the first one prints.
    is_first = find_process_rank(os.environ).is_first
    with show_progress(quiet or not is_first) as progress:
        if fold == _ALL_FOLDS:
            results = run.train_folds(dataset, out, train_config, plan=chosen_plan, resume=resume, progress=progress)
        else:
            results = [run.train(dataset, out, train_config, plan=chosen_plan, resume=resume, progress=progress)]
    if is_first:
        _print_results(results, out, as_json=json)


def _print_results(results: Sequence[TrainResult], out: Path, *, as_json: bool) -> None:
    if as_json:
        runs = [{"run": str(result.folder.root), **result.facts()} for result in results]
        print_json(runs[0] if len(runs) == 1 else {"run": str(out), "folds": runs})
        return
    for result in results:
        dice = "without validation" if result.best_dice is None else f"best validation Dice {result.best_dice:.4f}"
        print_line(f"trained {result.steps} steps in {result.seconds:.0f} s, {dice}: {result.folder.root}")
    scores = [result.best_dice for result in results if result.best_dice is not None]
    if len(scores) > 1:
        mean = sum(scores) / len(scores)
        print_line(f"mean over {len(scores)} folds {mean:.4f}; masam predict --model {out} averages all of them")
