"""Options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
SamCheckpoint = Annotated[
    Path | None, typer.Option(help="SAM's weights file, where the model's file does not hold the encoder.")
]
