"""``masam evaluate``: score label files against references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from masam.cli.console import listening, print_json, print_line, print_table
from masam.cli.options import Json, Quiet


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example: masam evaluate masks/ labelsTs/ --labels Dataset009_Spleen/dataset.json --out scores.json"
    )(evaluate)


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted label files, CASE.nii.gz.")],
    references: Annotated[Path, typer.Argument(help="Folder of reference label files of the same names.")],
    labels: Annotated[Path, typer.Option(help="The data set's dataset.json.")],
    out: Annotated[Path | None, typer.Option(help="File to write, .json or .csv.")] = None,
    nsd_tolerance: Annotated[float, typer.Option(help="Tolerance of the surface Dice (NSD), in mm.")] = 1.0,
    reference_empty: Annotated[
        Literal["nan", "1"],
        typer.Option(help="Score of a class that neither holds: nan leaves it out and counts it, 1 is the paper's."),
    ] = "nan",
    missing: Annotated[
        Literal["error", "worst"], typer.Option(help="A case without prediction: an error, or the worst scores.")
    ] = "error",
    workers: Annotated[int, typer.Option(min=1, help="Cases scored at once.")] = 2,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Dice, IoU, HD95, ASSD and surface Dice in millimetres, per case and class."""
    from masam.errors import ConfigError
    from masam.evaluation import evaluate as score

    if out is not None and out.suffix not in (".json", ".csv"):
        raise ConfigError(f"expected a name that ends in .json or .csv, got {out.name}", where="--out")
    with listening(quiet) as progress:
        progress.start("cases", len(list(references.glob("*.nii*"))) if references.is_dir() else 1)
        evaluation = score(
            predictions,
            references,
            labels,
            nsd_tolerance_mm=nsd_tolerance,
            reference_empty="one" if reference_empty == "1" else "nan",
            missing=missing,
            workers=workers,
            progress=lambda done, total: progress.advance(),
        )
    if out is not None:
        (evaluation.to_json if out.suffix == ".json" else evaluation.to_csv)(out)
    if json:
        print_json(evaluation.record())
    else:
        print_table(evaluation.rows(), title=f"{len(evaluation.cases)} cases")
        if out is not None:
            print_line(f"wrote {out}")
