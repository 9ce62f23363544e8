"""``masam evaluate``: score label files, frames of videos, or a model's answers to prompts, against references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from masam.cli.console import listening, print_json, print_line, print_table
from masam.cli.options import Device, Json, Quiet, SamCheckpoint, labels_file, require_ending, require_writable
from masam.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Examples: masam evaluate masks/ labelsTs/ --labels Dataset009_Spleen --out scores.json | "
        "masam evaluate mask.nii.gz reference.nii.gz --labels dataset.json | "
        "masam evaluate imagesTs/ labelsTs/ --labels dataset.json --prompts --model runs/tumour --plot clicks.png"
    )(evaluate)


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="Folder of predictions: CASE.nii.gz, a SEG CASE.dcm, of a video a folder CASE; or one. With --prompts "
            "folder of scans, or one."
        ),
    ],
    references: Annotated[Path, typer.Argument(help="Folder of references of the same names, or one.")],
    labels: Annotated[Path, typer.Option(help="The data set's folder, or its dataset.json.")],
    out: Annotated[Path | None, typer.Option(help="File to write, .json or .csv; with --prompts .json.")] = None,
    nsd_tolerance: Annotated[float, typer.Option(help="Tolerance of the surface Dice (NSD), in mm.")] = 1.0,
    reference_empty: Annotated[
        Literal["nan", "1"],
        typer.Option(help="Score of a class that neither holds: nan leaves it out and counts it, 1 is the paper's."),
    ] = "nan",
    missing: Annotated[
        Literal["error", "worst"], typer.Option(help="A case without prediction: an error, or the worst scores.")
    ] = "error",
    extra: Annotated[
        Literal["error", "ignore"], typer.Option(help="A prediction without reference: an error, or nothing.")
    ] = "error",
    workers: Annotated[int, typer.Option(min=1, help="Cases scored at once.")] = 2,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="Score what boxes and clicks, made from the references, gain for a model.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="With --prompts: run folder, model.safetensors, or folder of folds.")
    ] = None,
    clicks: Annotated[int, typer.Option(help="With --prompts: clicks on each class.")] = 10,
    plot: Annotated[
        Path | None, typer.Option(help="With --prompts: .png file to write, a curve of Dice against clicks.")
    ] = None,
    seed: Annotated[int, typer.Option(help="With --prompts: seed of the jittered boxes.")] = 0,
    stride: Annotated[int, typer.Option(help="With --prompts: slices from one window to the next.")] = 1,
    device: Device = "auto",
    sam_checkpoint: SamCheckpoint = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Dice, IoU, HD95, ASSD and surface Dice in millimetres, per case and class.

    Of videos Dice, IoU and the mIoU per frame. With --prompts, Dice of a model without and with boxes and clicks.
    """
    scoring = {
        "--nsd-tolerance": nsd_tolerance != 1.0,
        "--reference-empty": reference_empty != "nan",
        "--missing": missing != "error",
        "--extra": extra != "error",
        "--workers": workers != 2,
    }
    prompting = {
        "--model": model is not None,
        "--clicks": clicks != 10,
        "--plot": plot is not None,
        "--seed": seed != 0,
        "--stride": stride != 1,
        "--device": device != "auto",
        "--sam-checkpoint": sam_checkpoint is not None,
    }
    if odd := [option for option, is_given in (scoring if prompts else prompting).items() if is_given]:
        what = "it does not go with --prompts" if prompts else "it goes with --prompts"
        raise ConfigError(what, where=odd[0], fix="leave it out" if prompts else "add --prompts, or leave it out")
    if prompts:
        if model is None:
            raise ConfigError("prompts are put to a model, and there is none", where="--prompts", fix="give --model")
        settings = {"device": device, "stride": stride, "sam_checkpoint": sam_checkpoint}
        _evaluate_prompts(predictions, references, labels, model, settings, clicks, seed, out, plot, json, quiet)
        return
    from masam.evaluation import evaluate as score
    from masam.evaluation.cases import collect_cases, name_alike

    if out is not None:
        require_ending(out, ".json", ".csv")
        require_writable(out)
    found, wanted = name_alike(predictions, references)
    with listening(quiet) as progress:
        progress.start("cases", len(collect_cases(wanted, "references")))
        evaluation = score(
            found,
            wanted,
            labels_file(labels),
            nsd_tolerance_mm=nsd_tolerance,
            reference_empty="one" if reference_empty == "1" else "nan",
            missing=missing,
            extra=extra,
            workers=workers,
            progress=lambda done, total: progress.advance(),
        )
    if out is not None:
        (evaluation.to_json if out.suffix == ".json" else evaluation.to_csv)(out)
    if json:
        print_json(evaluation.record())
    else:
        print_table(evaluation.rows(), title=f"{len(evaluation.cases)} case" + "s" * (len(evaluation.cases) != 1))
        if videos := evaluation.video_rows():
            print_table(videos)
        if out is not None:
            print_line(f"wrote {out}")


def _evaluate_prompts(
    images: Path,
    references: Path,
    labels: Path,
    model: Path,
    settings: dict[str, Any],
    clicks: int,
    seed: int,
    out: Path | None,
    plot: Path | None,
    json: bool,
    quiet: bool,
) -> None:
    for path, option, ending in ((out, "--out", ".json"), (plot, "--plot", ".png")):
        if path is not None:
            require_ending(path, ending, option=option)
            require_writable(path, option)
    from masam.atomic import write_bytes
    from masam.evaluation.prompted import evaluate_prompts
    from masam.predict.predictor import Predictor

    with listening(quiet) as progress:
        evaluation = evaluate_prompts(
            Predictor(model, **settings),
            images,
            references,
            labels_file(labels),
            clicks=clicks,
            seed=seed,
            progress=progress,
        )
    if out is not None:
        evaluation.to_json(out)
    if plot is not None:
        from masam.report.figures import prompt_curve

        write_bytes(plot, prompt_curve(evaluation))
    if json:
        print_json(evaluation.record())
        return
    print_table(evaluation.rows(), title=f"{len(evaluation.cases)} case" + "s" * (len(evaluation.cases) != 1))
    for path in (out, plot):
        if path is not None:
            print_line(f"wrote {path}")
