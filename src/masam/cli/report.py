"""``masam report``: one HTML page with scores, overlays and the lowest-scoring cases."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from masam.cli.console import plural, print_json, print_line, show_progress
from masam.cli.options import Json, Labels, Missing, Quiet, examples, labels_file, require_writable
from masam.errors import InputError


@examples("masam report --images imagesTs --predictions masks --references labelsTs --labels Dataset009_Spleen")
def report(
    images: Annotated[Path, typer.Option(help="Folder of scans or videos, or a single one.")],
    predictions: Annotated[
        Path,
        typer.Option(
            help="Folder of predicted label files, or of one folder of label frames per video, or a single one."
        ),
    ],
    references: Annotated[Path, typer.Option(help="Folder of references with the same names, or a single one.")],
    labels: Labels,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    run: Annotated[Path | None, typer.Option(help="Run folder whose training curves are shown.")] = None,
    missing: Missing = "error",
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "Segmentation report",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a self-contained HTML page with scores, and overlays on scans or video frames."""
    from masam.evaluation.summary import read_scheme
    from masam.report.assemble import report_on
    from masam.runs.metrics import read_columns

    require_writable(out)
    metrics = None if run is None else read_columns(run / "metrics.csv")
    if metrics == {}:
        raise InputError("expected a run folder with a metrics.csv", where=run, fix="check --run, or leave it out")
    with show_progress(quiet) as progress:
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
        return
    scores = "no class to score" if dice is None else f"mean Dice {dice:.4f}"
    if not math.isnan(miou := evaluation.miou_per_frame):
        scores += f", mIoU per frame {miou:.4f}"
    print_line(f"{scores} over {plural(len(evaluation.cases), 'case')}: {out}")
