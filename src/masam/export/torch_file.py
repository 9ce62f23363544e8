"""PyTorch's archives, written by way of memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path


def write_archive(path: Path, save: Callable[[io.BytesIO], None]) -> None:
    """Let one of PyTorch's functions make an archive, and write it.

    On a full disk PyTorch's own writer ends the process (``torch.export.save``) or raises an error that does not name
    the disk (``torch.save``); Python's says what happened. The price is the archive's size in memory.

    Args:
        path: File to write.
        save: Writes the archive to an open file.

    Raises:
        OSError: The file cannot be written.
    """
    archive = io.BytesIO()
    save(archive)
    path.write_bytes(archive.getbuffer())
