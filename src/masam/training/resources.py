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
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(f"memory ran out with {load}", where=where, fix=fix) from error
    except RuntimeError as error:
        if "can't start new thread" in str(error):
            raise ResourceError(
                f"the system allows no {workers} more threads", where=where, fix="lower workers"
            ) from error
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise ResourceError(f"memory ran out with {load}", where=where, fix=fix) from error
        raise
