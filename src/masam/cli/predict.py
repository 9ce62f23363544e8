"""``masam predict``: labels for a scan or a folder of scans, or for videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from masam.cli.console import listening, print_json, print_line
from masam.cli.options import Device, Json, Quiet, SamCheckpoint


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Examples: masam predict scans/ --model runs/spleen --out masks/ | "
        "masam predict scan.nii.gz --model runs/spleen --out mask.nii.gz | "
        "masam predict dicom/ --model runs/spleen --out masks/ --format dicom-seg | "
        "masam predict operation.mp4 --model runs/instruments --out masks --overlay"
    )(predict)


def predict(
    images: Annotated[
        Path,
        typer.Argument(
            help="NIfTI file, DICOM series, video file or folder of frames, or a folder of them; needs no labels."
        ),
    ],
    model: Annotated[Path, typer.Option(help="Run folder or model.safetensors.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the labels: CASE.nii.gz each, of a video a folder CASE of PNG files; for one scan also a "
            "file."
        ),
    ],
    file_format: Annotated[
        Literal["nifti", "dicom-seg"],
        typer.Option("--format", help="Label files: NIfTI, or DICOM segmentation objects of DICOM series."),
    ] = "nifti",
    series: Annotated[
        str | None, typer.Option(help="Which series of a DICOM folder: number, UID, or the digits that masam lists.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[Literal["auto", "float32", "bf16", "fp16"], typer.Option(help="Number format.")] = "auto",
    stride: Annotated[
        int, typer.Option(help="Slices from one window to the next: 1 is the paper's; the window's size is fastest.")
    ] = 1,
    batch: Annotated[int, typer.Option(help="Windows that go through the model at once.")] = 1,
    sam_checkpoint: SamCheckpoint = None,
    keep_largest: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="Keep only this class's largest part; repeatable.")
    ] = None,
    fill_holes: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="Fill background enclosed by this class; repeatable.")
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Of videos, also write the labels drawn on the frames.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Segment scans; each result lies on its scan's own grid. A rerun keeps what is finished and unchanged."""
    from masam.errors import ConfigError
    from masam.io.case import DICOM_ENDING, ENDINGS
    from masam.io.cases import find_images
    from masam.io.video_cases import find_videos, holds_videos

    are_videos = holds_videos(images)
    cases = find_videos(images) if are_videos else find_images(images, series)
    to_file = out.name.lower().endswith((*ENDINGS, DICOM_ENDING)) and not out.is_dir()
    if to_file and are_videos:
        raise ConfigError(f"{images} is video, so expected a folder for its labels", where=f"--out {out}")
    if are_videos and file_format != "nifti":
        raise ConfigError("labels of a video are PNG frames", where=f"--format {file_format}", fix="leave it out")
    if to_file and (len(cases) > 1 or (images.is_dir() and not cases[0].images[0].is_dir())):
        raise ConfigError(f"{images} is a folder, so expected a folder for its labels", where=f"--out {out}")
    if to_file and file_format == "dicom-seg" and out.name.lower().endswith(ENDINGS):
        raise ConfigError(f"expected a name that ends in {DICOM_ENDING}, got {out.name}", where="--out")
    if overlay and not are_videos:
        raise ConfigError("only videos have overlays", where="--overlay", fix="masam report draws labels over scans")
    from masam.cohort import predict_cohort, predict_file
    from masam.predict import Predictor
    from masam.video_cohort import predict_videos

    predictor = Predictor(
        model,
        device=device,
        precision=precision,
        stride=stride,
        batch=batch,
        sam_checkpoint=sam_checkpoint,
        keep_largest=keep_largest or (),
        fill_holes=fill_holes or (),
    )
    predictor.require_modality(is_video=are_videos, what=images)
    with listening(quiet) as progress:
        if are_videos:
            cohort = predict_videos(predictor, cases, out, progress, overlay=overlay)
        elif to_file:
            cohort = predict_file(predictor, cases[0], out, progress)
        else:
            cohort = predict_cohort(predictor, cases, out, progress, file_format)
    if json:
        print_json(cohort.record())
    elif to_file:
        print_line(f"wrote {out}")
    else:
        print_line(f"{len(cohort.done)} of {len(cases)} cases in {out} ({len(cohort.kept)} kept from an earlier run)")
    cohort.raise_failures()
