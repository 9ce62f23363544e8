"""``masam evaluate``: score label files, or label frames of videos, against references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from masam.cli.console import listening, print_json, print_line, print_table
from masam.cli.options import Json, Quiet, labels_file, require_ending, require_writable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Examples: masam evaluate masks/ labelsTs/ --labels Dataset009_Spleen --out scores.json | "
        "masam evaluate mask.nii.gz reference.nii.gz --labels dataset.json"
    )(evaluate)


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(help="Folder of predictions: CASE.nii.gz, a SEG CASE.dcm, of a video a folder CASE; or one."),
    ],
    references: Annotated[Path, typer.Argument(help="Folder of references of the same names, or one.")],
    labels: Annotated[Path, typer.Option(help="The data set's folder, or its dataset.json.")],
    out: Annotated[Path | None, typer.Option(help="File to write, .json or .csv.")] = None,
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
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Dice, IoU, HD95, ASSD and surface Dice in millimetres, per case and class.

    Of videos Dice, IoU and the mIoU per frame.
    """
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
