"""The proof that an export is the model: random windows through both, or equal tensors in the same network."""

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
"""Largest difference of an output that is allowed, as a share of its largest value."""

BATCHES = (1, 2)
"""Windows in a batch; two sizes, as a program may have kept the one that it was traced with."""

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""From windows [B, S, 3, H, W] to the outputs of an export, logits first."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: File or folder.
        size_bytes: Size of all that was written, in bytes.
        difference: Largest difference from the model, as a share of the largest value.
    """

    path: Path
    size_bytes: int
    difference: float

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "largest_difference": self.difference,
            "tolerance": TOLERANCE,
        }


def random_windows(model: Masam, batch: int) -> Tensor:
    """Return windows [B, S, C, H, W] in 0..1 of the model's size; always the same."""
    spec = model.spec
    shape = (batch, spec.window, spec.input_channels, spec.image_size, spec.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(batch))


def require_same_tensors(model: Masam, loaded: Masam, where: Path) -> float:
    """Compare a model that was loaded again with the one that was written: the same network, so its tensors decide.

    Args:
        model: The model.
        loaded: What its file holds.
        where: The file, to name in an error.

    Returns:
        0.0, the difference of every output.

    Raises:
        ModelError: A tensor differs in a bit.
    """
    ours, theirs = model.state_dict(), loaded.state_dict()
    if set(ours) != set(theirs) or any(not torch.equal(ours[name].cpu(), theirs[name].cpu()) for name in ours):
        raise _no_export("its tensors are not the model's", where)
    return 0.0


@torch.no_grad()
def require_agreement(model: Masam, run: Run, where: Path) -> float:
    """Run an export on random windows and compare.

    Args:
        model: The model; it is put into evaluation mode.
        run: The export in its own runtime.
        where: Its file, to name in an error.

    Returns:
        The largest difference of an output, as a share of the model's largest value of it.

    Raises:
        ModelError: The difference is above ``TOLERANCE``, or a number is not finite.
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
    # In one tensor, so that a NaN is the largest.
    largest = float(torch.stack(differences).max())
    if not largest <= TOLERANCE:
        raise _no_export(
            f"the export differs from the model by {largest:.2g} of the largest value, "
            f"at most {TOLERANCE:g} is allowed",
            where,
        )
    return largest


def _no_export(what: str, where: Path) -> ModelError:
    return ModelError(f"{what}; nothing was written", where=where, fix="please report it")
