"""Errors for resources that run out during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from masam.errors import ResourceError


@contextmanager
def resource_errors(where: str, load: str, fix: str, workers: int) -> Iterator[None]:
    """Convert errors about memory, for which ``load`` was too much and ``fix`` helps, and about too many threads."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if "can't start new thread" in text:
            raise ResourceError(
                f"the system allows no {workers} more threads", where=where, fix="lower workers"
            ) from error
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if is_memory or "can't allocate memory" in text or "not enough memory" in text:
            raise ResourceError(f"memory ran out with {load}", where=where, fix=fix) from error
        raise
