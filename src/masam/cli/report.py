"""``masam report``: one page that says how good the predictions are, and where they fail."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from masam.cli.console import listening, print_json, print_line
from masam.cli.options import Json, Quiet, labels_file, require_writable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example: masam report --images imagesTs --predictions masks --references labelsTs "
        "--labels Dataset009_Spleen --out report.html"
    )(report)


def report(
    images: Annotated[Path, typer.Option(help="Folder of scans or videos, or one.")],
    predictions: Annotated[
        Path, typer.Option(help="Folder of predicted label files, of a video a folder CASE of PNG files; or one.")
    ],
    references: Annotated[Path, typer.Option(help="Folder of references of the same names, or one.")],
    labels: Annotated[Path, typer.Option(help="The data set's folder, or its dataset.json.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    run: Annotated[Path | None, typer.Option(help="Run folder, for the training curves.")] = None,
    missing: Annotated[
        Literal["error", "worst"], typer.Option(help="A case without prediction: an error, or the worst scores.")
    ] = "error",
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Segmentation report",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score predictions, draw them over the scans or videos, and write one self-contained HTML page."""
    from masam.errors import InputError
    from masam.evaluation.summary import read_scheme
    from masam.report.assemble import report_on
    from masam.runs.metrics import read_columns

    require_writable(out)
    metrics = None if run is None else read_columns(run / "metrics.csv")
    if metrics == {}:
        raise InputError("expected a run folder with a metrics.csv", where=run, fix="check --run, or leave it out")
    with listening(quiet) as progress:
        evaluation = report_on(
            images,
            predictions,
            references,
            read_scheme(labels_file(labels)),
            out,
            title=title,
            progress=progress,
            missing=missing,
            metrics=metrics,
        )
    dice = None if math.isnan(evaluation.mean_dice) else evaluation.mean_dice
    if json:
        print_json({"page": str(out), "mean_dice": dice, "cases": len(evaluation.cases)})
    else:
        said = "no class to score" if dice is None else f"mean Dice {dice:.4f}"
        if not math.isnan(miou := evaluation.miou_per_frame):
            said += f", mIoU per frame {miou:.4f}"
        cases = len(evaluation.cases)
        print_line(f"{said} over {cases} case{'s' * (cases != 1)}: {out}")
