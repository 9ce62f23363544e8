"""Open a video file or a folder of frames."""

from __future__ import annotations

import hashlib
from pathlib import Path

from masam.errors import InputError
from masam.io import gate
from masam.io.video.file import VIDEO_FORMATS, open_video
from masam.io.video.frame_folder import frame_files, has_frames, open_folder
from masam.io.video.frames import FrameSource

VIDEO_ENDINGS = tuple(VIDEO_FORMATS)


def open_frames(path: Path) -> FrameSource:
    """Open a video file, or a folder of frames (png, jpg, bmp, tif).

    Its frames can be iterated repeatedly, with one in memory at a time.

    Raises:
        InputError: The path is neither, or the video is damaged, cut off, empty, or has frames of several sizes.
        ResourceError: A package is missing.
    """
    with gate.os_errors(path):
        if path.is_dir():
            return open_folder(path)
        if not path.exists():
            raise InputError("expected a video or a folder of frames, found nothing", where=path, fix="check the path")
    if path.suffix.lower() not in VIDEO_FORMATS:
        raise InputError(
            f"expected a folder of frames or a video file ({', '.join(VIDEO_ENDINGS)}), got {path.name}",
            where=path,
            fix="convert it to mp4",
        )
    return open_video(path)


def is_video(path: Path) -> bool:
    """Return whether a path is a video, by its ending or by the image files in it; nothing is opened."""
    with gate.os_errors(path):
        if path.is_dir():
            return has_frames(path)
        return path.suffix.lower() in VIDEO_FORMATS and path.exists()


def video_sha256(path: Path) -> str:
    """Return the SHA-256 of a video file, or of the names and contents of all frames of a folder."""
    if not path.is_dir():
        return gate.sha256(path)
    digest = hashlib.sha256()
    for file in frame_files(path):
        digest.update(f"{file.name}\0{gate.sha256(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
