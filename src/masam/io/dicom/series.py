"""The series of a folder: which there are, which one is meant, and its slices in order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from masam.errors import ConfigError, InputError
from masam.io import gate
from masam.io.dicom.file import DicomFile, is_dicom, pydicom_errors, read_header
from masam.io.dicom.frames import LABEL_MAP, Frame, read_frames, read_text
from masam.io.dicom.stack import order_slices
from masam.volume import Geometry

MAX_FILES = 50_000
"""Cap for the files below a folder."""

# Images by their SOP class that show no patient's slice: what somebody made of a scan, or a dose.
_NO_SCAN = ("Segmentation", "Presentation State", "Parametric Map", "RT Dose", "RT Image")
_MODALITIES = ("CR", "CT", "DX", "MG", "MR", "NM", "OCT", "OPT", "OT", "PT", "RF", "US", "XA")
_KEY_LENGTH = 8
_ONE = "choose one with --series, or keep one in the folder"


@dataclass(frozen=True, eq=False)
class Series:
    """The files of one series, not yet judged as a volume.

    Attributes:
        root: Folder or file that was asked for.
        uid: Its SeriesInstanceUID.
        number: Its number in the study; empty if it has none.
        modality: ``CT``, ``MR`` and so on.
        files: Its images, sorted by path.
    """

    root: Path
    uid: str
    number: str
    modality: str
    files: tuple[DicomFile, ...]

    @property
    def key(self) -> str:
        """First digits of the UID's SHA-256: tells series apart and names no patient."""
        return hashlib.sha256(self.uid.encode()).hexdigest()[:_KEY_LENGTH]

    def describe(self) -> str:
        """Say what it is, without the free texts of a header, in which patients are named."""
        return f"{self.key} (number {self.number or 'none'}, {self.modality or 'no modality'}, {len(self.files)} files)"


