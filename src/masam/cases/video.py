"""Data sets of videos: a case is a folder of frames or a video file, its labels are a folder of indexed PNG files.

``imagesTr/CASE/`` or ``imagesTr/CASE.mp4``, ``labelsTr/CASE/``; test cases end in ``Ts`` instead of ``Tr``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from masam.cases.case import Case
from masam.cases.grouping import Faults, check_num_training, index_by_case, pair_with_labels
from masam.cases.names import list_files, visible_entries
from masam.errors import InputError, ResourceError, some_of
from masam.io import gate
from masam.io.video.frame_folder import FRAME_ENDINGS
from masam.io.video.frames import FrameSource
from masam.io.video.label_frames import label_files, read_labels
from masam.io.video.reader import VIDEO_ENDINGS, is_video, open_frames
from masam.progress import Progress, Silent

CHANNELS = ("R", "G", "B")
"""Channel names of every video data set."""

UNLABELLED = -100
"""Label of all pixels of a frame without a label file; the loss ignores it."""


def is_video_ending(ending: Any) -> bool:
    """Return whether a ``file_ending`` of ``dataset.json`` denotes a video data set."""
    return ending in (*FRAME_ENDINGS, *VIDEO_ENDINGS)


def is_video_case(case: Case) -> bool:
    """Return whether the image of a case is a video file or a folder of frames."""
    return len(case.images) == 1 and is_video(case.images[0])


def read_video_cases(
    root: Path, content: Mapping[str, Any], channels: Sequence[str] | None, faults: Faults
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """List the training and test cases of a video data set, sorted by id; ``channels`` are None if unknown.

    Wrong channels, and videos and labels that do not pair up, are faults. Frames are not read.
    """
    ending = str(content["file_ending"])
    if channels is not None and tuple(channels) != CHANNELS:
        faults.add(
            f'file_ending {ending} requires the channels {{"0": "R", "1": "G", "2": "B"}}, got {list(channels)}',
            where=f"{root / 'dataset.json'}: channel_names",
            fix="correct file_ending or channel_names",
        )
    images, labels = _videos(root / "imagesTr", ending, faults), _label_folders(root / "labelsTr", faults)
    training = pair_with_labels(
        [Case(case_id, (path,)) for case_id, path in images.items()],
        labels,
        root / "labelsTr",
        lambda case_id: f"{root / 'imagesTr' / case_id}{ending if ending in VIDEO_ENDINGS else ''}",
        faults,
    )
    check_num_training(content, len(training), root, faults)
    labels = _label_folders(root / "labelsTs", faults)
    test = _videos(root / "imagesTs", ending, faults)
    return training, tuple(Case(case_id, (path,), labels.get(case_id)) for case_id, path in test.items())


def holds_videos(path: Path) -> bool:
    """Return whether a path is a video, or a folder that contains videos and no volumes."""
    if is_video(path):
        # Image files beside volumes are previews.
        return not path.is_dir() or not list_files(path)
    return not list_files(path) and any(map(is_video, visible_entries(path)))


def find_videos(path: Path) -> tuple[Case, ...]:
    """Find the videos to predict in a path: a video file, a folder of frames, or a folder of these."""
    if is_video(path):
        # Resolved, since a folder may be given as "." or "..".
        return (Case(_case_id(path.resolve() if path.is_dir() else path), (path,)),)
    videos = [entry for entry in visible_entries(path) if is_video(entry)]
    if not videos:
        raise InputError(
            "expected a video, a folder of frames or a folder of these, found no video",
            where=path,
            fix="check the path",
        )
    return tuple(Case(case_id, (video,)) for case_id, video in index_by_case(videos, _case_id, path).items())


def load_video_case(
    case: Case,
    *,
    unlabelled: Literal["refuse", "ignore"] = "refuse",
    progress: Progress | None = None,
    max_bytes: int = gate.MAX_VOLUME_BYTES,
) -> tuple[NDArray[np.uint8], NDArray[np.int16] | None]:
    """Read all frames of a case, and their labels if it has any.

    Args:
        case: Case whose image is a video file or a folder of frames.
        unlabelled: Whether frames without a label file are an error, or get the label ``UNLABELLED``.
        progress: Receives notes on the video and the number of frames without a label.
        max_bytes: Maximum memory for frames and labels.

    Returns:
        Frames [T, H, W, 3] and label values [T, H, W], or None for a case without labels.

    Raises:
        InputError: A frame or label is not valid, a label has no frame, or a frame has no label.
        ResourceError: There is not enough memory, a package is missing, or a file cannot be read.
    """
    source = open_frames(case.images[0])
    progress = progress or Silent()
    for note in source.notes:
        progress.log(f"{case.id}: {note}")
    count = source.count if source.count is not None else sum(1 for _ in source)
    files = {} if case.label is None else label_files(case.label)
    rows, columns = source.size
    total_bytes = count * rows * columns * (3 if case.label is None else 5)
    if total_bytes > max_bytes:
        raise ResourceError(
            f"{count} frames of {columns} x {rows} pixels require {total_bytes} bytes, the limit is {max_bytes}",
            where=case.images[0],
            fix="split the video into shorter ones",
        )
    with gate.os_errors(case.images[0]):
        frames = np.empty((count, rows, columns, 3), np.uint8)
        labels = None if case.label is None else np.full((count, rows, columns), UNLABELLED, np.int16)
    missing = []
    for frame in source:
        frames[frame.index] = frame.pixels
        if labels is None:
            continue
        if (file := files.pop(frame.name, None)) is None:
            missing.append(frame.name)
        else:
            labels[frame.index] = _read_labels(file, source)
    if files:
        raise InputError(f"no frame for label {some_of(sorted(files))} ({count} frames)", where=case.label)
    if missing and labels is not None:
        if unlabelled == "refuse" or len(missing) == count:
            raise InputError(
                f"no label for {len(missing)} of {count} frames ({some_of(sorted(missing))})",
                where=case.label,
                fix="add the labels, or allow frames without a label to be ignored",
            )
        progress.log(f"{case.id}: {len(missing)} of {count} frames have no label and are ignored")
    return frames, labels


def _read_labels(file: Path, source: FrameSource) -> NDArray[np.uint8]:
    labels = read_labels(file)
    if labels.shape != source.size:
        raise InputError(
            f"expected {source.size[1]} x {source.size[0]} pixels like the frames, got "
            f"{labels.shape[1]} x {labels.shape[0]}",
            where=file,
            fix="store labels at the size of their frames",
        )
    return labels


def _videos(folder: Path, ending: str, faults: Faults) -> dict[str, Path]:
    """Return the video files with an ending, or the folders of frames if it is an ending of image files."""
    is_file = ending in VIDEO_ENDINGS
    videos = [
        entry
        for entry in visible_entries(folder)
        if (entry.suffix.lower() == ending if is_file else entry.is_dir() and is_video(entry))
    ]
    return index_by_case(videos, _case_id, folder, faults)


def _label_folders(folder: Path, faults: Faults) -> dict[str, Path]:
    return index_by_case([entry for entry in visible_entries(folder) if entry.is_dir()], _case_id, folder, faults)


def _case_id(path: Path) -> str:
    # The name of a folder may contain dots.
    return unicodedata.normalize("NFC", path.name if path.is_dir() else path.stem)
