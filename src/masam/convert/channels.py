"""Files of several channels along the fourth axis, as MSD stores them, taken apart into one file a channel."""

from __future__ import annotations

from functools import partial
from pathlib import Path


def take_channel(source: Path, target: Path, *, index: int, channels: int) -> None:
    """Write one channel of a file as a file of three axes, on the same grid.

    Args:
        source: NIfTI file of several channels.
        target: NIfTI file to write.
        index: Which channel, from 0.
        channels: How many the file must hold.

    Raises:
        InputError: The file is refused.
        ResourceError: A file cannot be read or written.
    """
    from masam.io.nifti.file import read_channel, write_volume

    write_volume(target, read_channel(source, index, channels))


def taking(index: int, channels: int) -> tuple[str, partial[None]]:
    """Return in words which channel a file becomes, and the function that writes it."""
    return f"channel {index} of {channels}", partial(take_channel, index=index, channels=channels)
