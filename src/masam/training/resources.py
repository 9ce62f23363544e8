"""Errors for resources that run out during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from masam.errors import ResourceError


@contextmanager
def resource_errors(where: str, load: str, fix: str, workers: int) -> Iterator[None]:
    """Convert errors about memory and threads.

    Args:
        where: The work, such as ``training``.
        load: The amount of data that was processed at once.
        fix: How to need less memory.
        workers: Number of reader threads.

    Raises:
        ResourceError: The machine has too little memory or allows too few threads.
    """
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
