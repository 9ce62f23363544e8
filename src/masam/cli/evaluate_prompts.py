"""``masam evaluate-prompts``: score a model without prompts, with boxes and after clicks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masam.cli.console import plural, print_json, print_line, print_table, show_progress
from masam.cli.options import (
    Device,
    Json,
    Quiet,
    SamCheckpoint,
    examples,
    labels_file,
    require_ending,
    require_writable,
)


@examples("masam evaluate-prompts imagesTs/ labelsTs/ --model runs/tumour --out prompts.json --plot clicks.png")
def evaluate_prompts(
    images: Annotated[Path, typer.Argument(help="Folder of scans, or a single scan.")],
    references: Annotated[Path, typer.Argument(help="Folder of references with the same names, or a single one.")],
    model: Annotated[Path, typer.Option(help="Run folder, model.safetensors, or folder of cross-validation folds.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="Data set folder or its dataset.json; by default the classes of the model."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the scores to this .json file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot Dice against the number of clicks to this .png file.")] = None,
    clicks: Annotated[int, typer.Option(help="Number of clicks per class.")] = 10,
    seed: Annotated[int, typer.Option(help="Random seed of the jittered boxes.")] = 0,
    stride: Annotated[int, typer.Option(help="Slices between the starts of consecutive windows.")] = 1,
    device: Device = "auto",
    sam_checkpoint: SamCheckpoint = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model without prompts, with boxes and after each click.

    Boxes and clicks are simulated from the references. The score is the Dice of each class over the whole scan.
    """
    for path, option, ending in ((out, "--out", ".json"), (plot, "--plot", ".png")):
        if path is not None:
            require_ending(path, ending, option=option)
            require_writable(path, option)
    from masam.atomic import write_bytes
    from masam.evaluation.prompted import evaluate_prompts as score
    from masam.predict.predictor import Predictor

    with show_progress(quiet) as progress:
        evaluation = score(
            Predictor(model, device=device, stride=stride, sam_checkpoint=sam_checkpoint),
            images,
            references,
            None if labels is None else labels_file(labels),
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
    print_table(evaluation.rows(), title=plural(len(evaluation.cases), "case"))
    for path in (out, plot):
        if path is not None:
            print_line(f"wrote {path}")
