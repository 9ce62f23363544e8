"""Data sets of videos: a case is a folder of frames or a video file, its labels a folder of indexed PNG, one a frame.

``imagesTr/CASE/`` or ``imagesTr/CASE.mp4``, ``labelsTr/CASE/``, and the same with ``Ts`` for testing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from masam.cases.case import Case
from masam.errors import InputError, ResourceError, some_of
from masam.io import gate
from masam.io.nifti.file import ENDINGS
from masam.io.video.frame_folder import FRAME_ENDINGS
from masam.io.video.label_frames import label_files, read_labels
from masam.io.video.reader import VIDEO_ENDINGS, FrameSource, is_video, open_frames
from masam.progress import Progress, Silent

CHANNELS = ("R", "G", "B")
"""Channel names of every data set of videos."""

UNLABELLED = -100
"""Label of the pixels of frames that have no label file; the loss leaves them out."""


def is_video_ending(ending: Any) -> bool:
    """Say whether a ``file_ending`` of ``dataset.json`` is that of a data set of videos."""
    return ending in (*FRAME_ENDINGS, *VIDEO_ENDINGS)


def is_video_case(case: Case) -> bool:
    """Say whether a case is a video: a video file or a folder of frames.

    Raises:
        ResourceError: The system did not let us read.
    """
    return len(case.images) == 1 and is_video(case.images[0])


def read_video_cases(
    root: Path, content: Mapping[str, Any], channels: Sequence[str], file: Path
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Find the cases of a data set of videos; frames are not looked at.

    Args:
        root: The data set's folder.
        content: What ``dataset.json`` holds.
        channels: Its channel names.
        file: ``dataset.json``, to name in an error.

    Returns:
        Cases for training and for testing, sorted by id.

    Raises:
        InputError: The channels are not R, G and B, or videos and labels do not pair up.
        ResourceError: The system did not let us read.
    """
    if tuple(channels) != CHANNELS:
        raise InputError(
            f'expected the channels {{"0": "R", "1": "G", "2": "B"}} of a video, got {list(channels)}',
            where=f"{file}: channel_names",
        )
    ending = str(content["file_ending"])
    training = _pair(root / "imagesTr", root / "labelsTr", ending)
    test = _pair(root / "imagesTs", root / "labelsTs", ending)
    if alone := [case.id for case in training if case.label is None]:
        raise InputError(f"no folder of labels for video {some_of(sorted(alone))}", where=root / "labelsTr")
    expected = content.get("numTraining", len(training))
    if expected != len(training):
        raise InputError(
            f"dataset.json says {expected!r} training cases, found {len(training)}", where=root / "imagesTr"
        )
    return training, test


def holds_videos(path: Path) -> bool:
    """Say whether a path is a video, or a folder of videos and not of volumes.

    Raises:
        ResourceError: The system did not let us read.
    """
    if is_video(path):
        # Pictures beside volumes are previews.
        return not path.is_dir() or not any(one.name.lower().endswith(ENDINGS) for one in _visible(path))
    inside = _visible(path)
    return not any(one.name.lower().endswith(ENDINGS) for one in inside) and any(is_video(one) for one in inside)


def find_videos(path: Path) -> tuple[Case, ...]:
    """Find videos to predict on.

    Args:
        path: A video file, a folder of frames, or a folder of such files and folders.

    Returns:
        Cases without labels, sorted by id.

    Raises:
        InputError: There is no video, or two of them have one name.
        ResourceError: The system did not let us read.
    """
    if is_video(path):
        # A folder may be given as "." or "..", whose own name says nothing.
        return (Case(_id(path.resolve() if path.is_dir() else path), (path,)),)
    found = [one for one in _visible(path) if is_video(one)]
    if not found:
        raise InputError("expected a video, a folder of frames or a folder of them, got none", where=path)
    return tuple(Case(case_id, (one,)) for case_id, one in sorted(_by_id(found, path).items()))


