"""``masam pretrain``: pre-train a SAM on synthetic pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masam.cli.console import print_json, print_line, show_progress
from masam.cli.options import Json, Quiet, examples, parse_settings


@examples("masam pretrain --out runs/sam_t --steps 5000 --workers 1")
def pretrain(
    out: Annotated[Path, typer.Option(help="Run folder: a new one, or with --resume an existing one.")],
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    size: Annotated[str | None, typer.Option(help="vit_t, vit_b, vit_l or vit_h; default: vit_t.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Picture size in pixels; default: 256.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; default: 5000.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures per optimiser step; default: 16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers; default: 1234.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N; default: auto.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that create pictures in advance; default: 0.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, such as rounds=2; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run where it stopped.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pre-train a SAM on synthetic pictures. The resulting file can be used as --sam-checkpoint."""
    from masam.pretraining import run
    from masam.pretraining.config import PretrainConfig

    options = {
        "size": size,
        "image_size": image_size,
        "steps": steps,
        "batch_pictures": batch,
        "seed": seed,
        "device": device,
        "workers": workers,
    }
    settings = parse_settings(options, setting)
    merged = settings if config is None else PretrainConfig.from_yaml(config).changed(settings, where="options")
    with show_progress(quiet) as progress:
        result = run.pretrain(out, merged, resume=resume, progress=progress)
    if json:
        print_json({"run": str(out), "weights": str(result.folder.model), **result.facts()})
        return
    scores = ", ".join(f"{name} {value:.4f}" for name, value in result.scores.items())
    print_line(f"pre-trained {result.steps} steps in {result.seconds:.0f} s, {scores}: {result.folder.model}")
