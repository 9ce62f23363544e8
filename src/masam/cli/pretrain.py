"""``masam pretrain``: a SAM of one's own, from pictures made by formula."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from masam.cli.console import listening, print_json, print_line
from masam.cli.options import Json, Quiet
from masam.cli.settings import require_none_given, with_settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: masam pretrain --out runs/sam_t --steps 5000 --workers 1")(pretrain)


def pretrain(
    out: Annotated[Path, typer.Option(help="Run folder: a new one, or with --resume the one to go on with.")],
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; the defaults without.")] = None,
    size: Annotated[str | None, typer.Option(help="vit_t, vit_b, vit_l or vit_h; vit_t without.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the pictures in pixels; 256 without.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; 5000 without.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures of an optimiser step; 16 without.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn; 1234 without.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N; auto without.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads that make pictures ahead; they do not change the result; 0 without.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, such as rounds=2; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pre-train a SAM on endless pictures made by formula; its file then serves --sam-checkpoint."""
    from masam.pretrain.config import PretrainConfig
    from masam.pretrain.run import pretrain as pretrain_model
    from masam.runs.manifest import build_manifest, write_manifest

    chosen = {
        "size": size,
        "image_size": image_size,
        "steps": steps,
        "batch_pictures": batch,
        "seed": seed,
        "device": device,
        "workers": workers,
    }
    started = datetime.now(UTC)
    given = {key: value for key, value in chosen.items() if value is not None}
    if resume:
        require_none_given(given, setting, config)
    base = PretrainConfig() if config is None else PretrainConfig.from_yaml(config)
    settings = None if resume else with_settings(base, given, setting or [])
    with listening(quiet) as progress:
        result = pretrain_model(out, settings, resume=resume, progress=progress)
    facts = {"steps": result.steps, "seconds": round(result.seconds, 1), **result.scores}
    write_manifest(out / "manifest.json", build_manifest("pretrain", started=started, **facts))
    if json:
        print_json({"run": str(out), "weights": str(result.folder.model), **facts})
        return
    said = ", ".join(f"{name} {value:.4f}" for name, value in result.scores.items())
    print_line(f"pre-trained {result.steps} steps in {result.seconds:.0f} s, {said}: {result.folder.model}")
