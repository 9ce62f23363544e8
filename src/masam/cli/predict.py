"""``masam predict``: labels for a scan or a folder of scans, or for videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from masam.cli.console import print_json, print_line, show_progress
from masam.cli.options import (
    AssumeOrientation,
    Device,
    Json,
    NanFill,
    PreferSform,
    Quiet,
    SamCheckpoint,
    examples,
    read_options,
)
from masam.errors import ConfigError

if TYPE_CHECKING:
    from masam.prompts import Prompt, Unit


@examples(
    "masam predict scans/ --model runs/spleen --out masks/",
    "masam predict scan.nii.gz --model runs/spleen --out mask.nii.gz",
    "masam predict dicom/ --model runs/spleen --out masks/ --format dicom-seg",
    "masam predict scan.nii.gz --model runs/tumour --out mask.nii.gz --box 120,80,31,160,118,44",
    "masam predict operation.mp4 --model runs/instruments --out masks --overlay",
)
def predict(
    images: Annotated[
        Path,
        typer.Argument(
            help="NIfTI file, DICOM series, video file or folder of frames, or a folder of these; needs no labels."
        ),
    ],
    model: Annotated[Path, typer.Option(help="Run folder, model.safetensors, or folder of folds, which are averaged.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the labels: CASE.nii.gz per scan, a folder CASE of PNG files per video; for one scan also "
            "a file."
        ),
    ],
    file_format: Annotated[
        Literal["nifti", "dicom-seg"],
        typer.Option("--format", help="Format of the labels: NIfTI, or DICOM SEG for DICOM series."),
    ] = "nifti",
    series: Annotated[
        str | None, typer.Option(help="Series of a DICOM folder: its number, UID, or the key that masam info lists.")
    ] = None,
    series_description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Series of each DICOM folder: part of its description.")
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="Modality of the series of each DICOM folder, such as MR; default: any.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[Literal["auto", "float32", "bf16", "fp16"], typer.Option(help="Number format.")] = "auto",
    stride: Annotated[
        int, typer.Option(help="Slices from one window to the next: 1 as in the paper; the window size is fastest.")
    ] = 1,
    batch: Annotated[int, typer.Option(help="Windows per forward pass.")] = 1,
    sam_checkpoint: SamCheckpoint = None,
    keep_largest: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="Keep only this class's largest component; repeatable.")
    ] = None,
    fill_holes: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="Fill background enclosed by this class; repeatable.")
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="For videos, also write the labels drawn on the frames.")
    ] = False,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X0,Y0,Z0,X1,Y1,Z1", help="Box around the object in one scan; excludes other slices."),
    ] = None,
    click: Annotated[
        list[str] | None, typer.Option(metavar="X,Y,Z", help="Point on the object in one scan; repeatable.")
    ] = None,
    not_click: Annotated[
        list[str] | None, typer.Option(metavar="X,Y,Z", help="Point outside the object in one scan; repeatable.")
    ] = None,
    unit: Annotated[
        Literal["voxel", "mm"], typer.Option(help="Unit of box and clicks: voxel indices from 0, or RAS millimetres.")
    ] = "voxel",
    prompt_class: Annotated[
        str | None, typer.Option(metavar="CLASS", help="Class of box and clicks, for a model with several classes.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSON file of boxes and clicks by case, instead of these options.")
    ] = None,
    prefer_sform: PreferSform = False,
    assume_orientation: AssumeOrientation = None,
    nan_fill: NanFill = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Segment scans or videos on their original grid. A rerun keeps finished cases that are unchanged."""
    from masam.cases.folder import find_images
    from masam.cases.video import find_videos, holds_videos
    from masam.io.dicom.file import DICOM_ENDING
    from masam.io.dicom.series import SeriesRule
    from masam.io.nifti.file import ENDINGS

    are_videos = holds_videos(images)
    notes: list[str] = []
    rule = SeriesRule(series, series_description, modality and modality.upper(), largest=True)
    cases = find_videos(images) if are_videos else find_images(images, rule, notes.append)
    reading = read_options(prefer_sform, assume_orientation, nan_fill)
    cases = tuple(replace(case, reading=reading) for case in cases)
    to_file = out.name.lower().endswith((*ENDINGS, DICOM_ENDING)) and not out.is_dir()
    if to_file and are_videos:
        raise ConfigError(f"{images} is a video, so expected a folder for its labels", where=f"--out {out}")
    if are_videos and file_format != "nifti":
        raise ConfigError("labels of a video are PNG frames", where=f"--format {file_format}", fix="leave it out")
    if to_file and (len(cases) > 1 or (images.is_dir() and not cases[0].images[0].is_dir())):
        raise ConfigError(f"{images} is a folder, so expected a folder for its labels", where=f"--out {out}")
    if to_file and file_format == "dicom-seg" and out.name.lower().endswith(ENDINGS):
        raise ConfigError(f"expected a name that ends in {DICOM_ENDING}, got {out.name}", where="--out")
    if overlay and not are_videos:
        raise ConfigError("overlays are for videos only", where="--overlay", fix="masam report draws labels over scans")
    points = {"--click": click or [], "--not-click": not_click or []}
    scans = [] if are_videos else [case.id for case in cases]
    by_case = _prompts(box or [], points, unit, prompt_class, prompts, scans)
    from masam.predict.cohort import predict_cohort, predict_file
    from masam.predict.predictor import Predictor
    from masam.predict.requirements import require_modality
    from masam.predict.video_cohort import predict_videos

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
    require_modality(predictor.plan, is_video=are_videos, what=images)
    with show_progress(quiet) as progress:
        if are_videos:
            cohort = predict_videos(predictor, cases, out, progress, overlay=overlay)
        elif to_file:
            cohort = predict_file(predictor, cases[0], out, progress, by_case.get(cases[0].id))
        else:
            cohort = predict_cohort(predictor, cases, out, progress, file_format, by_case, notes)
    if json:
        print_json(cohort.record())
    elif to_file:
        print_line(f"wrote {out}")
    else:
        print_line(f"{len(cohort.done)} of {len(cases)} cases in {out} ({len(cohort.kept)} kept from an earlier run)")
    cohort.raise_failures()


def _prompts(
    boxes: list[str],
    points: Mapping[str, list[str]],
    unit: Unit,
    prompt_class: str | None,
    file: Path | None,
    scans: list[str],
) -> Mapping[str, tuple[Prompt, ...]]:
    """Return the prompts by case, from a file or from the options, which are for a single scan."""
    from masam.prompts import Box3D, Click
    from masam.prompts.file import read_prompts

    values: list[Prompt] = [Box3D(_numbers(text, "--box"), unit, prompt_class) for text in boxes]
    for option, texts in points.items():
        values += [Click(_numbers(text, option), option == "--click", unit, prompt_class) for text in texts]
    if not values and (unit != "voxel" or prompt_class is not None):
        option = "--unit" if prompt_class is None else "--prompt-class"
        raise ConfigError("it requires a box or a click", where=option, fix="give --box, --click or --not-click")
    if file is not None and values:
        raise ConfigError("expected either a file of prompts or options, got both", where=f"--prompts {file}")
    if (file is not None or values) and not scans:
        raise ConfigError("prompts are for scans, not for videos", where="prompts", fix="leave them out")
    if file is not None:
        return read_prompts(file)
    if values and len(scans) > 1:
        raise ConfigError(
            f"a box or click is for one scan, and there are {len(scans)}", where="prompts", fix="give --prompts FILE"
        )
    return {scans[0]: tuple(values)} if values else {}


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise ConfigError(f"expected numbers separated by commas, got {text!r}", where=option) from error
