"""``masam plan``: derive the preprocessing plan of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masam.cli.console import print_json, print_line, show_progress
from masam.cli.options import Json, Quiet, examples, require_writable


@examples("masam plan Dataset009_Spleen --out plan.yaml --preview preview.png")
def plan(
    dataset: Annotated[Path, typer.Argument(help="Data set folder, nnU-Net v2 or MSD layout.")],
    out: Annotated[Path, typer.Option(help="YAML file to write, for masam train --plan; it may be edited.")],
    preset: Annotated[
        str | None, typer.Option(help="Rules of the paper: paper-ct, paper-mr, paper-tumor or paper-video.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory for training, such as 8GB: suggest the largest model that fits.")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="PNG file for a drawing of 16 augmented training samples with their labels.")
    ] = None,
    preview_config: Annotated[
        Path | None, typer.Option(help="config.yaml with augmentation and seed of the preview.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read every training case and write a plan: slice axis, intensity rule, image size, classes.

    The plan of videos is that of the preset; no frames are read.
    """
    from masam.atomic import write_bytes
    from masam.cases.folder import read_dataset
    from masam.errors import ConfigError
    from masam.training.config import TrainConfig
    from masam.training.planning import plan_dataset
    from masam.training.preview import draw_preview

    require_writable(out)
    if preview is not None:
        require_writable(preview, "--preview")
    elif preview_config is not None:
        raise ConfigError("expected --preview as well, the file to draw", where="--preview-config")
    config = TrainConfig() if preview_config is None else TrainConfig.from_yaml(preview_config)
    content = read_dataset(dataset)
    with show_progress(quiet) as progress:
        result = plan_dataset(content, progress, preset, memory)
        result.to_yaml(out)
        if preview is not None:
            write_bytes(preview, draw_preview(content, result, config, progress))
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        slices = "frames" if result.modality == "video" else f"{result.slice_axis} slices"
        cropped = "" if result.crop == "none" else f", cropped to their {result.crop}"
        print_line(f"wrote {out}: {result.modality}, {slices} of {result.image_size} pixels{cropped}")
        if (best := result.suggestion) is not None:
            checkpointing = " and checkpointing" if best.checkpointing else ""
            print_line(
                f"suggestion for {best.memory_gb:g} GB: {best.size}, {best.micro_batch_windows} of "
                f"{best.batch_windows} windows at once{checkpointing} (predicted peak {best.predicted_peak_gb:g} GB)"
            )
        if preview is not None:
            print_line(f"wrote {preview}: training samples")
