"""``masam plan``: look at a data set and write how it will be prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masam.cli.console import listening, print_json, print_line
from masam.cli.options import Json, Quiet, require_writable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: masam plan Dataset009_Spleen --out plan.yaml")(plan)


def plan(
    dataset: Annotated[Path, typer.Argument(help="Data set folder, nnU-Net v2 or MSD layout.")],
    out: Annotated[Path, typer.Option(help="YAML file to write; read it, edit it, give it to masam train --plan.")],
    preset: Annotated[
        str | None, typer.Option(help="paper-ct, paper-mr, paper-tumor or paper-video: the paper's rules.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read every training case once and write a plan: slice axis, intensity rule, image size, classes.

    Videos need no look: their plan is that of the preset.
    """
    from masam.io.cases import read_dataset
    from masam.io.video_cases import is_video_case
    from masam.plan import make_video_plan
    from masam.train.run import plan_dataset

    require_writable(out)
    content = read_dataset(dataset)
    if is_video_case((content.training or content.test)[0]):
        found = make_video_plan(name=content.name, labels=content.labels, preset=preset)
    else:
        with listening(quiet) as progress:
            found = plan_dataset(content, progress, preset)
    found.to_yaml(out)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        print_line(f"wrote {out}: {found.modality}, {found.slice_axis} slices of {found.image_size} pixels")