@dataclass(frozen=True, eq=False)
class Stack:
    """A series that is a volume.

    Attributes:
        series: Its files.
        frames: Its slices, along their normal.
        geometry: Where the voxels of an array [columns, rows, slices] lie.
        notes: What the user should know: one line each.
    """

    series: Series
    frames: tuple[Frame, ...]
    geometry: Geometry
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of columns, rows and slices."""
        layout = self.frames[0].layout
        return layout.columns, layout.rows, len(self.frames)


def dicom_files(path: Path) -> tuple[Path, ...]:
    """Return the DICOM files of a folder and the folders in it, sorted by path; a file stands for itself.

    Hidden files and what is no DICOM by its first bytes are passed over, unless its name ends in ``.dcm``.

    Raises:
        InputError: There is no such file or folder, it holds too many files, or a ``.dcm`` file is no DICOM.
        ResourceError: The system did not let us read.
    """
    if not path.is_dir():
        return (path,)
    dicom = []
    for file in files_below(path):
        if is_dicom(file):
            dicom.append(file)
        elif file.name.lower().endswith(".dcm"):
            # Passing it over might lose a slice in silence.
            raise InputError(
                "the name says DICOM, the content does not (no DICM after 128 bytes)",
                where=file,
                fix="export it again, or remove it",
            )
    return tuple(dicom)


def files_below(path: Path) -> tuple[Path, ...]:
    """Return the regular files of a folder and the folders in it, sorted by path; hidden ones are passed over.

    Raises:
        InputError: There are too many, or there is no such folder.
        ResourceError: The system did not let us read.
    """
    found: list[Path] = []
    with gate.os_errors(path):
        for folder, names, files in os.walk(path, onerror=_raise):
            names[:] = [name for name in names if not name.startswith(".")]
            found += [Path(folder, name) for name in files if not name.startswith(".")]
            if len(found) > MAX_FILES:
                raise InputError(f"expected at most {MAX_FILES} files, the folder holds more", where=path)
        return tuple(sorted(file for file in found if file.is_file()))


def find_series(path: Path) -> tuple[Series, ...]:
    """Find the series of images in a folder; what holds no scan (reports, segmentations, plans) is passed over.

    Args:
        path: A folder, which is searched with the folders in it, or one DICOM file.

    Returns:
        The series, sorted by number and UID.

    Raises:
        InputError: A file is damaged or cut off, or there is no series.
        ResourceError: pydicom is missing, or the system did not let us read.
    """
    groups: dict[str, list[DicomFile]] = {}
    for name in dicom_files(path):
        file = read_header(name)
        if not _is_scan(file):
            continue
        if file.pixels is None:
            # At once: what is left of its header may put it into another series, or into none.
            raise InputError("the file is cut off: an image without pixels", where=name, fix="copy or export it again")
        uid = read_text(file.dataset, "SeriesInstanceUID", name)
        if not uid:
            raise InputError("SeriesInstanceUID is missing, so the series is unknown", where=name)
        groups.setdefault(uid, []).append(file)
    if not groups:
        raise InputError("expected a series of DICOM images, found none", where=path, fix="check the path")
    return tuple(sorted((_series(path, uid, files) for uid, files in groups.items()), key=_order))


def choose_series(path: Path, wanted: str | None = None) -> Series:
    """Find the one series that is meant.

    Args:
        path: As in :func:`find_series`.
        wanted: The first digits that masam lists, its number, or its whole UID; None if there is but one.

    Raises:
        InputError: As in :func:`find_series`; or there are several, which are listed.
        ConfigError: None or several are ``wanted``.
        ResourceError: pydicom is missing, or the system did not let us read.
    """
    found = find_series(path)
    if wanted is None:
        if len(found) > 1:
            raise InputError(
                f"expected one series, found {len(found)}: {_list(found)}",
                where=path,
                fix="choose one with --series, or keep one in the folder",
            )
        return found[0]
    chosen = [series for series in found if wanted in (series.key, series.uid, series.number)]
    if len(chosen) != 1:
        raise ConfigError(
            f"expected one of the series {_list(found)}, got {len(chosen)} of that name", where=f"--series {wanted}"
        )
    return chosen[0]


def read_stack(path: Path, series: str | None = None) -> Stack:
    """Read the headers of a series and judge whether its slices make a volume; pixels are not looked at.

    Args:
        path: As in :func:`find_series`.
        series: As ``wanted`` in :func:`choose_series`.

    Raises:
        InputError: As in :func:`choose_series`; or the slices make no volume (see ``dicom_stack``).
        ConfigError: None or several are chosen.
        ResourceError: pydicom is missing, or the system did not let us read.
    """
    chosen = choose_series(path, series)
    frames = [frame for file in chosen.files for frame in read_frames(file)]
    if sum(4 * frame.layout.rows * frame.layout.columns for frame in frames) > gate.MAX_VOLUME_BYTES:
        raise InputError(f"the series claims more than the {gate.MAX_VOLUME_BYTES} bytes accepted", where=path)
    ordered, geometry = order_slices(frames, path)
    notes = []
    if len(ordered) == 1:
        notes.append(f"one slice: its thickness, {ordered[0].thickness_mm:g} mm, counts as the distance of slices")
    if any(frame.layout.inverted for frame in ordered):
        notes.append("its grey values are stored inverted (MONOCHROME1) and are turned round")
    if any(frame.layout.padding for frame in ordered):
        notes.append("padding outside the scanned field gets the smallest value inside")
    return Stack(chosen, ordered, geometry, tuple(notes))


def sha256(path: Path, series: str | None = None) -> str:
    """Hash the bytes of a series: the same in hex for the same files, whatever their names.

    Args:
        path: As in :func:`find_series`.
        series: As ``wanted`` in :func:`choose_series`.

    Raises:
        InputError: As in :func:`choose_series`.
        ConfigError: None or several are chosen.
        ResourceError: pydicom is missing, or the system did not let us read.
    """
    each = sorted(gate.sha256(file.path) for file in choose_series(path, series).files)
    return hashlib.sha256("".join(each).encode()).hexdigest()


def _series(root: Path, uid: str, files: list[DicomFile]) -> Series:
    first = files[0]
    number = read_text(first.dataset, "SeriesNumber", first.path)
    modality = read_text(first.dataset, "Modality", first.path)
    # What else a header holds in their place is not passed on; it may be the patient's name.
    number = number if number.isdecimal() and len(number) <= 12 else ""
    modality = modality if modality in _MODALITIES else ""
    return Series(root, uid, number, modality, tuple(files))


def _is_scan(file: DicomFile) -> bool:
    with pydicom_errors(file.path):
        from pydicom.uid import UID

        name = UID(file.sop_class).name
    if file.sop_class == LABEL_MAP or any(word in name for word in _NO_SCAN):
        return False
    # A private class has no name; pixels make it an image.
    return "Image Storage" in name or file.pixels is not None


def _order(series: Series) -> tuple[int, str]:
    return int(series.number or -1), series.uid


def _list(found: Sequence[Series]) -> str:
    return ", ".join(series.describe() for series in found)


def _raise(error: OSError) -> None:
    raise error
