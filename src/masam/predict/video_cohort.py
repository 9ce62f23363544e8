"""Predict videos: one folder of label frames per case, which appears only when it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam import atomic
from masam.cases.case import Case
from masam.errors import InputError
from masam.io.video.frames import Frame, FrameSource
from masam.io.video.label_frames import write_labels
from masam.io.video.overlay import OVERLAY_ENDING, OverlayWriter, overlay_folder, overlay_video
from masam.io.video.reader import open_frames, video_sha256
from masam.labels import LabelScheme
from masam.predict.batch import Cohort, require_output_folder, run_cases, settings_sha256
from masam.predict.predictor import Predictor
from masam.predict.video import predict_video, require_predictable
from masam.progress import Progress


def predict_videos(
    predictor: Predictor, cases: Sequence[Case], out: Path, progress: Progress, *, overlay: bool = False
) -> Cohort:
    """Segment videos and write ``out/CASE/FRAME.png`` for each frame.

    A case is written under a hidden name and renamed when its last frame has been verified, so a folder of that name is
    always complete. Cases of an earlier run are kept if their bytes, the bytes of the video, the model and the settings
    are unchanged; an interrupted case is repeated from its first frame. A video that is refused is a failed case.

    If ``overlay``, the labels are also drawn over the frames: ``CASE.overlay.mp4`` for a video file, PNG files in
    ``CASE.overlay`` for a folder of frames.
    """
    if not cases:
        raise InputError("expected at least one video, found none")
    require_predictable(predictor, cases[0].images[0])
    videos = [case.images[0] for case in cases]
    names = [name for case in cases for name in (case.id, _overlay_path(out, case).name)]
    folders = [folder for video in videos for folder in (video, video.parent)]
    require_output_folder(out, names, beside=folders, what="videos")
    work = _VideoWork(predictor, settings_sha256(predictor), out, overlay, progress)
    return run_cases(work, cases, out, progress)


@dataclass(frozen=True)
class _VideoWork:
    """The work on one video, with the folder to write to and the hash of the settings."""

    predictor: Predictor
    settings: str
    out: Path
    overlay: bool
    progress: Progress

    def open(self, case: Case) -> tuple[Case, dict[str, Any]]:
        """Hash a video."""
        return case, {"scan_sha256": video_sha256(case.images[0]), "settings_sha256": self.settings}

    def files(self, case: Case) -> dict[str, Path]:
        """Return the folder of label frames, and the overlay if it is requested."""
        labels = {"labels_sha256": self.out / case.id}
        return labels | {"overlay_sha256": _overlay_path(self.out, case)} if self.overlay else labels

    def write(self, case: Case, title: str | None = None) -> dict[str, Any]:
        """Segment a video and write its labels and overlay."""
        source, drawn = open_frames(case.images[0]), _overlay_path(self.out, case)
        count = "an unknown number of" if source.count is None else str(source.count)
        self.progress.log(f"{title}, {count} frames of {source.size[1]} x {source.size[0]} pixels")
        for note in source.notes:
            self.progress.log(f"{title}: {note}")
        if not self.overlay:
            _remove(drawn)  # it shows the labels of an earlier run
        frames = atomic.write_aside(self.out / case.id, partial(self._write_frames, source, drawn.name), replace=True)
        return {
            "frames": frames,
            "frame_rate": None if source.frame_rate is None else str(source.frame_rate),
            "notes": list(source.notes),
            "overlay": drawn.name if self.overlay else None,
            "overlay_sha256": None,
        }

    def _write_frames(self, source: FrameSource, drawn: str, folder: Path) -> int:
        """Write label frames to a folder, and a requested overlay beside it; return the number of frames."""
        scheme = self.predictor.plan.scheme
        folder.mkdir()
        with _open_overlay(folder.with_name(drawn), source, scheme) if self.overlay else nullcontext() as write_overlay:

            def sink(frame: Frame, labels: NDArray[np.uint8]) -> None:
                write_labels(folder / f"{frame.name}.png", labels, scheme)
                if write_overlay is not None:
                    write_overlay(frame, labels)

            return predict_video(self.predictor, source, sink, self.progress)


def _overlay_path(out: Path, case: Case) -> Path:
    return out / f"{case.id}{OVERLAY_ENDING}{'' if case.images[0].is_dir() else '.mp4'}"


def _open_overlay(path: Path, source: FrameSource, scheme: LabelScheme) -> AbstractContextManager[OverlayWriter]:
    return overlay_video(path, source, scheme) if path.suffix == ".mp4" else overlay_folder(path, scheme)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
