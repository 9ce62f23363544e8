"""``masam report``: one page that says how good the predictions are, and where they fail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masam.cli.console import listening, print_line
from masam.cli.options import Quiet


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example: masam report --images imagesTs --predictions masks --references labelsTs "
        "--labels dataset.json --out report.html"
    )(report)


def report(
    images: Annotated[Path, typer.Option(help="Folder of scans.")],
    predictions: Annotated[Path, typer.Option(help="Folder of predicted label files.")],
    references: Annotated[Path, typer.Option(help="Folder of reference label files.")],
    labels: Annotated[Path, typer.Option(help="The data set's dataset.json.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    run: Annotated[Path | None, typer.Option(help="Run folder, for the training curves.")] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Segmentation report",
    quiet: Quiet = False,
) -> None:
    """Score predictions, draw them over the scans, and write one self-contained HTML page."""
    from masam.evaluation.summary import read_scheme
    from masam.metrics import read_columns
    from masam.report.assemble import report_on

    metrics = None if run is None else read_columns(run / "metrics.csv")
    with listening(quiet) as progress:
        evaluation = report_on(
            images,
            predictions,
            references,
            read_scheme(labels),
            out,
            title=title,
            progress=progress,
            metrics=metrics,
        )
    print_line(f"mean Dice {evaluation.mean_dice:.4f} over {len(evaluation.cases)} cases: {out}")
