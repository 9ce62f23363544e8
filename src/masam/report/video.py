"""A video on a page: its most telling frames with reference and prediction side by side, and where they differ."""

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
from masam.report.panels import Row, draw_panels, telling_weight, to_channels
from masam.report.planes import telling_slices

# What fits beside a panel.
_MOST_LETTERS = 40
# Longer side of a drawn frame, in pixels: twice that of its panel. Outlines of larger ones take time to no effect.
_MOST_PIXELS = 820


def frame_overlay(video: Path, labels: Sequence[tuple[str, Path]], scheme: LabelScheme, *, frames: int = 3) -> bytes:
    """Draw the most telling frames of a video, whole and in their colours.

    A row a frame; a panel for each labelling, then, for each one after the first, a panel of its errors against it. The
    labels are read one frame after the other; of the video no more than the chosen frames are kept.

    Args:
        video: Video file or folder of frames.
        labels: Title and folder of label frames, the reference first: it says which frames there are to choose from. A
            frame without prediction holds nothing.
        scheme: Names and colours of the classes.
        frames: Most frames to show.

    Returns:
        A PNG file.

    Raises:
        InputError: There is no labelling, the reference has no label frame, a frame or a label is refused, sizes
            differ, or a labelled frame is not in the video.
        ResourceError: A package is missing, or the system did not let us read.
    """
    if not labels:
        raise InputError("expected at least one folder of label frames to draw", where="labels")
    files = [label_files(folder) for _, folder in labels]
    names = list(files[0])
    if not names:
        raise InputError("expected label frames (PNG files), found none", where=labels[0][1])
    table = to_channels(np.arange(256), scheme)
    ignored = np.arange(256) == scheme.ignore_value
    weights = np.array([float(telling_weight(_channels(name, files, table, ignored))) for name in names])
    chosen = telling_slices(weights, frames)
    pixels = _frames(video, [names[index] for index in chosen])
    rows = []
    for index in chosen:
        name = names[index]
        channels = _channels(name, files, table, ignored)
        if pixels[name].shape[:2] != channels[0].shape:
            sizes = [f"{columns} x {rows}" for rows, columns in (pixels[name].shape[:2], channels[0].shape)]
            raise InputError(f"frame {name} has {sizes[0]} pixels, its label {sizes[1]}", where=video)
        short = name if len(name) <= _MOST_LETTERS else f"...{name[3 - _MOST_LETTERS :]}"
        height, width = channels[0].shape
        step = -(-max(height, width) // _MOST_PIXELS)
        rows.append(Row(short, _reduced(pixels[name], step), [_sampled(one, step) for one in channels]))
    caption = f"{width} x {height} pixels  ·  {len(rows)} of {len(names)} labelled frames"
    return draw_panels(rows, [title for title, _ in labels], scheme, caption=caption)


def _channels(
    name: str, files: Sequence[dict[str, Path]], table: NDArray[np.uint16], ignored: NDArray[np.bool_]
) -> list[NDArray[np.uint16]]:
    """Return a frame's channel numbers in each labelling, background where the reference has the ignore label.

    Args:
        name: Of the frame.
        files: Of each labelling, the reference first.
        table: Channel number of each label value.
        ignored: Whether a label value is the ignore label.
    """
    truth = read_labels(files[0][name])
    channels = [table[truth]]
    for further in files[1:]:
        guess = read_labels(further[name]) if name in further else np.zeros_like(truth)
        if guess.shape != truth.shape:
            raise InputError(
                f"expected {truth.shape[1]} x {truth.shape[0]} pixels as in the reference, got "
                f"{guess.shape[1]} x {guess.shape[0]}",
                where=further[name],
            )
        channels.append(np.where(ignored[truth], 0, table[guess]).astype(np.uint16))
    return channels


def _reduced(pixels: NDArray[np.uint8], step: int) -> NDArray[np.float32]:
    """Return colours of 0 to 1, of each block of ``step`` x ``step`` pixels the mean."""
    rows, columns = (length // step for length in pixels.shape[:2])
    # What does not fill a block, at the rim, is left out.
    blocks = pixels[: rows * step, : columns * step].reshape(rows, step, columns, step, 3)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32) / np.float32(255))


def _sampled(labels: NDArray[np.uint16], step: int) -> NDArray[np.uint16]:
    """Return the middle label of each such block."""
    rows, columns = (length // step for length in labels.shape)
    return labels[step // 2 : rows * step : step, step // 2 : columns * step : step]


def _frames(video: Path, names: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
    """Return the pixels of some frames by name."""
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
        raise InputError(
            f"expected a frame {absent[0]}, as there is a label of that name", where=video, fix="check the video"
        )
    return found
