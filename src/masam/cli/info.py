"""``masam info``: the model sizes, or what a model file is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from masam.cli.console import listening, print_json, print_line, print_table
from masam.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Examples: masam info --image-size 512 | masam info runs/spleen | masam info sam.pth --json")(
        info
    )


def info(
    model: Annotated[
        Path | None, typer.Argument(help="Weights file of any kind, or run folder; none lists the sizes.")
    ] = None,
    num_classes: Annotated[int, typer.Option(min=1, help="Foreground classes to count parameters for.")] = 12,
    image_size: Annotated[
        int | None, typer.Option(min=16, help="Image size in pixels: predict the memory of training each size, too.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the parameters of each model size, or what a weights file is: kind, size, classes, training, hashes."""
    record = _sizes(num_classes) if model is None else _identify(model)
    memory = {} if model is not None or image_size is None else _predict_memory(num_classes, image_size)
    if json:
        print_json({name: count | memory[name] for name, count in record.items()} if memory else record)
    elif model is None:
        rows: list[tuple[str, ...]] = [
            ("size", "total", "trainable", "share", "adapters", "FacT", "prompt encoder", "mask decoder")
        ]
        for name, count in record.items():
            share = f"{100 * count['trainable'] / count['total']:.1f} %"
            parts = ("adapters", "fact", "prompt_encoder", "mask_decoder")
            rows.append((name, _millions(count["total"]), _millions(count["trainable"]), share))
            rows[-1] += tuple(_millions(count[part]) for part in parts)
        print_table(rows, title=f"Millions of parameters with {num_classes} classes; --json for exact numbers")
        if memory:
            head = ("size", "tensors", "with checkpointing", "CPU process", "with checkpointing")
            figures = [(name, *(f"{value:.1f}" for value in row.values())) for name, row in memory.items()]
            title = f"Predicted memory of training in GB (float32, one window of {image_size} pixels)"
            print_table([head, *figures], title=title)
    else:
        _print_facts(record)


def _sizes(num_classes: int) -> dict[str, Any]:
    from masam.model.parameters import count_parameters
    from masam.model.sizes import SIZES
    from masam.model.spec import MasamSpec

    return {name: count_parameters(MasamSpec(size, num_classes))._asdict() for name, size in SIZES.items()}


def _predict_memory(num_classes: int, image_size: int) -> dict[str, dict[str, float]]:
    from masam.model.sizes import SIZES
    from masam.model.spec import MasamSpec
    from masam.training.memory import predict_memory

    record = {}
    with listening() as progress:
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


def _millions(count: int) -> str:
    return f"{count / 1e6:.3f}"


def _identify(path: Path) -> dict[str, Any]:
    from masam.export.identify import identify

    return identify(path)


def _print_facts(record: dict[str, Any], indent: str = "") -> None:
    """Print keys and values, a group's below its name."""
    for key, value in record.items():
        if isinstance(value, dict) and value:
            print_line(f"{indent}{key}:")
            _print_facts(value, indent + "  ")
        elif isinstance(value, list):
            print_line(f"{indent}{key}: {', '.join(map(str, value))}")
        else:
            print_line(f"{indent}{key}: {'-' if value in (None, {}) else value}")
