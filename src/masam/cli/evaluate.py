"""``masam evaluate``: score predicted label files or label frames against references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from masam.cli.console import plural, print_json, print_line, print_table, show_progress
from masam.cli.options import Json, Labels, Missing, Quiet, examples, labels_file, require_ending, require_writable


@examples(
    "masam evaluate masks/ labelsTs/ --labels Dataset009_Spleen --out scores.json",
    "masam evaluate mask.nii.gz reference.nii.gz --labels dataset.json",
)
def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="Folder of predictions, or a single one: NIfTI or DICOM SEG files, or one folder of label frames per "
            "video."
        ),
    ],
    references: Annotated[Path, typer.Argument(help="Folder of references with the same names, or a single one.")],
    labels: Labels,
    out: Annotated[Path | None, typer.Option(help="Write the scores to this .json or .csv file.")] = None,
    nsd_tolerance: Annotated[float, typer.Option(help="Tolerance of the surface Dice (NSD), in mm.")] = 1.0,
    reference_empty: Annotated[
        Literal["nan", "1"],
        typer.Option(help="Score of a class absent from both masks: nan excludes it from means, 1 follows the paper."),
    ] = "nan",
    missing: Missing = "error",
    extra: Annotated[
        Literal["error", "ignore"], typer.Option(help="Treat a prediction without a reference as an error, or skip it.")
    ] = "error",
    workers: Annotated[int, typer.Option(min=1, help="Number of cases scored in parallel.")] = 2,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score predictions: Dice, IoU, HD95, ASSD and surface Dice per case and class.

    Distances are in millimetres. Videos are scored with Dice, IoU and the mIoU per frame.
    """
    from masam.evaluation import evaluate as score
    from masam.evaluation.cases import collect_cases, pair_single_cases

    if out is not None:
        require_ending(out, ".json", ".csv")
        require_writable(out)
    predicted, expected = pair_single_cases(predictions, references)
    with show_progress(quiet) as progress:
        progress.start("cases", len(collect_cases(expected, "references")))
        evaluation = score(
            predicted,
            expected,
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
        return
    print_table(evaluation.rows(), title=plural(len(evaluation.cases), "case"))
    if videos := evaluation.video_rows():
        print_table(videos)
    if out is not None:
        print_line(f"wrote {out}")
