"""Videos: a file or a folder of frames, opened as one kind of stream."""

from __future__ import annotations

import hashlib
from pathlib import Path

from masam.errors import InputError
from masam.io import gate
from masam.io.video.file import VIDEO_FORMATS, open_video
from masam.io.video.frame_folder import frame_files, has_frames, open_folder
from masam.io.video.frames import Frame, FrameSource

__all__ = ["VIDEO_ENDINGS", "Frame", "FrameSource", "is_video", "open_frames", "video_sha256"]

VIDEO_ENDINGS = tuple(VIDEO_FORMATS)


def open_frames(path: Path) -> FrameSource:
    """Open a video as a stream of frames, which can be read again and again, one frame in memory.

    Args:
        path: A video file (mp4, m4v, mov, avi, mkv, webm), or a folder of frames (png, jpg, bmp, tif).

    Raises:
        InputError: It is neither, or is refused: damaged, cut off, without frames, or with frames of several sizes.
        ResourceError: A package is missing, or the system did not let us read.
    """
    with gate.os_errors(path):
        is_folder = path.is_dir()
        if not is_folder and not path.exists():
            raise InputError("expected a video or a folder of frames, got nothing", where=path, fix="check the path")
    if is_folder:
        return open_folder(path)
    if path.suffix.lower() not in VIDEO_FORMATS:
        raise InputError(
            f"expected a folder of frames or a video file ({', '.join(VIDEO_ENDINGS)}), got {path.name}",
            where=path,
            fix="convert it to mp4",
        )
    return open_video(path)


def is_video(path: Path) -> bool:
    """Say whether a path looks like a video, by its ending or by the frames in it; nothing is opened.

    Raises:
        ResourceError: The system did not let us read.
    """
    with gate.os_errors(path):
        if path.is_dir():
            return has_frames(path)
        return path.suffix.lower() in VIDEO_FORMATS and path.exists()


def video_sha256(path: Path) -> str:
    """Return the SHA-256 of a video: of the file, or of the names and bytes of all frames of a folder.

    Raises:
        InputError: A file is not a regular one, or is empty.
        ResourceError: The system did not let us read.
    """
    if not path.is_dir():
        return gate.sha256(path)
    digest = hashlib.sha256()
    for file in frame_files(path):
        digest.update(f"{file.name}\0{gate.sha256(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
