"""``masam check``: list all faults of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masam.cli.console import print_json, print_line, show_progress
from masam.cli.options import AssumeOrientation, Json, NanFill, PreferSform, Quiet, examples, read_options


@examples("masam check Dataset009_Spleen")
def check(
    dataset: Annotated[Path, typer.Argument(help="Data set folder: nnU-Net v2 or MSD layout, or videos.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Cases read in parallel; default: all cores.")] = None,
    prefer_sform: PreferSform = False,
    assume_orientation: AssumeOrientation = None,
    nan_fill: NanFill = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read every file of a data set and list all faults: pairing, grids, voxels, labels, duplicates."""
    from masam.cases.check import check_dataset

    reading = read_options(prefer_sform, assume_orientation, nan_fill)
    with show_progress(quiet) as progress:
        result = check_dataset(dataset, progress, workers, reading)
    if json:
        print_json(result.record())
    else:
        for finding in result.findings:
            print_line(f"{finding.severity}: {finding.case + ': ' if finding.case else ''}{finding.what}")
        warnings = len(result.findings) - result.errors
        if not result.findings:
            print_line(f"{result.cases} cases, no problems found")
        elif not result.errors:
            print_line(f"{result.cases} cases, no errors, {warnings} warning{'s' * (warnings > 1)}")
    result.raise_errors()
