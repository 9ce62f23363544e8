"""Predict many videos: a folder of label frames each, whole or not there; a rerun keeps what is done."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam import atomic
from masam.cases.folder import Case
from masam.errors import ConfigError, InputError
from masam.io.video.frames import Frame, FrameSource
from masam.io.video.label_frames import write_labels
from masam.io.video.overlay import OVERLAY_ENDING, OverlayWriter, overlay_folder, overlay_video
from masam.io.video.reader import open_frames, video_sha256
from masam.labels import LabelScheme
from masam.predict.cohort import Cohort, is_one_of, require_no_others, run_cases
from masam.predict.predictor import Predictor
from masam.predict.video import predict_video, require_predictable
from masam.progress import Progress


def predict_videos(
    predictor: Predictor, cases: Sequence[Case], out: Path, progress: Progress, *, overlay: bool = False
) -> Cohort:
    """Segment videos and write ``out/CASE/FRAME.png`` for each frame.

    A case is written aside under a hidden name and appears when its last frame is verified, so a folder of that name is
    always a whole one. What an earlier run finished is kept if its own bytes, the video's, the model and the settings
    are what they were; a case that was interrupted is done again from its first frame.

    Args:
        predictor: Model and settings.
        cases: What to segment.
        out: Folder to write to; it is made if need be.
        progress: Told of each frame, of what readers say about videos, and of each video that failed.
        overlay: Also write the labels drawn over the frames: ``CASE.overlay.mp4`` for a video file, PNG files in
            ``CASE.overlay`` for a folder of frames.

    Returns:
        What came of each case. A video that is refused does not end the batch; a full disk does.

    Raises:
        ResourceError: The folder cannot be written, a package is missing, or memory ran out.
        InputError: There is no case.
        ConfigError: The folder holds the videos themselves, or results that are not of an earlier run; or a setting is
            for volumes only.
        ModelError: The model is not for video.
    """
    if not cases:
        raise InputError("expected at least one video, found none")
    require_predictable(predictor, cases[0].images[0])
    _require_own_folder(cases, out)

    def is_whole(case: Case, entry: Mapping[str, Any]) -> bool:
        if not _has_hash(out / case.id, entry.get("labels_sha256")):
            return False
        return not overlay or _has_hash(out / str(entry.get("overlay")), entry.get("overlay_sha256"))

    def write(case: Case, title: str) -> dict[str, Any]:
        source = open_frames(case.images[0])
        _say(progress, title, source)
        return _write(predictor, source, out / case.id, progress, overlay)

    return run_cases(predictor, cases, out, progress, lambda case: video_sha256(case.images[0]), is_whole, write)


def _write(
    predictor: Predictor, source: FrameSource, target: Path, progress: Progress, overlay: bool
) -> dict[str, Any]:
    """Segment a video and write its labels; returns what the record keeps of it."""
    scheme = predictor.plan.scheme
    drawn = _overlay_path(target, source.path)

    def write(aside: Path) -> int:
        aside.mkdir()
        with _overlay(aside.with_name(drawn.name), source, scheme) if overlay else nullcontext() as writer:

            def sink(frame: Frame, labels: NDArray[np.uint8]) -> None:
                write_labels(aside / f"{frame.name}.png", labels, scheme)
                if writer is not None:
                    writer.write(frame, labels)

            return predict_video(predictor, source, sink, progress)

    if not overlay:
        _remove(drawn)  # of an earlier run, whose labels go
    frames = atomic.write_aside(target, write, replace=True)
    rate = source.frame_rate
    return {
        "labels_sha256": video_sha256(target),
        "frames": frames,
        "frame_rate": None if rate is None else str(rate),
        "notes": list(source.notes),
        "overlay": drawn.name if overlay else None,
        "overlay_sha256": video_sha256(drawn) if overlay else None,
    }


def _overlay_path(target: Path, video: Path) -> Path:
    return target.with_name(f"{target.name}{OVERLAY_ENDING}{'' if video.is_dir() else '.mp4'}")


def _overlay(path: Path, source: FrameSource, scheme: LabelScheme) -> AbstractContextManager[OverlayWriter]:
    return overlay_video(path, source, scheme) if path.suffix == ".mp4" else overlay_folder(path, scheme)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _say(progress: Progress, title: str, source: FrameSource) -> None:
    count = "an unknown number of" if source.count is None else str(source.count)
    progress.say(f"{title}, {count} frames of {source.size[1]} x {source.size[0]} pixels")
    for note in source.notes:
        progress.say(f"{title}: {note}")


def _require_own_folder(cases: Sequence[Case], out: Path) -> None:
    """Refuse a folder where labels would take the place of videos or of somebody's files."""
    fix = "name another folder with --out"
    videos = [case.images[0] for case in cases]
    if is_one_of(out, [folder for video in videos for folder in (video, video.parent)]):
        raise ConfigError("the folder holds the videos; labels would lie among them", where=out, fix=fix)
    paths = [path for case in cases for path in (out / case.id, _overlay_path(out / case.id, case.images[0]))]
    require_no_others(out, [path.name for path in paths])


def _has_hash(path: Path, sha256: Any) -> bool:
    try:
        return path.exists() and video_sha256(path) == sha256
    except InputError:
        return False  # one of its files has been emptied, say
