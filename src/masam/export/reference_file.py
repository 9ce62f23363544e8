"""The official MA-SAM's own adapter file, for models that its code shall run."""

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
    """Write a model's adapter as ``epoch_N.pth``, and compare what the file holds with the model.

    Args:
        model: A model that stands on a SAM file; the official code needs that file beside this one.
        path: File to write; it must not be there.

    Raises:
        ModelError: The model's encoder is its own, or FacT is merged into it.
        ResourceError: The file cannot be written.
    """

    def write(file: Path) -> Exported:
        save_reference(file, model)
        loaded = copy.deepcopy(model)
        load_official_state(loaded, read_pytorch(file), where=path)
        return Exported(path, file.stat().st_size, require_same_tensors(model, loaded, where=path))

    return atomic.write_aside(path, write)
