"""``masam demo``: run the full pipeline without a download or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from masam.cli.console import plural, print_json, print_line, print_table, show_progress
from masam.cli.options import Json, Quiet, examples


@examples("masam demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, runs, predictions and reports.")] = Path("demo"),
    only: Annotated[Literal["phantom", "head"] | None, typer.Option(help="Run only this data set.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate data, train, predict held-out cases, score them and write a report.

    Takes a few minutes on two CPU cores.
    """
    from masam.demo import run_demo

    with show_progress(quiet) as progress:
        results = run_demo(out, progress, only)
    if json:
        print_json(
            {
                name: {"page": str(page), "mean_dice": evaluation.record()["mean_dice"]}
                for name, (page, evaluation) in results.items()
            }
        )
        return
    for name, (page, evaluation) in results.items():
        print_table(evaluation.rows(), title=f"{name}: {plural(len(evaluation.cases), 'held-out case')}")
        print_line(f"{name}: foreground Dice {evaluation.mean_dice:.3f}, see {page}")
