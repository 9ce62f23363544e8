"""``masam demo``: see it work, with no download and no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from masam.cli.console import listening, print_json, print_line, print_table
from masam.cli.options import Json, Quiet


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: masam demo --out demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, runs, masks and pages.")] = Path("demo"),
    only: Annotated[Literal["phantom", "head"] | None, typer.Option(help="Run only this data set.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make data, train, predict held-out cases, score them and write a report page; in minutes on two cores."""
    from masam.demo import run_demo

    with listening(quiet) as progress:
        results = run_demo(out, progress, only)
    if json:
        print_json(
            {
                name: {"page": str(page), "mean_dice": found.record()["mean_dice"]}
                for name, (page, found) in results.items()
            }
        )
        return
    for name, (page, found) in results.items():
        print_table(found.rows(), title=f"{name}: {len(found.cases)} held-out cases")
        print_line(f"{name}: foreground Dice {found.mean_dice:.3f}, see {page}")
