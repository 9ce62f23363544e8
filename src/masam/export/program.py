"""``.pt2`` files of ``torch.export``, which PyTorch runs without masam."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from masam import atomic
from masam.export.agreement import Exported, random_windows, require_agreement
from masam.export.automatic import DESCRIPTION_FILE, INPUT, automatic, describe, least_slices
from masam.model.masam import Masam
from masam.weights.pytorch_file import write_archive


@torch.no_grad()
def trace(model: Masam) -> ExportedProgram:
    """Trace the model without prompts.

    The program accepts any number of windows B, and any number of slices S from ``least_slices``. If the window of the
    model is smaller, it accepts only that number of slices.
    """
    dynamic: dict[int, Dim] = {0: Dim("B")}
    if model.spec.window >= (least := least_slices(model.spec)):
        dynamic[1] = Dim("S", min=least)
    # A batch of one would be traced as a constant.
    return torch.export.export(
        automatic(model), (random_windows(model, 2),), dynamic_shapes={INPUT: dynamic}, strict=False
    )


def write_program(model: Masam, path: Path) -> Exported:
    """Write a model as a ``.pt2`` file and compare its outputs with the model."""
    program = trace(model)

    def write(file: Path) -> Exported:
        description = {DESCRIPTION_FILE: describe(model)}
        write_archive(file, lambda archive: torch.export.save(program, archive, extra_files=description))
        loaded = torch.export.load(file).module()
        difference = require_agreement(model, loaded, where=path)
        return Exported(path, file.stat().st_size, difference)

    return atomic.write_aside(path, write)
