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
        "masam predict operation.mp4 --model runs/instruments --out masks --overlay"
    )(predict)


def predict(
    images: Annotated[
        Path,
        typer.Argument(
            help="NIfTI file, or folder of NIfTI files; or a video file, a folder of frames, or a folder of those. "
            "No labels are needed."
        ),
    ],
    model: Annotated[Path, typer.Option(help="Run folder or model.safetensors.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the label files, CASE.nii.gz each; for one scan also a .nii.gz file. Of a video, a folder "
            "CASE of PNG files."
        ),
    ],
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
    from masam.io.cases import ENDINGS, find_images
    from masam.io.video_cases import find_videos, holds_videos

    are_videos = holds_videos(images)
    cases = find_videos(images) if are_videos else find_images(images)
    to_file = out.name.lower().endswith(ENDINGS) and not out.is_dir()
    if to_file and are_videos:
        raise ConfigError(f"{images} is video, so expected a folder for its labels", where=f"--out {out}")
    if to_file and images.is_dir():
        raise ConfigError(f"{images} is a folder, so expected a folder for its labels", where=f"--out {out}")
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
            cohort = predict_cohort(predictor, cases, out, progress)
    if json:
        print_json(cohort.record())
    elif to_file:
        print_line(f"wrote {out}")
    else:
        print_line(f"{len(cohort.done)} of {len(cases)} cases in {out} ({len(cohort.kept)} kept from an earlier run)")
    cohort.raise_failures()
