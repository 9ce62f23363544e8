"""Figure of a video: frames with reference, prediction and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.io.video.frame_folder import frame_files, read_frame
from masam.io.video.label_frames import label_files, read_labels
from masam.io.video.reader import open_frames
from masam.labels import LabelScheme
from masam.report.panels import Row, draw_panels, slice_weights, to_channels
from masam.report.planes import select_slices

_MAX_TITLE_LETTERS = 40
# Longer side of a drawn frame in pixels, twice that of its panel. Larger frames only take longer to draw.
_MAX_PIXELS = 820


def frame_overlay(video: Path, labels: Sequence[tuple[str, Path]], scheme: LabelScheme, *, frames: int = 3) -> bytes:
    """Draw frames with many labels or errors in colour, as a PNG file.

    Each row is a frame, with a panel per labelling and a panel with the errors of each prediction. The labellings are
    given by title and folder of label frames, the reference first. At most ``frames`` frames are selected from the
    reference; a frame without a prediction is drawn as an empty prediction. Labels are read one frame at a time, and
    only the selected frames of the video are kept in memory.
    """
    if not labels:
        raise InputError("expected at least one folder of label frames to draw", where="labels")
    files = [label_files(folder) for _, folder in labels]
    names = list(files[0])
    if not names:
        raise InputError("expected label frames (PNG files), found none", where=labels[0][1])
    table = to_channels(np.arange(256), scheme)
    ignored = np.arange(256) == scheme.ignore_value
    weights = np.array([float(slice_weights(_channels(name, files, table, ignored))) for name in names])
    chosen = select_slices(weights, frames)
    pixels = _frames(video, [names[index] for index in chosen])
    rows = []
    for index in chosen:
        name = names[index]
        channels = _channels(name, files, table, ignored)
        if pixels[name].shape[:2] != channels[0].shape:
            sizes = [f"{width} x {height}" for height, width in (pixels[name].shape[:2], channels[0].shape)]
            raise InputError(f"frame {name} has {sizes[0]} pixels, its label {sizes[1]}", where=video)
        short = name if len(name) <= _MAX_TITLE_LETTERS else f"...{name[3 - _MAX_TITLE_LETTERS :]}"
        height, width = channels[0].shape
        step = -(-max(height, width) // _MAX_PIXELS)
        rows.append(Row(short, _reduced(pixels[name], step), [_subsampled(label, step) for label in channels]))
    caption = f"{width} x {height} pixels  ·  {len(rows)} of {len(names)} labelled frames"
    return draw_panels(rows, [title for title, _ in labels], scheme, caption=caption)


def _channels(
    name: str, files: Sequence[dict[str, Path]], table: NDArray[np.uint16], ignored: NDArray[np.bool_]
) -> list[NDArray[np.uint16]]:
    """Return the channel numbers of a frame in each labelling; ignored pixels of the reference are background.

    ``table`` and ``ignored`` map label values to channel numbers and to whether they are the ignore value.
    """
    reference = read_labels(files[0][name])
    channels = [table[reference]]
    for predictions in files[1:]:
        prediction = read_labels(predictions[name]) if name in predictions else np.zeros_like(reference)
        if prediction.shape != reference.shape:
            raise InputError(
                f"expected {reference.shape[1]} x {reference.shape[0]} pixels as in the reference, got "
                f"{prediction.shape[1]} x {prediction.shape[0]}",
                where=predictions[name],
            )
        channels.append(np.where(ignored[reference], 0, table[prediction]).astype(np.uint16))
    return channels


def _reduced(pixels: NDArray[np.uint8], step: int) -> NDArray[np.float32]:
    """Return the mean colour of each complete block of ``step`` x ``step`` pixels, from 0 to 1."""
    rows, columns = (length // step for length in pixels.shape[:2])
    blocks = pixels[: rows * step, : columns * step].reshape(rows, step, columns, step, 3)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32) / np.float32(255))


def _subsampled(labels: NDArray[np.uint16], step: int) -> NDArray[np.uint16]:
    """Return the central label of each block of ``step`` x ``step`` pixels."""
    rows, columns = (length // step for length in labels.shape)
    return labels[step // 2 : rows * step : step, step // 2 : columns * step : step]


def _frames(video: Path, names: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
    """Return the pixels of the named frames."""
    if video.is_dir():
        files = {file.stem: file for file in frame_files(video)}
        found = {name: read_frame(files[name]) for name in names if name in files}
    else:
        found = {}
        for frame in open_frames(video):
            if frame.name in names:
                found[frame.name] = frame.pixels
            if len(found) == len(names):
                break
    if absent := [name for name in names if name not in found]:
        raise InputError(f"expected a frame {absent[0]}, which has a label", where=video, fix="check the video")
    return found
