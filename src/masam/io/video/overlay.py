"""Draw labels over frames, and write them as an mp4 video or as a folder of PNG files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from masam.errors import ResourceError
from masam.io.packages import require_package
from masam.io.video.frames import Frame, FrameSource
from masam.labels import LabelScheme

OVERLAY_ENDING = ".overlay"
"""Suffix of a folder of overlays, after the case id; overlay videos have ``.overlay.mp4``."""

_OPACITY = 0.45
_CODECS = ("libx264", "mpeg4")
# Time base for a varying frame rate: at most 65535 for MPEG-4; a multiple of milliseconds and of most frame rates.
_TICKS_PER_S = 60_000
# Encoders accept 32-bit rates, and a mean may be any fraction.
_MAX_DENOMINATOR = 1001
_DEFAULT_RATE = Fraction(25)


OverlayWriter: TypeAlias = Callable[[Frame, NDArray[np.uint8]], None]
"""Draws the labels [H, W] over a frame and writes it."""


def draw_labels(pixels: NDArray[np.uint8], labels: NDArray[np.uint8], scheme: LabelScheme) -> NDArray[np.uint8]:
    """Return a frame [H, W, 3] with each class of the labels [H, W] tinted in its colour and outlined.

    Pixels of the background and of values that are not in the scheme are not changed.
    """
    colours, opacity = np.zeros((256, 3), np.float32), np.zeros(256, np.float32)
    for label in scheme.foreground:
        colours[label.value], opacity[label.value] = label.colour, _OPACITY
    share = np.where(_edges(labels) & (opacity[labels] > 0), 1, opacity[labels])[..., None]
    drawn: NDArray[np.uint8] = np.rint(pixels * (1 - share) + colours[labels] * share).astype(np.uint8)
    return drawn


def _edges(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the mask of pixels with a 4-neighbour of another label."""
    edges = np.zeros(labels.shape, dtype=bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges


@contextmanager
def overlay_folder(folder: Path, scheme: LabelScheme) -> Iterator[OverlayWriter]:
    """Write overlays as PNG files into a new folder; use it inside ``atomic.write_aside``."""
    folder.mkdir()

    def write(frame: Frame, labels: NDArray[np.uint8]) -> None:
        image = require_package("PIL.Image").fromarray(draw_labels(frame.pixels, labels, scheme))
        image.save(folder / f"{frame.name}.png", format="PNG")

    yield write


@contextmanager
def overlay_video(path: Path, source: FrameSource, scheme: LabelScheme) -> Iterator[OverlayWriter]:
    """Write overlays as an mp4 in H.264 if PyAV has it, else MPEG-4; use it inside ``atomic.write_aside``.

    Size and frame rate are those of the source; without a rate, 25 frames per second are used.

    Raises:
        ResourceError: PyAV is not installed, has neither encoder, or the encoder does not support size or rate.
    """
    av = require_package("av")
    codec = next((name for name in _CODECS if name in av.codecs_available), None)
    if codec is None:
        raise ResourceError(
            f"PyAV has none of the encoders {', '.join(_CODECS)}",
            where=path,
            fix="install PyAV from PyPI, or omit --overlay",
        )
    rows, columns = source.size
    rate = source.frame_rate or _DEFAULT_RATE
    if not source.is_constant:
        rate = rate.limit_denominator(_MAX_DENOMINATOR)
    tick = 1 / rate if source.is_constant else Fraction(1, _TICKS_PER_S)
    last = -1

    def write(frame: Frame, labels: NDArray[np.uint8]) -> None:
        nonlocal last
        drawn = av.VideoFrame.from_ndarray(draw_labels(frame.pixels, labels, scheme), format="rgb24")
        is_timed = not source.is_constant and frame.time_s is not None
        pts = round((frame.time_s or 0) / tick) if is_timed else frame.index
        # The format does not allow two frames with the same time.
        last = drawn.pts = max(pts, last + 1)
        drawn.time_base = tick
        container.mux(stream.encode(drawn))

    try:
        with path.open("wb") as file, av.open(file, mode="w", format="mp4") as container:
            stream = container.add_stream(codec, rate=rate)
            stream.width, stream.height = columns, rows
            # Chroma at half the resolution, which all players support, requires even sides.
            stream.pix_fmt = "yuv444p" if codec == "libx264" and (rows % 2 or columns % 2) else "yuv420p"
            stream.codec_context.time_base = tick
            stream.options = {"crf": "18", "preset": "veryfast"} if codec == "libx264" else {"qscale": "3"}
            yield write
            container.mux(stream.encode())
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise  # an error of the disk
        raise ResourceError(
            f"the encoder does not support {columns} x {rows} pixels at {source.frame_rate} frames per second "
            f"({error.strerror})",
            where=source.path,
            fix="omit --overlay",
        ) from error
