"""The DICOM series of a folder: find them, choose one, and put its slices in order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from masam.errors import ConfigError, InputError
from masam.io import gate
from masam.io.dicom.file import DicomFile, is_dicom, pydicom_errors, read_header
from masam.io.dicom.frames import LABEL_MAP, Frame, read_frames, read_text
from masam.io.dicom.stack import order_slices
from masam.volume import Geometry

MAX_FILES = 50_000
"""Maximum number of files below a folder."""

# SOP classes of images that are derived from scans, or are doses, and hold no slices of a patient.
_NO_SCAN = ("Segmentation", "Presentation State", "Parametric Map", "RT Dose", "RT Image")
_MODALITIES = ("CR", "CT", "DX", "MG", "MR", "NM", "OCT", "OPT", "OT", "PT", "RF", "US", "XA")
_KEY_LENGTH = 8


@dataclass(frozen=True, eq=False)
class Series:
    """The files of one series with their headers, which are read once."""

    root: Path  # folder or file in which the series was found
    uid: str  # its SeriesInstanceUID
    number: str  # its number in the study; empty if it has none
    modality: str  # ``CT``, ``MR`` and so on
    files: tuple[DicomFile, ...]  # its images, sorted by path

    @property
    def key(self) -> str:
        """First digits of the UID's SHA-256, which identify the series without naming a patient."""
        return hashlib.sha256(self.uid.encode()).hexdigest()[:_KEY_LENGTH]

    def describe(self) -> str:
        """Describe the series without the free text of its header, which may name the patient."""
        return f"{self.key} (number {self.number or 'none'}, {self.modality or 'no modality'}, {len(self.files)} files)"

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes of all files, in hex; it does not depend on the names of the files."""
        each = sorted(gate.sha256(file.path) for file in self.files)
        return hashlib.sha256("".join(each).encode()).hexdigest()

    @cached_property
    def stack(self) -> Stack:
        """The slices in order; pixels are not read.

        Raises:
            InputError: The slices do not form a volume (see :mod:`masam.io.dicom.stack`).
        """
        frames = [frame for file in self.files for frame in read_frames(file)]
        if sum(4 * frame.layout.rows * frame.layout.columns for frame in frames) > gate.MAX_VOLUME_BYTES:
            raise InputError(f"the series declares more than {gate.MAX_VOLUME_BYTES} bytes", where=self.root)
        ordered, geometry = order_slices(frames, self.root)
        notes = []
        if len(ordered) == 1:
            notes.append(f"one slice: its thickness, {ordered[0].thickness_mm:g} mm, is used as the slice spacing")
        if any(frame.layout.inverted for frame in ordered):
            notes.append("grey values are stored inverted (MONOCHROME1) and are inverted when they are read")
        if any(frame.layout.padding for frame in ordered):
            notes.append("padding outside the scanned field is replaced by the smallest value inside")
        return Stack(self, ordered, geometry, tuple(notes))


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of a series that form a volume."""

    series: Series
    frames: tuple[Frame, ...]  # its slices, ordered along their normal
    geometry: Geometry  # position of the voxels of an array [columns, rows, slices]
    notes: tuple[str, ...]  # remarks for the user, one line each

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of columns, rows and slices."""
        layout = self.frames[0].layout
        return layout.columns, layout.rows, len(self.frames)


def dicom_files(path: Path) -> tuple[Path, ...]:
    """Return the DICOM files of a folder and its subfolders, sorted by path; a file is returned as it is.

    Hidden files are skipped, and so are files whose first bytes are not DICOM, unless their names end in ``.dcm``.

    Raises:
        InputError: The path does not exist, contains too many files, or a ``.dcm`` file is not DICOM.
    """
    if not path.is_dir():
        return (path,)
    dicom = []
    for file in files_below(path):
        if is_dicom(file):
            dicom.append(file)
        elif file.name.lower().endswith(".dcm"):
            # Skipping the file could silently lose a slice.
            raise InputError(
                "the name ends in .dcm but the content is not DICOM (no DICM after 128 bytes)",
                where=file,
                fix="export it again, or remove it",
            )
    return tuple(dicom)


def files_below(path: Path) -> tuple[Path, ...]:
    """Return the regular files of a folder and its subfolders, sorted by path; hidden files are skipped.

    Raises:
        InputError: The folder does not exist, or contains too many files.
    """
    found: list[Path] = []
    with gate.os_errors(path):
        for folder, names, files in os.walk(path, onerror=_raise):
            names[:] = [name for name in names if not name.startswith(".")]
            found += [Path(folder, name) for name in files if not name.startswith(".")]
            if len(found) > MAX_FILES:
                raise InputError(f"expected at most {MAX_FILES} files, the folder contains more", where=path)
        return tuple(sorted(file for file in found if file.is_file()))


def find_series(path: Path) -> tuple[Series, ...]:
    """Find the series of images in a folder and its subfolders, or in one DICOM file, sorted by number and UID.

    Files without a scan (reports, segmentations, plans) are skipped.

    Raises:
        InputError: A file is damaged or cut off, or there are no series.
        ResourceError: pydicom is not installed.
    """
    groups: dict[str, list[DicomFile]] = {}
    for name in dicom_files(path):
        file = read_header(name)
        if not _is_scan(file):
            continue
        if file.pixels is None:
            # Refused here, because its truncated header may name another series or none.
            raise InputError("the file is cut off: an image without pixels", where=name, fix="copy or export it again")
        uid = read_text(file.dataset, "SeriesInstanceUID", name)
        if not uid:
            raise InputError("SeriesInstanceUID is missing, so the series is unknown", where=name)
        groups.setdefault(uid, []).append(file)
    if not groups:
        raise InputError("expected a series of DICOM images, found none", where=path, fix="check the path")
    return tuple(sorted((_series(path, uid, files) for uid, files in groups.items()), key=_order))


def choose_series(path: Path, name: str | None = None) -> Series:
    """Find the series with a key as listed by masam, a number or a UID; without ``name``, the only series.

    Raises:
        InputError: As for :func:`find_series`; or there are several series and no ``name``.
        ConfigError: ``name`` does not select exactly one series.
        ResourceError: pydicom is not installed.
    """
    found = find_series(path)
    if name is None:
        if len(found) > 1:
            raise InputError(
                f"expected one series, found {len(found)}: {_list(found)}",
                where=path,
                fix="choose one with --series, or keep one in the folder",
            )
        return found[0]
    chosen = [series for series in found if name in (series.key, series.uid, series.number)]
    if len(chosen) != 1:
        raise ConfigError(
            f"expected one of the series {_list(found)}, got {len(chosen)} of that name", where=f"--series {name}"
        )
    return chosen[0]


def read_stack(path: Path, name: str | None = None) -> Stack:
    """Find one series and put its slices in order, see :func:`choose_series` and :attr:`Series.stack`."""
    return choose_series(path, name).stack


def _series(root: Path, uid: str, files: list[DicomFile]) -> Series:
    first = files[0]
    number = read_text(first.dataset, "SeriesNumber", first.path)
    modality = read_text(first.dataset, "Modality", first.path)
    # Any other content is dropped, because it may be the patient's name.
    number = number if number.isdecimal() and len(number) <= 12 else ""
    modality = modality if modality in _MODALITIES else ""
    return Series(root, uid, number, modality, tuple(files))


def _is_scan(file: DicomFile) -> bool:
    with pydicom_errors(file.path):
        from pydicom.uid import UID

        name = UID(file.sop_class).name
    if file.sop_class == LABEL_MAP or any(word in name for word in _NO_SCAN):
        return False
    # A private class has no name; it is an image if it has pixels.
    return "Image Storage" in name or file.pixels is not None


def _order(series: Series) -> tuple[int, str]:
    return int(series.number or -1), series.uid


def _list(found: Sequence[Series]) -> str:
    return ", ".join(series.describe() for series in found)


def _raise(error: OSError) -> None:
    raise error
