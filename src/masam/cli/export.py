"""``masam export``: write a trained model for other software."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from masam.cli.console import print_json, print_line, show_progress
from masam.cli.options import EmbedBase, Json, Licence, Quiet, SamCheckpoint, examples, require_new
from masam.errors import ConfigError

if TYPE_CHECKING:
    from masam.export.agreement import Exported
    from masam.model.masam import Masam

Format = Literal["safetensors", "onnx", "torch", "monai-bundle", "reference"]
# A MONAI bundle is a folder.
_EXTENSIONS = {"safetensors": ".safetensors", "onnx": ".onnx", "torch": ".pt2", "monai-bundle": "", "reference": ".pth"}


@examples(
    "masam export runs/spleen --format onnx --out spleen.onnx",
    "masam export runs/spleen --format monai-bundle --out spleen_bundle",
)
def export(
    model: Annotated[Path, typer.Argument(help="Run folder or model.safetensors.")],
    file_format: Annotated[Format, typer.Option("--format", help="Format to write.")],
    out: Annotated[
        Path, typer.Option(help="New .safetensors, .onnx, .pt2 or .pth file; for monai-bundle a new folder.")
    ],
    sam_checkpoint: SamCheckpoint = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the FacT increments into the encoder; onnx and torch always do.")
    ] = False,
    embed_base: EmbedBase = False,
    licence: Licence = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a model for other software, and verify its outputs against the model."""
    expected, given = _EXTENSIONS[file_format], out.suffix if out.suffix in _EXTENSIONS.values() else ""
    if given != expected:
        name = f"a name that ends in {expected}" if expected else f"a folder name that does not end in {given}"
        raise ConfigError(f"expected {name} for the format {file_format}", where=f"--out {out}")
    require_new(out)
    if file_format == "reference" and (merge or embed_base):
        raise ConfigError("the official format contains no encoder; omit --merge and --embed-base", where="--format")
    from masam.atomic import remove_stale
    from masam.weights.model_file import load

    remove_stale(out.absolute().parent)
    loaded = load(model, sam_checkpoint)
    if licence is not None:
        loaded.card = replace(loaded.card, licence=licence)
    with show_progress(quiet) as progress:
        progress.log(f"writing {out} and comparing it with the model")
        exported = _write(file_format, loaded, out, merge=merge, embed_base=embed_base, sam_checkpoint=sam_checkpoint)
    has_plan = loaded.card.plan is not None
    if json:
        print_json({"format": file_format, **exported.record(), "has_plan": has_plan})
        return
    difference = exported.difference
    comparison = "equal" if difference == 0 else f"differ by at most {difference:.1e} of the largest value from"
    print_line(f"wrote {out} ({exported.size_bytes / 1e6:.1f} MB); its outputs {comparison} the model's")
    if file_format == "reference":
        from masam.weights.official import official_options

        print_line(f"options for the official code: {official_options(loaded)}")
    elif not has_plan:
        print_line("the model has no plan: the export does not describe preprocessing")


def _write(
    file_format: Format, model: Masam, out: Path, *, merge: bool, embed_base: bool, sam_checkpoint: str | None
) -> Exported:
    # Each format imports only the packages that it needs.
    match file_format:
        case "safetensors":
            from masam.export.model_file import write_model_file

            return write_model_file(model, out, merge=merge, embed_base=embed_base, sam_checkpoint=sam_checkpoint)
        case "onnx":
            from masam.export.onnx_file import write_onnx

            return write_onnx(model, out)
        case "torch":
            from masam.export.program import write_program

            return write_program(model, out)
        case "monai-bundle":
            from masam.export.monai_bundle import write_bundle

            return write_bundle(model, out, merge=merge)
        case "reference":
            from masam.export.model_file import write_reference

            return write_reference(model, out)
