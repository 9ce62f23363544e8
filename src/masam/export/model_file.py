"""Model files of masam, and adapter files of the official MA-SAM code."""

from __future__ import annotations

import copy
from pathlib import Path

from masam import atomic
from masam.export.agreement import Exported, require_agreement, require_same_tensors
from masam.model.masam import Masam, merged
from masam.weights.model_file import load, save
from masam.weights.official import save_reference
from masam.weights.pytorch_file import read_pytorch
from masam.weights.state_dict import load_official_state


def write_model_file(
    model: Masam,
    path: Path,
    *,
    merge: bool = False,
    embed_base: bool = False,
    sam_checkpoint: str | Path | None = None,
) -> Exported:
    """Write a model with its card as ``.safetensors`` and compare the file with the model.

    Args:
        model: The model.
        path: File to write; it must not exist.
        merge: Merge the FacT increments into the encoder, which is then included in the file.
        embed_base: Include the encoder, so that the file requires no SAM file.
        sam_checkpoint: SAM file of the model, required to verify a file without the encoder.
    """

    def write(file: Path) -> Exported:
        save(file, merged(model) if merge else model, embed_base=embed_base)
        loaded = load(file, sam_checkpoint)
        difference = (require_agreement if merge else require_same_tensors)(model, loaded, where=path)
        return Exported(path, file.stat().st_size, difference)

    return atomic.write_aside(path, write)


def write_reference(model: Masam, path: Path) -> Exported:
    """Write the adapter of a model as ``epoch_N.pth`` and compare the file with the model."""

    def write(file: Path) -> Exported:
        save_reference(file, model)
        loaded = copy.deepcopy(model)
        load_official_state(loaded, read_pytorch(file), where=path)
        return Exported(path, file.stat().st_size, require_same_tensors(model, loaded, where=path))

    return atomic.write_aside(path, write)
