"""``masam make``: synthetic data sets, for first trials and for the experiments in configs/evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from masam.cli.console import print_json, print_line, show_progress
from masam.cli.options import Json, Quiet, examples


@examples("masam make tumour Dataset201_Tumour --train 32 --test 16")
def make(
    name: Annotated[
        Literal["phantom", "tumour", "sites", "instruments", "nerves"],
        typer.Argument(metavar="NAME", help="Data set: phantom, tumour, sites, instruments or nerves."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write; sites writes one data set per site, OUT/A to OUT/F.")],
    train: Annotated[
        int | None, typer.Option(help="Training cases (per site); the default depends on the data set.")
    ] = None,
    test: Annotated[
        int | None, typer.Option(help="Test cases (per site); the default depends on the data set.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the data set.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a synthetic data set: no patient data, no download, identical files for the same seed."""
    from masam.synthetic.sets import SYNTHETIC_SETS

    chosen = SYNTHETIC_SETS[name]
    train, test = chosen.train if train is None else train, chosen.test if test is None else test
    with show_progress(quiet) as progress:
        progress.log(f"writing {name}")
        chosen.write(out, train=train, test=test, seed=seed)
    roots = [str(out / part) for part in chosen.parts] or [str(out)]
    if json:
        print_json([{"root": root, "training": train, "held_out": test, "seed": seed} for root in roots])
        return
    for root in roots:
        print_line(f"{root}: {train} training and {test} test cases")
