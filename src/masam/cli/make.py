"""``masam make``: data sets made by formula, for trying things out and for the experiments in configs/evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from masam.cli.console import listening, print_json, print_line
from masam.cli.options import Json, Quiet


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: masam make tumour Dataset201_Tumour --train 32 --test 16")(make)


def make(
    name: Annotated[
        Literal["phantom", "tumour", "sites", "instruments", "nerves"],
        typer.Argument(metavar="NAME", help="Which: phantom, tumour, sites, instruments or nerves."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to make; of sites it gets a data set a site, OUT/A to OUT/F.")],
    train: Annotated[int | None, typer.Option(help="Training cases (of each site); without, the set's own.")] = None,
    test: Annotated[int | None, typer.Option(help="Held-out cases (of each site); without, the set's own.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the data set.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a data set made by formula: no patient's data, no download, the same files for the same seed."""
    from masam.synthetic.sets import MADE_SETS

    chosen = MADE_SETS[name]
    train, test = chosen.train if train is None else train, chosen.test if test is None else test
    with listening(quiet) as progress:
        progress.say(f"making {name}")
        chosen.write(out, train=train, test=test, seed=seed)
    roots = [str(out / part) for part in chosen.parts] or [str(out)]
    if json:
        print_json([{"root": root, "training": train, "held_out": test, "seed": seed} for root in roots])
        return
    for root in roots:
        print_line(f"{root}: {train} to train on, {test} held out")
