"""Frames of a video, whatever their source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError

MAX_FRAME_PIXELS = 2**26
"""Maximum size of a frame: 8192 x 8192, twice the pixels of an 8K camera."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        index: Index in the video, from 0.
        name: File name without ending, or ``frame000000`` and so on for a video file.
        pixels: [H, W, 3] red, green and blue, uint8.
        time_s: Presentation time in s from the first frame; None for a folder of frames.
    """

    index: int
    name: str
    pixels: NDArray[np.uint8]
    time_s: Fraction | None = None


@dataclass(frozen=True, eq=False)
class FrameSource:
    """An iterable of frames that reads them again on each iteration and holds one at a time.

    Attributes:
        path: The video file or folder.
        size: Rows and columns of every frame.
        count: Number of frames; None if the file does not declare it.
        frame_rate: Frames per second, exact; None if unknown, as for a folder.
        is_constant: Whether the frame rate is constant; if not, ``frame_rate`` is the mean.
        notes: Notes for the user on unusual properties and conversions.
        read: Starts an iteration.
    """

    path: Path
    size: tuple[int, int]
    count: int | None
    frame_rate: Fraction | None
    is_constant: bool
    notes: tuple[str, ...]
    read: Callable[[], Iterator[Frame]]

    def __iter__(self) -> Iterator[Frame]:
        return self.read()


def check_frame_size(rows: int, columns: int, where: object) -> None:
    """Raise an InputError if a frame is empty or too large, before memory is allocated for it."""
    if min(rows, columns) < 1 or rows * columns > MAX_FRAME_PIXELS:
        raise InputError(
            f"expected a frame of 1 to {MAX_FRAME_PIXELS} pixels, got {columns} x {rows}",
            where=where,
            fix="reduce the size of the video",
        )
