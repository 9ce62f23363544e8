"""Video files by PyAV: what a file promises is checked before a frame is decoded, and again at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.io import gate
from masam.io.video.frames import Frame, FrameSource, check_frame_size, require_package

# The reader is chosen by the ending: left to choose, the library would also take playlists that name other files.
VIDEO_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".avi": "avi", ".mkv": "matroska", ".webm": "webm"}
"""Ending to the library's name of the format."""

_COPY_AGAIN = "copy or export it again"
# Cameras for slow motion reach 1000; a header beyond it is more likely wrong.
_MAX_RATE = 1000
_CONTAINER_TICKS_PER_S = 1_000_000


@dataclass(frozen=True)
class _Timeline:
    """What the packets of a video say, before any is decoded.

    Attributes:
        packets: Number of those that are shown, one a frame.
        count: The same, if the file declares it too; None otherwise.
        start: Time of the first frame, in ticks.
        frame_rate: Frames per second, or None if nothing says it.
        is_constant: Whether every frame lies where that rate puts it.
    """

    packets: int
    count: int | None
    start: int
    frame_rate: Fraction | None
    is_constant: bool


def open_video(path: Path) -> FrameSource:
    """Look at a video file: all of its packets, and its first frame.

    Args:
        path: mp4, m4v, mov, avi, mkv or webm. Of several video streams the first counts; sound is ignored.

    Raises:
        InputError: The file is damaged or cut off, holds no frame, or its frames are too large.
        ResourceError: PyAV is not installed, or the system did not let us read.
    """
    with _opened(path) as (container, stream):
        check_frame_size(stream.codec_context.height, stream.codec_context.width, path)
        timeline = _timeline(container, stream, path)
        declared = stream.average_rate
    with _opened(path) as (container, stream):
        first = _next_frame(container.decode(stream), path, f"frame 0 of {timeline.packets}")
        if first is None:
            raise InputError(f"expected frames, got 0 of {timeline.packets}", where=path, fix=_COPY_AGAIN)
        rows, columns = _pixels(first, path, f"frame 0 of {timeline.packets}").shape[:2]
        notes = [*_notes_on_time(timeline, declared), *_notes_on_pixels(first)]

    def read() -> Iterator[Frame]:
        return _read(path, (rows, columns), timeline)

    return FrameSource(
        path, (rows, columns), timeline.count, timeline.frame_rate, timeline.is_constant, tuple(notes), read
    )


def _read(path: Path, size: tuple[int, int], timeline: _Timeline) -> Iterator[Frame]:
    index = 0
    with _opened(path) as (container, stream):
        decoded = container.decode(stream)
        while True:
            which = f"frame {index} of {timeline.packets}"
            frame = _next_frame(decoded, path, which)
            if frame is None:
                break
            pixels = _pixels(frame, path, which)
            if pixels.shape[:2] != size:
                raise InputError(
                    f"{which} has {pixels.shape[1]} x {pixels.shape[0]} pixels, the first one has "
                    f"{size[1]} x {size[0]}",
                    where=path,
                    fix="bring all frames to one size",
                )
            yield Frame(index, f"frame{index:06d}", pixels, _time(frame, stream, index, timeline))
            index += 1
    if timeline.count is not None and index != timeline.count:
        raise InputError(
            f"expected {timeline.count} frames as the file declares, got {index}", where=path, fix=_COPY_AGAIN
        )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video file; gives the library's container and its first video stream."""
    av = require_package("av")
    name = VIDEO_FORMATS[path.suffix.lower()]
    # A file, not a name: the library takes names for addresses of the web or commands of its own.
    with gate.open_regular(path) as file:
        with _explained(path, f"0 frames: cannot be read as {path.suffix.lower()}"):
            container = av.open(file, mode="r", format=name)
        with container:
            if not container.streams.video:
                raise InputError("expected a video, the file has no video stream (0 frames)", where=path)
            if container.streams.video[0].codec_context is None:
                raise InputError(
                    "the video is in a code that PyAV does not know", where=path, fix="convert it to H.264"
                )
            yield container, container.streams.video[0]


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Say in one line what the library raises."""
    with gate.library_errors(path):
        try:
            yield
        except require_package("av").FFmpegError as error:
            # What reading the file raises comes through as it is, so this is about the content, whatever its name.
            if isinstance(error, MemoryError):
                raise
            raise InputError(f"{what} ({error.strerror})", where=path, fix=_COPY_AGAIN) from error


def _timeline(container: Any, stream: Any, path: Path) -> _Timeline:
    """Read all packets, of which no memory is kept, and compare them with what the file declares."""
    rate = stream.average_rate or stream.guessed_rate
    tick = stream.time_base
    total = shown = last = end = 0
    start: int | None = None
    on_grid = bool(rate)
    packets = container.demux(stream)
    while (packet := _next_packet(packets, path, total)) is not None:
        if not packet.size:
            continue  # the library's sign that the stream has ended
        total += 1
        if packet.is_corrupt:
            raise InputError(f"the video is cut off in frame {total - 1} of {_declared(stream)}", where=path,
                             fix=_COPY_AGAIN)  # fmt: skip
        if packet.is_discard:
            continue
        shown += 1
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None:
            on_grid = False
            continue
        start = time if start is None else min(start, time)
        last, end = max(last, time), max(end, time + (packet.duration or 0))
        on_grid = on_grid and _lies_on_grid((time - start) * tick, rate, tick)
    start = start or 0
    declared = stream.frames
    if container.format.name.startswith("mov"):
        # Of a video that was trimmed without new coding, the index has only what is left.
        declared = min(declared, len(stream.index_entries))
    if total < declared:
        raise InputError(f"expected {declared} frames as the file declares, got {total}", where=path,
                         fix=_COPY_AGAIN)  # fmt: skip
    if shown and not stream.frames:
        # Without lengths of its own, the last frame's may be missing in the sum.
        tolerance = Fraction(1, 2) if end > last else Fraction(3, 2)
        _check_duration(container, stream, shown, (end - start) * tick, tolerance, path)
    span_s = (last - start) * tick
    is_constant = on_grid and round(span_s * rate) + 1 == shown
    if not is_constant and span_s > 0 and shown > 1:
        rate = Fraction(shown - 1) / span_s
    return _Timeline(shown, shown if stream.frames else None, start, Fraction(rate) if rate else None, is_constant)


def _lies_on_grid(time_s: Fraction, rate: Fraction, tick: Fraction) -> bool:
    """Say whether a time is a whole number of frames, as exactly as the file's ticks can say it."""
    frames = time_s * rate
    return abs(frames - round(frames)) <= min(tick * rate, Fraction(1, 4))


