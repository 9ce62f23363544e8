"""Read video files with PyAV; the declared length is checked before decoding and at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.io import gate
from masam.io.packages import require_package
from masam.io.video.frames import Frame, FrameSource, check_frame_size

# The format is chosen by the ending: automatic detection would accept playlists that refer to other files.
VIDEO_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".avi": "avi", ".mkv": "matroska", ".webm": "webm"}
"""PyAV's format name by file name ending."""

_COPY = "copy or export it again"
# Cameras for slow motion reach 1000 frames per second; larger values are probably wrong.
_MAX_RATE = 1000
_CONTAINER_TICKS_PER_S = 1_000_000


@dataclass(frozen=True)
class _Timeline:
    """Timing of a video, from its packets.

    Attributes:
        packets: Number of displayed packets, one per frame.
        count: The same if the file declares a number of frames; None otherwise.
        start: Time of the first frame, in ticks.
        frame_rate: Frames per second, or None if unknown.
        is_constant: Whether the frame rate is constant.
    """

    packets: int
    count: int | None
    start: int
    frame_rate: Fraction | None
    is_constant: bool


def open_video(path: Path) -> FrameSource:
    """Open the first video stream of a file; all packets are read, and the first frame is decoded."""
    with _opened(path) as (container, stream):
        check_frame_size(stream.codec_context.height, stream.codec_context.width, path)
        timeline = _timeline(container, stream, path)
        declared = stream.average_rate
    with _opened(path) as (container, stream):
        first = _next_frame(container.decode(stream), path, f"frame 0 of {timeline.packets}")
        if first is None:
            raise InputError(f"expected frames, decoded 0 of {timeline.packets}", where=path, fix=_COPY)
        rows, columns = _pixels(first, path, f"frame 0 of {timeline.packets}").shape[:2]
        notes = [*_notes_on_time(timeline, declared), *_notes_on_pixels(first)]

    read = partial(_read, path, (rows, columns), timeline)
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
                    fix="convert all frames to one size",
                )
            yield Frame(index, f"frame{index:06d}", pixels, _time(frame, stream, index, timeline))
            index += 1
    if timeline.count is not None and index != timeline.count:
        raise InputError(f"expected {timeline.count} frames as the file declares, got {index}", where=path, fix=_COPY)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video file and return PyAV's container and its first video stream."""
    av = require_package("av")
    name = VIDEO_FORMATS[path.suffix.lower()]
    # A file, not a name: FFmpeg interprets names as URLs and protocols.
    with gate.open_regular(path) as file:
        with _pyav_errors(path, f"0 frames: cannot be read as {path.suffix.lower()}"):
            container = av.open(file, mode="r", format=name)
        with container:
            if not container.streams.video:
                raise InputError("expected a video, the file has no video stream (0 frames)", where=path)
            if container.streams.video[0].codec_context is None:
                raise InputError("PyAV does not support the codec of the video", where=path, fix="convert it to H.264")
            yield container, container.streams.video[0]


@contextmanager
def _pyav_errors(path: Path, what: str) -> Iterator[None]:
    """Translate exceptions of PyAV into an InputError with this message."""
    with gate.library_errors(path):
        try:
            yield
        except require_package("av").FFmpegError as error:
            # Errors of reading the file are passed through unchanged, so this one concerns the content.
            if isinstance(error, MemoryError):
                raise
            raise InputError(f"{what} ({error.strerror})", where=path, fix=_COPY) from error


