"""An image of any format that is read, by its path."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from masam.errors import InputError
from masam.io import gate
from masam.io.dicom.file import DICOM_ENDING, is_dicom
from masam.io.dicom.pixels import read_pixels
from masam.io.dicom.seg_read import read_seg, seg_grid
from masam.io.dicom.series import choose_series, files_below, find_series, read_stack
from masam.io.dicom.series import sha256 as series_sha256
from masam.io.nifti.file import ENDINGS, read_geometry, read_labels, read_volume
from masam.labels import LabelScheme
from masam.volume import Volume


def read_image(
    path: Path,
    *,
    channels: int | None = 1,
    series: str | None = None,
    say: Callable[[str], None] | None = None,
    prefer_sform: bool = False,
    assume_orientation: str | None = None,
    nan_fill: float | None = None,
) -> Volume:
    """Read an image: a NIfTI file, a folder of DICOM files, or one of them.

    Args:
        path: Anything else than a NIfTI name is taken for DICOM if it is a folder or its bytes say so.
        channels: How many the file must hold: see :func:`masam.io.nifti.file.read_volume`. A DICOM series holds one.
        series: Of DICOM: see :func:`masam.io.dicom.pixels.read_dicom`.
        say: Told, a line each, what the user should know of the image.
        prefer_sform: Of NIfTI: see :func:`masam.io.nifti.file.read_volume`, as for the other arguments.
        assume_orientation: Letters such as ``"RAS"`` for files without any transform.
        nan_fill: Value for voxels that are not finite.

    Returns:
        float32 values, with a fourth axis if there are several channels, and their geometry.

    Raises:
        InputError: The file or folder is refused.
        ConfigError: An argument is out of its range.
        ResourceError: A package is missing, memory does not suffice, or the system did not let us read.
    """
    if not is_dicom_image(path):
        return read_volume(
            path,
            channels=channels,
            prefer_sform=prefer_sform,
            assume_orientation=assume_orientation,
            nan_fill=nan_fill,
        )
    if channels is not None and channels != 1:
        raise InputError(
            f"expected a NIfTI file of {channels} channels, got DICOM, of which a series is one channel",
            where=path,
            fix="take nnU-Net's layout, with a folder a channel",
        )
    stack = read_stack(path, series)
    if say is not None:
        for note in stack.notes:
            say(f"{path}: {note}")
    return read_pixels(stack)


def read_label_image(
    path: Path,
    image: Volume,
    image_paths: Sequence[Path],
    scheme: LabelScheme | None = None,
    *,
    series: str | None = None,
    prefer_sform: bool = False,
    assume_orientation: str | None = None,
) -> Volume:
    """Read the labels of an image: a NIfTI file, or a DICOM SEG if the name ends in ``.dcm``.

    Args:
        path: The label file.
        image: The image that it labels.
        image_paths: Where its channels were read from; a SEG may have been drawn on any of them.
        scheme: See :func:`masam.io.dicom.seg_read.read_seg`.
        series: Which series of the image, see :func:`masam.io.dicom.pixels.read_dicom`.
        prefer_sform: See :func:`masam.io.nifti.file.read_labels`.
        assume_orientation: Letters such as ``"RAS"`` for files without any transform.

    Returns:
        int32 values and their geometry; of NIfTI not yet compared with the image's.

    Raises:
        InputError: The file is refused.
        ConfigError: ``assume_orientation`` is not an orientation.
        ResourceError: A package is missing, memory does not suffice, or the system did not let us read.
    """
    if _is_seg(path):
        stacks = [read_stack(one, series) for one in image_paths if is_dicom_image(one)]
        return read_seg(path, stacks or image, scheme)
    return read_labels(path, prefer_sform=prefer_sform, assume_orientation=assume_orientation)


def read_label_files(paths: Sequence[Path], scheme: LabelScheme, grid: Volume | None = None) -> list[Volume]:
    """Read label files of one case without its image: NIfTI files, and DICOM SEG by their endings.

    Args:
        paths: The files, at least one.
        scheme: Classes by whose names segments are known.
        grid: Where the voxels of a SEG lie; by default the grid of the first NIfTI file, or the smallest that holds
            every frame of all SEG.

    Returns:
        int32 values of each; NIfTI files keep their own grids, which are not yet compared.

    Raises:
        InputError: A file is refused, or a SEG lies on another grid.
        ResourceError: A package is missing, memory does not suffice, or the system did not let us read.
    """
    volumes = {path: read_labels(path) for path in paths if not _is_seg(path)}
    grid = grid or next(iter(volumes.values()), None) or seg_grid(paths)
    return [volumes[path] if path in volumes else read_seg(path, grid, scheme) for path in paths]


def require_same_grid(what: str, volume: Volume, path: Path, image: Volume, image_path: Path) -> None:
    """Refuse what does not lie on the grid of its image.

    Args:
        what: ``"label"`` or ``"channel"``, for the error.
        volume: The label or the channel.
        path: Where that was read from.
        image: The image.
        image_path: Where that was read from.

    Raises:
        InputError: They differ in shape or place.
    """
    if volume.shape != image.shape:
        raise InputError(
            f"the {what}'s shape {volume.shape} is not {image.shape}, the shape of the image {image_path}",
            where=path,
            fix=f"resample the {what} to the image's grid",
        )
    if not image.geometry.matches(volume.geometry, image.shape):
        raise InputError(
            f"the {what}'s affine {_rows(volume)} is not {_rows(image)}, the affine of the image {image_path}",
            where=path,
            fix=f"resample the {what} to the image's grid, or copy the header if the voxels do correspond",
        )


def is_dicom_image(path: Path) -> bool:
    """Say whether a path is read as DICOM.

    Raises:
        InputError: There is nothing, or it is no regular file.
        ResourceError: The system did not let us read.
    """
    return path.is_dir() or not (path.name.lower().endswith(ENDINGS) or not is_dicom(path))


def count_channels(path: Path) -> int:
    """Return how many channels an image holds; of NIfTI the length of its fourth axis, of DICOM one.

    Raises:
        InputError: The file is refused.
        ResourceError: The system did not let us read.
    """
    return 1 if is_dicom_image(path) else read_geometry(path, channels=None).channels


def image_sha256(path: Path, series: str | None = None) -> str:
    """Hash the bytes of an image, in hex.

    Args:
        path: As in :func:`read_image`.
        series: As in :func:`read_image`.

    Raises:
        InputError: The file or folder is refused.
        ConfigError: None or several are chosen by ``series``.
        ResourceError: The system did not let us read.
    """
    return series_sha256(path, series) if is_dicom_image(path) else gate.sha256(path)


def find_dicom(path: Path, series: str | None = None) -> tuple[tuple[str, Path, str | None], ...]:
    """Find the scans of a DICOM file, of a folder of DICOM files, or of a folder of such folders.

    Args:
        path: A file; a folder with DICOM files in it, of which each series is a scan; or a folder of folders, of which
            each with DICOM files anywhere below it is a scan of one series.
        series: Which series, see :func:`masam.io.dicom.pixels.read_dicom`.

    Returns:
        Name, path and series of each scan, sorted by name; nothing if there is no DICOM. Names are those of file or
        folder, of several series ``series3_1a2b3c4d``: number and first digits of the UID's hash.

    Raises:
        InputError: A file is damaged.
        ConfigError: None or several are chosen by ``series``.
        ResourceError: pydicom is missing, or the system did not let us read.
    """
    if not path.is_dir():
        return ((_name(path), path, series),) if is_dicom(path) else ()
    with gate.os_errors(path):
        inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    if not any(_holds_dicom(entry) for entry in inside if entry.is_file()):
        folders = [entry for entry in inside if entry.is_dir() and any(map(_holds_dicom, files_below(entry)))]
        return tuple((_name(folder), folder, series) for folder in folders)
    found = (choose_series(path, series),) if series else find_series(path)
    if len(found) == 1:
        return ((_name(path.resolve()), path, found[0].key if series else None),)
    return tuple(sorted((f"series{one.number or '_'}_{one.key}", path, one.key) for one in found))


def _is_seg(path: Path) -> bool:
    return path.name.lower().endswith(DICOM_ENDING)


def _rows(volume: Volume) -> list[list[float]]:
    return [[float(f"{x:.6g}") for x in row] for row in volume.geometry.affine[:3]]


def _holds_dicom(path: Path) -> bool:
    # A damaged file makes its folder a scan too: one that is refused when it is read, beside the others.
    return path.name.lower().endswith(DICOM_ENDING) or is_dicom(path)


def _name(path: Path) -> str:
    name = unicodedata.normalize("NFC", path.name)
    return re.sub(r"\.dcm$", "", name, flags=re.IGNORECASE) or "scan"
