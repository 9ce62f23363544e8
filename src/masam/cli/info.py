"""``masam info``: list the model sizes, or describe a weights file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from masam.cli.console import print_json, print_line, print_table, show_progress
from masam.cli.options import Json, examples


@examples("masam info --image-size 512", "masam info runs/spleen", "masam info sam.pth --json", "masam info study")
def info(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Weights file of any kind, run folder, or folder of DICOM series; default: list the model sizes."
        ),
    ] = None,
    num_classes: Annotated[
        int, typer.Option(min=1, help="Number of foreground classes for the parameter counts.")
    ] = 12,
    image_size: Annotated[
        int | None,
        typer.Option(min=16, help="Image size in pixels, for which to predict the training memory of each size."),
    ] = None,
    json: Json = False,
) -> None:
    """Print the parameters of each model size, describe a weights file, or list the DICOM series of a folder."""
    if model is not None and model.is_dir() and _print_series(model, as_json=json):
        return
    if model is not None:
        from masam.export.identify import identify

        facts = identify(model)
        print_json(facts) if json else _print_facts(facts)
        return
    from masam.model.parameters import count_parameters
    from masam.model.sizes import SIZES
    from masam.model.spec import MasamSpec

    record = {name: count_parameters(MasamSpec(size, num_classes))._asdict() for name, size in SIZES.items()}
    memory = {} if image_size is None else _predict_memory(num_classes, image_size)
    if json:
        print_json({name: count | memory[name] for name, count in record.items()} if memory else record)
        return
    rows: list[tuple[str, ...]] = [
        ("size", "total", "trainable", "share", "adapters", "FacT", "prompt encoder", "mask decoder")
    ]
    for name, count in record.items():
        parts = [f"{count[part] / 1e6:.3f}" for part in ("adapters", "fact", "prompt_encoder", "mask_decoder")]
        share = f"{100 * count['trainable'] / count['total']:.1f} %"
        rows.append((name, f"{count['total'] / 1e6:.3f}", f"{count['trainable'] / 1e6:.3f}", share, *parts))
    print_table(rows, title=f"Millions of parameters with {num_classes} classes; --json for exact numbers")
    if memory:
        head = ("size", "tensors", "with checkpointing", "CPU process", "with checkpointing")
        rows = [head, *((name, *(f"{value:.1f}" for value in row.values())) for name, row in memory.items())]
        title = f"Predicted memory of training in GB (float32, one window of {image_size} pixels)"
        print_table(rows, title=title)


def _predict_memory(num_classes: int, image_size: int) -> dict[str, dict[str, float]]:
    from masam.model.sizes import SIZES
    from masam.model.spec import MasamSpec
    from masam.training.memory import predict_memory

    record = {}
    with show_progress() as progress:
        progress.start("predicting memory", len(SIZES))
        for name, size in SIZES.items():
            spec = MasamSpec(size, num_classes, image_size)
            full, less = (predict_memory(spec, 1, checkpointing=checkpointing) for checkpointing in (False, True))
            record[name] = {
                "tensors_gb": (full.tensor_bytes + full.optimizer_bytes) / 1e9,
                "tensors_checkpointing_gb": (less.tensor_bytes + less.optimizer_bytes) / 1e9,
                "cpu_process_gb": full.peak_bytes / 1e9,
                "cpu_process_checkpointing_gb": less.peak_bytes / 1e9,
            }
            progress.advance(name)
    return record


def _print_facts(record: dict[str, Any], indent: str = "") -> None:
    """Print keys and values, nested groups indented below their key."""
    for key, value in record.items():
        if isinstance(value, dict) and value:
            print_line(f"{indent}{key}:")
            _print_facts(value, indent + "  ")
        elif isinstance(value, list):
            print_line(f"{indent}{key}: {', '.join(map(str, value))}")
        else:
            print_line(f"{indent}{key}: {'-' if value in (None, {}) else value}")


def _print_series(folder: Path, *, as_json: bool) -> bool:
    """Print the DICOM series below a folder; False if there is no DICOM."""
    from masam.io.dicom.series import files_below, find_series, holds_dicom

    if not any(map(holds_dicom, files_below(folder))):
        return False
    records = [series.record() for series in find_series(folder)]
    if as_json:
        print_json({"series": records})
        return True
    names = ("key", "folder", "number", "description", "modality", "images")
    rows: list[tuple[str, ...]] = [(*names, "voxels", "spacing in mm")]
    for one in records:
        sizes = ("not a volume", "")
        if one["matrix"]:
            sizes = " x ".join(map(str, one["matrix"])), " x ".join(f"{length:.4g}" for length in one["spacing_mm"])
        rows.append((*(str(one[name]) for name in names), *sizes))
    print_table(rows, title=f"DICOM series in {folder}")
    for one in records:
        if one["refused"]:
            print_line(f"{one['key']}: {one['refused']}")
    return True
