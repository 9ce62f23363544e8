"""``masam ablate``: train, score and compare a table of training variants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from masam.cli.console import print_json, print_line, print_table, show_progress
from masam.cli.options import Json, Quiet, examples

if TYPE_CHECKING:
    from masam.ablation.run import Ablation
    from masam.progress import Progress


@examples("masam ablate ablation.yaml --out ablation")
def ablate(
    config: Annotated[Path, typer.Argument(help="YAML file with data set, seeds, and changes of each row.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs and the table; existing runs are resumed.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and list the cells, without training or writing.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train every row of a table with every seed, score all on the same cases, and print the comparison."""
    from masam.ablation.run import prepare_ablation, run_ablation

    with show_progress(quiet) as progress:
        ablation = prepare_ablation(config, out, progress)
        if dry_run:
            cells = _list_cells(ablation, out, progress)
        else:
            result = run_ablation(ablation, out, progress)
    if dry_run:
        _print_cells(cells, json=json)
        return
    if json:
        print_json(result.table.record())
    else:
        print_table(result.table.cells(), title=result.table.caption)
        print_line(f"wrote {out / 'table.md'}, table.csv and table.json")
    result.raise_failures()


def _list_cells(ablation: Ablation, out: Path, progress: Progress) -> list[dict[str, Any]]:
    """Return state, steps and predicted memory of each cell."""
    from masam.ablation.cell import read_cell
    from masam.ablation.run import RUNS

    cells = []
    progress.start("predicting memory", len(ablation.rows))
    for row in ablation.rows:
        facts = {
            "steps": row.steps(ablation.data),
            "peak_bytes": row.peak_bytes(),
            "trained_parameters": row.parameters,
        }
        progress.advance(row.name)
        for cell in row.cells:
            state = read_cell(cell, out / RUNS).state
            cells.append({"row": cell.row, "seed": cell.seed, "fold": cell.fold, "state": state, **facts})
    return cells


def _print_cells(cells: list[dict[str, Any]], *, json: bool) -> None:
    if json:
        print_json(cells)
        return
    rows = [("row", "seed", "fold", "state", "steps", "predicted memory", "trained parameters")]
    for cell in cells:
        steps = "-" if cell["steps"] is None else str(cell["steps"])
        fold = "-" if cell["fold"] is None else str(cell["fold"])
        memory, parameters = f"{cell['peak_bytes'] / 1e9:.1f} GB", f"{cell['trained_parameters'] / 1e6:.2f} M"
        rows.append((cell["row"], str(cell["seed"]), fold, cell["state"], steps, memory, parameters))
    print_table(rows, title=f"{len(cells)} cells, nothing trained")
