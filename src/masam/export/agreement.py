"""Comparison of an export with its model, by their outputs for random windows or by their tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masam.errors import ModelError
from masam.model.masam import Masam

TOLERANCE = 1e-4
"""Largest allowed difference of an output, relative to its largest value."""

BATCHES = (1, 2)
"""Batch sizes to compare. Two, because a program may only work with the size that it was traced with."""

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""Maps windows [B, S, 3, H, W] to the outputs of an export, logits first."""


@dataclass(frozen=True)
class Exported:
    """A written export.

    Attributes:
        path: File or folder.
        size_bytes: Total size in bytes.
        difference: Largest difference of an output from the model, relative to its largest value.
    """

    path: Path
    size_bytes: int
    difference: float

    def record(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "largest_difference": self.difference,
            "tolerance": TOLERANCE,
        }


def random_windows(model: Masam, batch: int) -> Tensor:
    """Return random windows [B, S, C, H, W] in 0..1 of the model's size, from a fixed seed."""
    spec = model.spec
    shape = (batch, spec.window, spec.input_channels, spec.image_size, spec.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(batch))


def require_same_tensors(model: Masam, loaded: Masam, where: Path) -> float:
    """Return 0.0, the difference, if a model loaded from a file has exactly the tensors of the model that was written.

    Raises ModelError, which names the file ``where``, if a tensor differs.
    """
    ours, theirs = model.state_dict(), loaded.state_dict()
    if set(ours) != set(theirs) or any(not torch.equal(ours[name].cpu(), theirs[name].cpu()) for name in ours):
        raise _failed("the tensors of the export differ from the model", where)
    return 0.0


@torch.no_grad()
def require_agreement(model: Masam, run: Run, where: Path) -> float:
    """Check that an export and its model have the same outputs for random windows.

    Args:
        model: The model; it is switched to evaluation mode.
        run: The export in its target runtime.
        where: The file of the export, for messages.

    Returns:
        Largest difference of an output, relative to its largest value in the model.

    Raises:
        ModelError: The difference is above ``TOLERANCE`` or not finite.
    """
    model.eval()
    device = next(model.parameters()).device
    differences = []
    for batch in BATCHES:
        windows = random_windows(model, batch)
        for got, expected in zip(run(windows), model(windows.to(device)), strict=False):
            reference = expected.float().cpu()
            scale = reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
            differences.append((got.float().cpu() - reference).abs().max() / scale)
    # The maximum of a tensor, unlike Python's max, is NaN if any value is.
    largest = float(torch.stack(differences).max())
    if not largest <= TOLERANCE:
        raise _failed(
            f"the outputs of the export differ from the model by {largest:.2g} of their largest value, more than "
            f"{TOLERANCE:g}",
            where,
        )
    return largest


def _failed(what: str, where: Path) -> ModelError:
    return ModelError(f"{what}; nothing was written", where=where, fix="please report it")
