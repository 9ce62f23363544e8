"""``masam plan``: look at a data set and write how it will be prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masam.cli.console import listening, print_json, print_line
from masam.cli.options import Json, Quiet, require_writable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: masam plan Dataset009_Spleen --out plan.yaml --preview preview.png")(plan)


def plan(
    dataset: Annotated[Path, typer.Argument(help="Data set folder, nnU-Net v2 or MSD layout.")],
    out: Annotated[Path, typer.Option(help="YAML file to write; read it, edit it, give it to masam train --plan.")],
    preset: Annotated[
        str | None, typer.Option(help="paper-ct, paper-mr, paper-tumor or paper-video: the paper's rules.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory to train in, such as 8GB: the largest model that fits is suggested.")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="PNG file to draw 16 augmented training samples in, with their labels.")
    ] = None,
    preview_config: Annotated[
        Path | None, typer.Option(help="config.yaml whose augmentation and seed the preview shows; defaults without.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read every training case once and write a plan: slice axis, intensity rule, image size, classes.

    Videos need no look: their plan is that of the preset.
    """
    from masam.atomic import write_bytes
    from masam.cases.folder import read_dataset
    from masam.errors import ConfigError
    from masam.report.samples import sample_sheet
    from masam.training.config import TrainConfig
    from masam.training.preview import preview_samples
    from masam.training.run import plan_dataset
    from masam.training.suggest import parse_memory, suggest

    require_writable(out)
    if preview is not None:
        require_writable(preview, "--preview")
    elif preview_config is not None:
        raise ConfigError("expected --preview with it, which says where to draw", where="--preview-config")
    config = TrainConfig() if preview_config is None else TrainConfig.from_yaml(preview_config)
    memory_bytes = None if memory is None else parse_memory(memory)
    content = read_dataset(dataset)
    with listening(quiet) as progress:
        found = plan_dataset(content, progress, preset)
        if memory_bytes is not None:
            found = found.model_copy(update={"suggestion": suggest(found, memory_bytes, progress)})
        found.to_yaml(out)
        if preview is not None:
            rows = preview_samples(content, found, config.augmentation, config.seed, progress)
            title = f"{found.name}: training samples, augmentation {config.augmentation.preset}, seed {config.seed}"
            write_bytes(preview, sample_sheet(rows, found.scheme, title))
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        slices = "frames" if found.modality == "video" else f"{found.slice_axis} slices"
        cropped = "" if found.crop == "none" else f", cropped to their {found.crop}"
        print_line(f"wrote {out}: {found.modality}, {slices} of {found.image_size} pixels{cropped}")
        if (best := found.suggestion) is not None:
            at_once = f"{best.micro_batch_windows} of {best.batch_windows} windows at once"
            peak = f"predicted peak {best.predicted_peak_gb:g} GB"
            how = " and checkpointing" if best.checkpointing else ""
            print_line(f"{best.memory_gb:g} GB train {best.size} with {at_once}{how} ({peak})")
        if preview is not None:
            print_line(f"wrote {preview}: training samples")
