"""A stream of video frames, whatever it is read from, and what every reader of frames keeps to."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError, ResourceError

MAX_FRAME_PIXELS = 2**26
"""Cap for one frame: 8192 x 8192, twice the pixels of an 8K camera."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        index: Its place in the stream, from 0.
        name: Name of its file without ending, or ``frame000000`` and so on for a frame of a video file.
        pixels: [H, W, 3] red, green and blue, uint8.
        time_s: When it is shown, in s from the first frame; None for a folder of frames, which does not say.
    """

    index: int
    name: str
    pixels: NDArray[np.uint8]
    time_s: Fraction | None = None


@dataclass(frozen=True, eq=False)
class FrameSource:
    """Frames in order; each iteration reads them again from the first one, and holds no more than one.

    Attributes:
        path: The video file or the folder.
        size: Rows and columns of every frame.
        count: Number of frames; None if the file does not declare it.
        frame_rate: Frames per second, exact; None if unknown, as for a folder.
        is_constant: Whether frames follow each other at that rate; if not, it is the mean.
        notes: What was done to the frames, or is odd about them, for the user to read.
        read: Begins an iteration.
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
    """Refuse a frame that is empty or too large, before memory is taken for it.

    Raises:
        InputError: It is.
    """
    if min(rows, columns) < 1 or rows * columns > MAX_FRAME_PIXELS:
        raise InputError(
            f"expected a frame of 1 to {MAX_FRAME_PIXELS} pixels, got {columns} x {rows}",
            where=where,
            fix="scale the video down",
        )


def require_package(name: str) -> ModuleType:
    """Import a package that only videos need.

    Args:
        name: ``av`` or a module of ``PIL``.

    Raises:
        ResourceError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = {"av": "PyAV", "PIL": "Pillow"}[name.split(".")[0]]
        raise ResourceError(
            f"videos need the package {package}, which is not here ({error})", fix="pip install 'masam[video]'"
        ) from error
