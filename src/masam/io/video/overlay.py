"""Labels drawn over frames, as a video beside a video file, as PNG files beside a folder of frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from masam.errors import ResourceError
from masam.io.video.frames import Frame, FrameSource, require_package
from masam.labels import LabelScheme

OVERLAY_ENDING = ".overlay"
"""What the name of a folder of overlays has after the name of its case; a video has ``.mp4`` after it."""

# Enough colour to tell classes apart, enough of the frame to judge them.
_OPACITY = 0.45
_CODECS = ("libx264", "mpeg4")
# For frames whose time varies. MPEG-4 takes 65535 at most; milliseconds and most usual rates are whole numbers in it.
_TICKS_PER_S = 60_000
# Encoders take rates of 32 bits, and a mean may be any fraction.
_MAX_DENOMINATOR = 1001
_DEFAULT_RATE = Fraction(25)


@runtime_checkable
class OverlayWriter(Protocol):
    """Takes one frame with its labels after the other."""

    def write(self, frame: Frame, labels: NDArray[np.uint8]) -> None:
        """Draw and write one frame."""


def draw_labels(pixels: NDArray[np.uint8], labels: NDArray[np.uint8], scheme: LabelScheme) -> NDArray[np.uint8]:
    """Tint each class in its colour, with an outline.

    Args:
        pixels: [H, W, 3] a frame.
        labels: [H, W] label values; the background and values that are not in the scheme stay as they are.
        scheme: Values and colours.

    Returns:
        [H, W, 3] the drawn frame.
    """
    colours, opacity = np.zeros((256, 3), np.float32), np.zeros(256, np.float32)
    for label in scheme.foreground:
        colours[label.value], opacity[label.value] = label.colour, _OPACITY
    share = np.where(_edges(labels) & (opacity[labels] > 0), 1, opacity[labels])[..., None]
    drawn: NDArray[np.uint8] = np.rint(pixels * (1 - share) + colours[labels] * share).astype(np.uint8)
    return drawn


def _edges(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels that have another label above or below, left or right of them."""
    edges = np.zeros(labels.shape, dtype=bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges


class _OverlayFolder:
    """One PNG a frame, named like the frame."""

    def __init__(self, folder: Path, scheme: LabelScheme) -> None:
        folder.mkdir()
        self._folder, self._scheme = folder, scheme

    def write(self, frame: Frame, labels: NDArray[np.uint8]) -> None:
        image = require_package("PIL.Image").fromarray(draw_labels(frame.pixels, labels, self._scheme))
        image.save(self._folder / f"{frame.name}.png", format="PNG")


class _OverlayVideo:
    """An mp4 of the source's size and frame rate; frames of a varying rate keep their times."""

    def __init__(self, container: Any, source: FrameSource, scheme: LabelScheme) -> None:
        self._av = require_package("av")
        self._container, self._scheme = container, scheme
        rate = source.frame_rate or _DEFAULT_RATE
        if not source.is_constant:
            rate = rate.limit_denominator(_MAX_DENOMINATOR)
        self._tick = 1 / rate if source.is_constant else Fraction(1, _TICKS_PER_S)
        self._is_constant = source.is_constant
        rows, columns = source.size
        codec = next(name for name in _CODECS if name in self._av.codecs_available)
        self._stream = container.add_stream(codec, rate=rate)
        self._stream.width, self._stream.height = columns, rows
        # Colours at half the resolution, as players expect them, need even sides.
        self._stream.pix_fmt = "yuv444p" if codec == "libx264" and (rows % 2 or columns % 2) else "yuv420p"
        self._stream.codec_context.time_base = self._tick
        self._stream.options = {"crf": "18", "preset": "veryfast"} if codec == "libx264" else {"qscale": "3"}
        self._last = -1

    def write(self, frame: Frame, labels: NDArray[np.uint8]) -> None:
        drawn = self._av.VideoFrame.from_ndarray(draw_labels(frame.pixels, labels, self._scheme), format="rgb24")
        is_timed = not self._is_constant and frame.time_s is not None
        pts = round((frame.time_s or 0) / self._tick) if is_timed else frame.index
        # Two frames of one time would be refused by the format.
        self._last = drawn.pts = max(pts, self._last + 1)
        drawn.time_base = self._tick
        self._container.mux(self._stream.encode(drawn))

    def finish(self) -> None:
        self._container.mux(self._stream.encode())


@contextmanager
def overlay_folder(folder: Path, scheme: LabelScheme) -> Iterator[OverlayWriter]:
    """Write overlays as PNG files into a new folder; to be used inside ``atomic.write_aside``.

    Raises:
        ResourceError: Pillow is not installed.
    """
    yield _OverlayFolder(folder, scheme)


@contextmanager
def overlay_video(path: Path, source: FrameSource, scheme: LabelScheme) -> Iterator[OverlayWriter]:
    """Write overlays as an mp4, H.264 where PyAV has it, else MPEG-4; to be used inside ``atomic.write_aside``.

    Args:
        path: Ends in ``.mp4``.
        source: Gives size and frame rate; 25 frames per second where it has none.
        scheme: Values and colours.

    Raises:
        ResourceError: PyAV is not installed, has neither encoder, or the encoder refuses the size or the rate.
    """
    av = require_package("av")
    if not set(_CODECS) & set(av.codecs_available):
        raise ResourceError(
            f"PyAV has no encoder out of {', '.join(_CODECS)}",
            where=path,
            fix="install PyAV from PyPI, or leave --overlay out",
        )
    try:
        with path.open("wb") as file, av.open(file, mode="w", format="mp4") as container:
            writer = _OverlayVideo(container, source, scheme)
            yield writer
            writer.finish()
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise  # what the system says of the disk
        rows, columns = source.size
        raise ResourceError(
            f"the encoder does not take {columns} x {rows} pixels at {source.frame_rate} frames per second "
            f"({error.strerror})",
            where=source.path,
            fix="leave --overlay out",
        ) from error
