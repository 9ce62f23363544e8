"""``masam export``: a trained model for other software."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from masam.cli.console import listening, print_json, print_line
from masam.cli.options import EmbedBase, Json, Licence, Quiet, SamCheckpoint, require_new
from masam.errors import ConfigError

if TYPE_CHECKING:
    from masam.export.agreement import Exported
    from masam.model.masam import Masam


class Choices(NamedTuple):
    """What a format may make use of."""

    merge: bool
    embed_base: bool
    sam_checkpoint: str | None


class Format(NamedTuple):
    """One format: how its name ends (not at all for a folder), and what writes it."""

    suffix: str
    write: Callable[[Masam, Path, Choices], Exported]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Examples: masam export runs/spleen --format onnx --out spleen.onnx | "
        "masam export runs/spleen --format monai-bundle --out spleen_bundle"
    )(export)


def export(
    model: Annotated[Path, typer.Argument(help="Run folder or model.safetensors.")],
    name: Annotated[
        Literal["safetensors", "onnx", "torch", "monai-bundle", "reference"],
        typer.Option("--format", help="What to write."),
    ],
    out: Annotated[Path, typer.Option(help="New .safetensors, .onnx, .pt2 or .pth file; for a bundle a new folder.")],
    sam_checkpoint: SamCheckpoint = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Fold FacT into the encoder; onnx and torch always do.")
    ] = False,
    embed_base: EmbedBase = False,
    licence: Licence = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model for other software, run what was written, and compare it with the model."""
    chosen = FORMATS[name]
    _require_ending(name, out)
    require_new(out)
    from masam.atomic import remove_stale
    from masam.weights.model_file import load

    remove_stale(out.absolute().parent)
    loaded = load(model, sam_checkpoint)
    if licence is not None:
        loaded.card = replace(loaded.card, licence=licence)
    with listening(quiet) as progress:
        progress.say(f"writing {out}, and comparing it with the model")
        exported = chosen.write(loaded, out, Choices(merge, embed_base, sam_checkpoint))
    has_plan = loaded.card.plan is not None
    if json:
        print_json({"format": name, **exported.record(), "has_plan": has_plan})
        return
    is_same = exported.difference == 0
    proof = "the model's" if is_same else f"within {exported.difference:.1e} of the model's largest value"
    print_line(f"wrote {out} ({exported.size_bytes / 1e6:.1f} MB); its outputs are {proof}")
    if name == "reference":
        from masam.weights.official import official_options

        print_line(f"run it in the official code with {official_options(loaded)}")
    elif not has_plan:
        print_line("it carries no plan: how volumes are prepared for it is up to you")


def _require_ending(name: str, out: Path) -> None:
    wanted = FORMATS[name].suffix
    given = out.suffix if out.suffix in {known.suffix for known in FORMATS.values()} else ""
    if given != wanted:
        expected = f"a name that ends in {wanted}" if wanted else f"a folder's name, not one that ends in {given}"
        raise ConfigError(f"expected {expected} for the format {name}", where=f"--out {out}")


def _safetensors(model: Masam, out: Path, choices: Choices) -> Exported:
    from masam.export.model_file import write_model_file

    return write_model_file(
        model, out, merge=choices.merge, embed_base=choices.embed_base, sam_checkpoint=choices.sam_checkpoint
    )


def _onnx(model: Masam, out: Path, choices: Choices) -> Exported:
    from masam.export.onnx_file import write_onnx

    return write_onnx(model, out)


def _torch(model: Masam, out: Path, choices: Choices) -> Exported:
    from masam.export.program import write_program

    return write_program(model, out)


def _monai_bundle(model: Masam, out: Path, choices: Choices) -> Exported:
    from masam.export.monai_bundle import write_bundle

    return write_bundle(model, out, merge=choices.merge)


def _reference(model: Masam, out: Path, choices: Choices) -> Exported:
    from masam.export.reference_file import write_reference

    if choices.merge or choices.embed_base:
        raise ConfigError("the official file holds no encoder; leave --merge and --embed-base out", where="--format")
    return write_reference(model, out)


FORMATS = {
    "safetensors": Format(".safetensors", _safetensors),
    "onnx": Format(".onnx", _onnx),
    "torch": Format(".pt2", _torch),
    "monai-bundle": Format("", _monai_bundle),
    "reference": Format(".pth", _reference),
}