def _check_duration(
    container: Any, stream: Any, shown: int, length_s: Fraction, tolerance: Fraction, path: Path
) -> None:
    """Compare the length with the one in the header of formats that declare no number of frames.

    Args:
        container: The library's.
        stream: The library's.
        shown: Number of frames found.
        length_s: Time from the first frame to the end of the last one, in s.
        tolerance: Frames that may be missing.
        path: File to name in an error.

    Raises:
        InputError: The end of the video is missing.
    """
    text = stream.metadata.get("DURATION", "")
    if text:
        with _explained(path, f"the declared length {text!r} is not one"):
            hours, minutes, seconds = text.split(":")
            declared_s = int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    elif container.duration and len(container.streams) == 1:
        declared_s = Fraction(container.duration, _CONTAINER_TICKS_PER_S)
    else:
        return
    if declared_s - length_s > tolerance * max(length_s / shown, stream.time_base):
        raise InputError(
            f"the video is cut off: expected {float(declared_s):.3f} s as the file declares, got {shown} frames of "
            f"{float(length_s):.3f} s",
            where=path,
            fix=_COPY_AGAIN,
        )


def _declared(stream: Any) -> str:
    return f"{stream.frames} that the file declares" if stream.frames else "an unknown number"


def _next_packet(packets: Iterator[Any], path: Path, number: int) -> Any:
    with _explained(path, f"cannot be read beyond frame {number}"):
        return next(packets, None)


def _next_frame(frames: Iterator[Any], path: Path, which: str) -> Any:
    with _explained(path, f"{which} cannot be decoded"):
        frame = next(frames, None)
    if frame is not None and frame.is_corrupt:
        raise InputError(f"{which} is damaged", where=path, fix=_COPY_AGAIN)
    return frame


def _pixels(frame: Any, path: Path, which: str) -> NDArray[np.uint8]:
    """Return red, green and blue [H, W, 3] as a viewer shows them: 8 bits, without alpha, turned."""
    check_frame_size(frame.height, frame.width, path)
    turns, rest = divmod(round(frame.rotation), 90)
    if rest or _is_mirrored(frame):
        what = f"turned by {frame.rotation:g} degrees" if rest else "mirrored"
        raise InputError(f"{which} is to be {what}, expected quarter turns", where=path, fix="export the video upright")
    with _explained(path, f"{which} cannot be converted to colours"):
        pixels = frame.to_ndarray(format="rgb24")
    # Both count counter-clockwise.
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _is_mirrored(frame: Any) -> bool:
    matrix = next((one for one in frame.side_data if one.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return False
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).astype(float)
    return bool(a * d - b * c < 0)


def _time(frame: Any, stream: Any, index: int, timeline: _Timeline) -> Fraction | None:
    if frame.pts is not None:
        return Fraction((frame.pts - timeline.start) * stream.time_base)
    return index / timeline.frame_rate if timeline.frame_rate else None


def _notes_on_time(timeline: _Timeline, declared: Fraction | None) -> Iterator[str]:
    rate = timeline.frame_rate
    if rate is None:
        yield f"{timeline.packets} frames without a frame rate"
        return
    if not timeline.is_constant and timeline.packets > 1:
        said = f"{float(declared):g}" if declared else "none"
        yield (
            f"the frame rate varies: each of {timeline.packets} frames keeps its time; the mean is {float(rate):.3f} "
            f"frames per second (declared: {said})"
        )
    if rate > _MAX_RATE:
        yield f"{float(rate):g} frames per second are hardly right; frames are taken in order all the same"


def _notes_on_pixels(frame: Any) -> Iterator[str]:
    bits = max(component.bits for component in frame.format.components)
    if bits > 8:
        yield f"colours of {bits} bits are reduced to 8"
    if any(component.is_alpha for component in frame.format.components):
        yield "the alpha channel is left out"
    if not frame.format.is_rgb and sum(not component.is_alpha for component in frame.format.components) == 1:
        yield "the frames are grey"
    if frame.rotation:
        yield f"frames are turned by {round(frame.rotation)} degrees as the file says"
