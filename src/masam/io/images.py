"""Images and labels of any supported format, by path."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Unpack

from masam.errors import ConfigError, InputError
from masam.io import gate
from masam.io.dicom.file import DICOM_ENDING, is_dicom
from masam.io.dicom.pixels import read_pixels
from masam.io.dicom.seg_read import read_seg, seg_grid
from masam.io.dicom.series import (
    Series,
    SeriesRule,
    choose_series,
    files_below,
    find_series,
    holds_dicom,
    pick_series,
)
from masam.io.nifti.file import ENDINGS, read_geometry, read_labels, read_volume
from masam.io.nifti.transform import TransformOptions
from masam.labels import LabelScheme
from masam.volume import Volume


def open_series(path: Path, rule: SeriesRule | None = None) -> Series | None:
    """Read the headers of a DICOM image; None for NIfTI.

    Raises:
        InputError: A file is not valid, or the rule does not select one series of the folder.
        ResourceError: pydicom is not installed.
    """
    try:
        return choose_series(path, rule) if is_dicom_image(path) else None
    except ConfigError as error:
        raise InputError(f"{error.where}: {error.what}", where=path) from error


def read_image(
    path: Path,
    *,
    channels: int | None = 1,
    series: Series | None = None,
    on_note: Callable[[str], None] | None = None,
    nan_fill: float | None = None,
    **transform: Unpack[TransformOptions],
) -> Volume:
    """Read an image: a NIfTI file, a folder of DICOM files, or a single DICOM file.

    Args:
        path: Read as DICOM if it is a folder, or if its first bytes are DICOM and its name is not that of a NIfTI file.
        channels: Expected number of channels, as for :func:`masam.io.nifti.file.read_volume`. A DICOM series has one.
        series: The DICOM series, if its headers have been read.
        on_note: Receives notes for the user, one line each.
        nan_fill: Value for voxels that are not finite, for NIfTI.
        **transform: See :class:`masam.io.nifti.transform.TransformOptions`, for NIfTI.

    Returns:
        float32 values with their geometry, with a fourth axis if there are several channels.

    Raises:
        InputError: The file or folder is not valid.
        ConfigError: An argument is out of range.
        ResourceError: A package is not installed.
    """
    if series is None and not is_dicom_image(path):
        return read_volume(path, channels=channels, nan_fill=nan_fill, on_note=on_note, **transform)
    if channels is not None and channels != 1:
        raise InputError(
            f"expected a NIfTI file of {channels} channels, got DICOM, of which a series is one channel",
            where=path,
            fix="use nnU-Net's layout, with one folder per channel",
        )
    stack = (series or choose_series(path)).stack
    if on_note is not None:
        for note in stack.notes:
            on_note(f"{path}: {note}")
    return read_pixels(stack)


def read_label_image(
    path: Path,
    image: Volume,
    series: Sequence[Series | None],
    scheme: LabelScheme | None = None,
    **transform: Unpack[TransformOptions],
) -> Volume:
    """Read the labels of an image: a NIfTI file, or a DICOM SEG if the name ends in ``.dcm``.

    Args:
        path: The label file.
        image: The labelled image.
        series: The DICOM series of each channel of the image, None for NIfTI; a SEG may refer to any of them.
        scheme: See :func:`masam.io.dicom.seg_read.read_seg`.
        **transform: See :class:`masam.io.nifti.transform.TransformOptions`, for NIfTI.

    Returns:
        int32 values with their geometry; the geometry of a NIfTI file has not been compared with the image's.

    Raises:
        InputError: The file is not valid.
        ConfigError: ``assume_orientation`` is not valid.
        ResourceError: A package is not installed.
    """
    if _is_seg(path):
        return read_seg(path, [one.stack for one in series if one is not None] or image, scheme)
    return read_labels(path, **transform)


def read_label_files(paths: Sequence[Path], scheme: LabelScheme, grid: Volume | None = None) -> list[Volume]:
    """Read label files of one case without its image: NIfTI files, or DICOM SEG if the names end in ``.dcm``.

    Args:
        paths: The files, at least one.
        scheme: Label scheme that maps segment names to values.
        grid: Grid for the voxels of a SEG; by default the grid of the first NIfTI file, or the smallest grid that
            contains every frame of all SEG.

    Returns:
        int32 values of each file; NIfTI files keep their grids, which have not been compared.

    Raises:
        InputError: A file is not valid, or a SEG has another grid.
        ResourceError: A package is not installed.
    """
    volumes = {path: read_labels(path) for path in paths if not _is_seg(path)}
    grid = grid or next(iter(volumes.values()), None) or seg_grid(paths)
    return [volumes[path] if path in volumes else read_seg(path, grid, scheme) for path in paths]


def require_same_grid(what: str, volume: Volume, path: Path, image: Volume, image_path: Path) -> None:
    """Raise an InputError if shape or affine of a label or channel (``what``) differ from those of the image."""
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
    """Return whether a path is read as DICOM; InputError if the file does not exist or is not regular."""
    return path.is_dir() or (not path.name.lower().endswith(ENDINGS) and is_dicom(path))


def count_channels(path: Path) -> int:
    """Return the number of channels of an image: the length of a NIfTI file's fourth axis, 1 for DICOM."""
    return 1 if is_dicom_image(path) else read_geometry(path, channels=None).channels