def _timeline(container: Any, stream: Any, path: Path) -> _Timeline:
    """Read all packets without keeping them, and compare them with the declared number and duration."""
    rate = stream.average_rate or stream.guessed_rate
    tick = stream.time_base
    total = shown = last = end = 0
    start: int | None = None
    on_grid = bool(rate)
    packets = container.demux(stream)
    while (packet := _next_packet(packets, path, total)) is not None:
        if not packet.size:
            continue  # PyAV's end-of-stream packet
        total += 1
        if packet.is_corrupt:
            declared = f"{stream.frames} frames" if stream.frames else "no number of frames"
            raise InputError(f"the video is cut off at frame {total - 1} (declared: {declared})", where=path, fix=_COPY)
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
    frames = stream.frames
    if container.format.name.startswith("mov"):
        # If a video was trimmed without re-encoding, the index only has the remaining frames.
        frames = min(frames, len(stream.index_entries))
    if total < frames:
        raise InputError(f"expected {frames} frames as the file declares, got {total}", where=path, fix=_COPY)
    if shown and not stream.frames:
        # Without packet durations, that of the last frame is missing in the sum.
        tolerance = Fraction(1, 2) if end > last else Fraction(3, 2)
        _check_duration(container, stream, shown, (end - start) * tick, tolerance, path)
    span_s = (last - start) * tick
    is_constant = on_grid and round(span_s * rate) + 1 == shown
    if not is_constant and span_s > 0 and shown > 1:
        rate = Fraction(shown - 1) / span_s
    return _Timeline(shown, shown if stream.frames else None, start, Fraction(rate) if rate else None, is_constant)


def _lies_on_grid(time_s: Fraction, rate: Fraction, tick: Fraction) -> bool:
    """Return whether a time is a multiple of the frame duration, to the precision of the ticks."""
    frames = time_s * rate
    return abs(frames - round(frames)) <= min(tick * rate, Fraction(1, 4))


def _check_duration(
    container: Any, stream: Any, shown: int, length_s: Fraction, tolerance: Fraction, path: Path
) -> None:
    """Compare the duration ``length_s`` of ``shown`` frames with the declared one; ``tolerance`` is in frames."""
    text = stream.metadata.get("DURATION", "")
    if text:
        with _pyav_errors(path, f"the declared duration {text!r} is not valid"):
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
            fix=_COPY,
        )


def _next_packet(packets: Iterator[Any], path: Path, number: int) -> Any:
    with _pyav_errors(path, f"cannot be read beyond frame {number}"):
        return next(packets, None)


def _next_frame(frames: Iterator[Any], path: Path, which: str) -> Any:
    with _pyav_errors(path, f"{which} cannot be decoded"):
        frame = next(frames, None)
    if frame is not None and frame.is_corrupt:
        raise InputError(f"{which} is damaged", where=path, fix=_COPY)
    return frame


def _pixels(frame: Any, path: Path, which: str) -> NDArray[np.uint8]:
    """Return the displayed image [H, W, 3] in red, green and blue: 8 bits, without alpha, rotated."""
    check_frame_size(frame.height, frame.width, path)
    turns, rest = divmod(round(frame.rotation), 90)
    if rest or _is_mirrored(frame):
        what = f"rotated by {frame.rotation:g} degrees" if rest else "mirrored"
        raise InputError(
            f"{which} is {what}, only quarter turns are supported", where=path, fix="export the video upright"
        )
    with _pyav_errors(path, f"{which} cannot be converted to RGB"):
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
        yield (
            f"the frame rate varies and all {timeline.packets} frames keep their times; the mean is {float(rate):.3f} "
            f"frames per second (declared: {f'{float(declared):g}' if declared else 'none'})"
        )
    if rate > _MAX_RATE:
        yield f"the frame rate of {float(rate):g} frames per second is implausible; all frames are used in order"


def _notes_on_pixels(frame: Any) -> Iterator[str]:
    bits = max(component.bits for component in frame.format.components)
    if bits > 8:
        yield f"{bits}-bit colours are reduced to 8 bits"
    if any(component.is_alpha for component in frame.format.components):
        yield "the alpha channel is ignored"
    if not frame.format.is_rgb and sum(not component.is_alpha for component in frame.format.components) == 1:
        yield "the frames are grey"
    if frame.rotation:
        yield f"frames are rotated by {round(frame.rotation)} degrees, as declared"
