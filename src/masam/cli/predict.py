"""``masam predict``: labels for a scan or a folder of scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from masam.cli.console import listening, print_json, print_line
from masam.cli.options import Device, Json, Quiet, SamCheckpoint


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: masam predict scans/ --model runs/spleen --out masks/")(predict)


def predict(
    images: Annotated[Path, typer.Argument(help="NIfTI file, or folder of NIfTI files; no labels are needed.")],
    model: Annotated[Path, typer.Option(help="Run folder or model.safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder for the label files, CASE.nii.gz each.")],
    device: Device = "auto",
    precision: Annotated[Literal["auto", "float32", "bf16", "fp16"], typer.Option(help="Number format.")] = "auto",
    stride: Annotated[
        int, typer.Option(help="Slices from one window to the next: 1 is the paper's; the window's size is fastest.")
    ] = 1,
    batch: Annotated[int, typer.Option(help="Windows that go through the model at once.")] = 1,
    sam_checkpoint: SamCheckpoint = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Segment scans; each result lies on its scan's own grid. A rerun keeps what is finished and unchanged."""
    from masam.cohort import predict_cohort
    from masam.io.cases import find_images
    from masam.predict import Predictor

    cases = find_images(images)
    predictor = Predictor(
        model, device=device, precision=precision, stride=stride, batch=batch, sam_checkpoint=sam_checkpoint
    )
    with listening(quiet) as progress:
        cohort = predict_cohort(predictor, cases, out, progress)
    if json:
        print_json(cohort.record())
    else:
        print_line(f"{len(cohort.done)} of {len(cases)} cases in {out} ({len(cohort.kept)} kept from an earlier run)")
    cohort.raise_failures()