def image_sha256(path: Path, series: Series | None = None) -> str:
    """Return the SHA-256 of the bytes of an image, in hex; arguments as for :func:`read_image`."""
    series = series or open_series(path)
    return gate.sha256(path) if series is None else series.sha256()


def find_dicom(path: Path, rule: SeriesRule) -> tuple[tuple[str, Path, Series | None], ...]:
    """Find the scans of a DICOM file, of a folder of DICOM files, or of a folder of such folders.

    In a folder with DICOM files, each series is a scan, unless the rule selects one. In a folder of folders, each
    subfolder with DICOM files at any depth is a scan of one series; in a study with one folder per series, only the
    folders with a series that the rule selects.

    Args:
        path: The file or folder.
        rule: Which series to choose.

    Returns:
        Name, path and series of each scan, sorted by name; empty if there is no DICOM. The series is None if headers
        have not been read yet. Names are those of the files or folders; for several series in one folder they consist
        of number and key of the series, such as ``series3_1a2b3c4d``.

    Raises:
        InputError: A file of a folder with several series is damaged.
        ConfigError: The rule selects no series, or its name selects several.
        ResourceError: pydicom is not installed.
    """
    if not path.is_dir():
        return ((_name(path), path, choose_series(path, rule) if rule.selects else None),) if is_dicom(path) else ()
    with gate.os_errors(path):
        inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    if not any(_holds_dicom(entry) for entry in inside if entry.is_file()):
        folders = [entry for entry in inside if entry.is_dir() and any(map(_holds_dicom, files_below(entry)))]
        if rule.selects and folders:
            return _selected(path, folders, rule)
        return tuple((_name(folder), folder, None) for folder in folders)
    found = find_series(path)
    if rule.selects:
        found = (pick_series(found, rule, path),)
    if len(found) == 1:
        return ((_name(path.resolve()), path, found[0]),)
    return tuple(sorted(((f"series{one.number or '_'}_{one.key}", path, one) for one in found), key=itemgetter(0)))


def _selected(root: Path, folders: Sequence[Path], rule: SeriesRule) -> tuple[tuple[str, Path, Series | None], ...]:
    """Return the scans of a folder of folders in which a rule selects series.

    Patients without such a series, and folders with a damaged file, are refused when they are read, beside other scans
    that are good.
    """
    found: dict[Path, tuple[Series, ...]] = {}
    for folder in folders:
        with contextlib.suppress(InputError):
            found[folder] = find_series(folder)
    everything = [replace(one, root=root) for of_folder in found.values() for one in of_folder]
    if not any(map(rule.admits, everything)):
        pick_series(everything, rule, root)  # raises, with a list of all series
    is_one_study = len({one.study for one in everything}) == 1
    return tuple(
        (_name(folder), folder, None)
        for folder in folders
        if not is_one_study or folder not in found or any(map(rule.admits, found[folder]))
    )


def _is_seg(path: Path) -> bool:
    return path.name.lower().endswith(DICOM_ENDING)


def _rows(volume: Volume) -> list[list[float]]:
    return [[float(f"{x:.6g}") for x in row] for row in volume.geometry.affine[:3]]


def _holds_dicom(path: Path) -> bool:
    # A damaged file also makes its folder a scan, which is refused when it is read, beside other scans that are good.
    return path.name.lower().endswith(DICOM_ENDING) or holds_dicom(path)


def _name(path: Path) -> str:
    name = unicodedata.normalize("NFC", path.name)
    return re.sub(r"\.dcm$", "", name, flags=re.IGNORECASE) or "scan"