def load_video_case(
    case: Case,
    *,
    unlabelled: Literal["refuse", "ignore"] = "refuse",
    progress: Progress | None = None,
    max_bytes: int = gate.MAX_VOLUME_BYTES,
) -> tuple[NDArray[np.uint8], NDArray[np.int16] | None]:
    """Read all frames of a case, and their labels if it has any, frame by frame into arrays of their final size.

    Args:
        case: A case whose image is a video file or a folder of frames.
        unlabelled: What frames without a label file are, in a case that has labels: an error, or ``UNLABELLED``
            everywhere, which the progress is told.
        progress: Told what the reader says of the frames, and how many have no label.
        max_bytes: Most memory that frames and labels may take.

    Returns:
        Frames [T, H, W, 3] and label values [T, H, W], or None for a case without labels.

    Raises:
        InputError: A frame or a label is refused, a label belongs to no frame, or a frame has none.
        ResourceError: Memory does not suffice, a package is missing, or the system did not let us read.
    """
    source = open_frames(case.images[0])
    progress = progress or Silent()
    for note in source.notes:
        progress.say(f"{case.id}: {note}")
    count = source.count if source.count is not None else sum(1 for _ in source)
    files = {} if case.label is None else label_files(case.label)
    frame_bytes = source.size[0] * source.size[1] * (3 if case.label is None else 5)
    if count * frame_bytes > max_bytes:
        raise ResourceError(
            f"{count} frames of {source.size[1]} x {source.size[0]} pixels need {count * frame_bytes} bytes, more "
            f"than the {max_bytes} that are accepted",
            where=case.images[0],
            fix="cut the video into shorter ones",
        )
    with gate.os_errors(case.images[0]):
        frames = np.empty((count, *source.size, 3), np.uint8)
        labels = None if case.label is None else np.full((count, *source.size), UNLABELLED, np.int16)
    without = []
    for frame in source:
        frames[frame.index] = frame.pixels
        if labels is None:
            continue
        file = files.pop(frame.name, None)
        if file is None:
            without.append(frame.name)
        else:
            labels[frame.index] = _labels_of(file, source)
    if files:
        raise InputError(f"no frame for label {some_of(sorted(files))} ({count} frames)", where=case.label)
    if without and labels is not None:
        if unlabelled == "refuse" or len(without) == count:
            raise InputError(
                f"no label for {len(without)} of {count} frames ({some_of(sorted(without))})",
                where=case.label,
                fix="add them, or let frames without a label be ignored",
            )
        progress.say(f"{case.id}: {len(without)} of {count} frames have no label; they do not count")
    return frames, labels


def _labels_of(file: Path, source: FrameSource) -> NDArray[np.uint8]:
    labels = read_labels(file)
    if labels.shape != source.size:
        raise InputError(
            f"expected {source.size[1]} x {source.size[0]} pixels like the frames, got "
            f"{labels.shape[1]} x {labels.shape[0]}",
            where=file,
            fix="store labels at the size of their frames",
        )
    return labels


def _pair(images: Path, labels: Path, ending: str) -> tuple[Case, ...]:
    """Return the cases of a folder of videos, each with its folder of labels if there is one."""
    is_file = ending in VIDEO_ENDINGS
    videos = [
        one for one in _visible(images) if (one.suffix.lower() == ending if is_file else one.is_dir() and is_video(one))
    ]
    folders = [one for one in _visible(labels) if one.is_dir()]
    by_id = _by_id(folders, labels)
    found = tuple(Case(case_id, (one,), by_id.pop(case_id, None)) for case_id, one in _by_id(videos, images).items())
    if by_id:
        raise InputError(f"no video for the labels of {some_of(sorted(by_id))}", where=images)
    return tuple(sorted(found, key=lambda case: case.id))


def _visible(folder: Path) -> list[Path]:
    with gate.os_errors(folder):
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry for entry in entries if not entry.name.startswith(".")]


def _by_id(paths: Sequence[Path], where: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    spelling: dict[str, Path] = {}
    for path in paths:
        first = spelling.setdefault(_id(path).casefold(), path)
        if first != path:
            raise InputError(
                f"{first.name} and {path.name} are one case on some systems or by id", where=where,
                fix="rename or remove one",
            )  # fmt: skip
        found[_id(path)] = path
    return found


def _id(path: Path) -> str:
    # Only what is no folder has an ending: a folder's name may hold dots.
    name = path.name if path.is_dir() else path.stem
    return unicodedata.normalize("NFC", name)
