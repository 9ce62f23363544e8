"""Adapter files of the official MA-SAM code."""

from __future__ import annotations

import copy
from pathlib import Path

from masam import atomic
from masam.export.agreement import Exported, require_same_tensors
from masam.model.masam import Masam
from masam.weights.official import save_reference
from masam.weights.pytorch_file import read_pytorch
from masam.weights.state_dict import load_official_state


def write_reference(model: Masam, path: Path) -> Exported:
    """Write the adapter of a model as ``epoch_N.pth`` and compare the file with the model.

    Raises:
        ModelError: The encoder is not that of a SAM file, or FacT is merged into it.
        ResourceError: The file exists or cannot be written.
    """

    def write(file: Path) -> Exported:
        save_reference(file, model)
        loaded = copy.deepcopy(model)
        load_official_state(loaded, read_pytorch(file), where=path)
        return Exported(path, file.stat().st_size, require_same_tensors(model, loaded, where=path))

    return atomic.write_aside(path, write)
