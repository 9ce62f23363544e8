"""The DICOM series of a folder: find them, choose one, and put its slices in order."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from masam.errors import ConfigError, InputError, some_of
from masam.io import gate
from masam.io.dicom.file import DICOM_ENDING, DicomFile, is_dicom, pydicom_errors, read_header
from masam.io.dicom.frames import LABEL_MAP, Frame, read_frames, read_text
from masam.io.dicom.notes import describe_oddities
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
    passed_over: tuple[Path, ...] = ()  # files beside them that are not images
    choice: tuple[str, ...] = ()  # why it was chosen, and which series were not, one line each

    @property
    def key(self) -> str:
        """First digits of the UID's SHA-256, which identify the series without naming a patient."""
        return hashlib.sha256(self.uid.encode()).hexdigest()[:_KEY_LENGTH]

    @property
    def study(self) -> str:
        """Its StudyInstanceUID."""
        return read_text(self.files[0].dataset, "StudyInstanceUID", self.files[0].path)

    @property
    def folder(self) -> str:
        """The folder that contains all files, relative to ``root``."""
        parents = {str(file.path.parent) for file in self.files}
        return os.path.relpath(os.path.commonpath(parents), self.root if self.root.is_dir() else self.root.parent)

    @property
    def description(self) -> str:
        """The description of the header without the words of the patient's name and number; may be empty."""
        dataset, path = self.files[0].dataset, self.files[0].path
        patient = " ".join(read_text(dataset, key, path) for key in ("PatientName", "PatientID", "PatientBirthDate"))
        private = {word.casefold() for word in re.split(r"\W+", patient)}
        words = re.split(r"(\W+)", read_text(dataset, "SeriesDescription", path))
        text = "".join(word for word in words if word.casefold() not in private - {""})
        return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())

    @property
    def voxels(self) -> int:
        """Number of voxels; 0 if the images are not a volume of several slices."""
        try:
            return math.prod(self.stack.shape) if self.stack.shape[2] > 1 else 0
        except InputError:
            return 0

    def record(self) -> dict[str, Any]:
        """Return the properties of the series as plain values; ``refused`` is the reason why it is not a volume."""
        facts: dict[str, Any] = {"key": self.key, "folder": self.folder, "number": self.number}
        facts |= {"description": self.description, "modality": self.modality, "images": len(self.files)}
        try:
            size = {"matrix": list(self.stack.shape), "spacing_mm": list(self.stack.geometry.spacing_mm)}
        except InputError as error:
            return {**facts, "matrix": None, "spacing_mm": None, "refused": str(error)}
        return {**facts, **size, "refused": None}

    def describe(self) -> str:
        """Describe the series without the free text of its header, which may name the patient."""
        facts = self.record()
        size = "not a volume"
        if facts["matrix"]:
            spacing = " x ".join(f"{length:.4g}" for length in facts["spacing_mm"])
            size = f"{' x '.join(map(str, facts['matrix']))} voxels of {spacing} mm"
        modality = self.modality or "no modality"
        images = f"{len(self.files)} image{'s' * (len(self.files) > 1)}"
        return f"{self.key} (folder {self.folder}, number {self.number or 'none'}, {modality}, {images}, {size})"

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
        notes = [*self.choice, *describe_oddities(self.files, ordered, self.root)]
        if self.passed_over:
            names = some_of(str(file.relative_to(self.root)) for file in self.passed_over)
            what = "file that is not an image" if len(self.passed_over) == 1 else "files that are not images"
            notes.insert(0, f"passed over {len(self.passed_over)} {what}: {names}")
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


def dicom_files(path: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the DICOM files of a folder and its subfolders, and its other files, sorted by path.

    Hidden files are skipped. A file is returned as it is.

    Raises:
        InputError: The path does not exist or contains too many files, or a file that is not DICOM is named like a
            slice: its name ends in ``.dcm``, or differs from that of a DICOM file only in its digits.
    """
    if not path.is_dir():
        return (path,), ()
    files = files_below(path)
    dicom = tuple(file for file in files if holds_dicom(file))
    others = tuple(sorted(set(files) - set(dicom)))
    patterns = {_pattern(file) for file in dicom}
    for file in others:
        is_named_dcm = file.name.lower().endswith(DICOM_ENDING)
        if is_named_dcm or _pattern(file) in patterns:
            # Skipping the file could silently lose a slice.
            raise InputError(
                f"the name {'ends in .dcm' if is_named_dcm else 'is that of a slice'} but the content is not DICOM "
                "(no DICM after 128 bytes)",
                where=file,
                fix="export it again, or remove it",
            )
    return dicom, others


def holds_dicom(path: Path) -> bool:
    """Return whether a path is a regular file that starts like DICOM."""
    try:
        return is_dicom(path)
    except InputError:
        return False


def files_below(path: Path) -> tuple[Path, ...]:
    """Return all files of a folder and its subfolders, sorted by path; hidden files are skipped.

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
    return tuple(sorted(found))


def find_series(path: Path) -> tuple[Series, ...]:
    """Find the series of images in a folder and its subfolders, or in one DICOM file, sorted by number and UID.

    Objects without a scan (reports, segmentations, plans) are passed over.

    Raises:
        InputError: A file is damaged or cut off, or there are no series.
        ResourceError: pydicom is not installed.
    """
    groups: dict[str, list[DicomFile]] = {}
    names, others = dicom_files(path)
    objects: list[tuple[str, DicomFile]] = []
    for name in names:
        file = read_header(name)
        uid = read_text(file.dataset, "SeriesInstanceUID", name)
        if not _is_scan(file):
            objects.append((uid, file))
            continue
        if file.pixels is None:
            # Refused here, because its truncated header may name another series or none.
            raise InputError("the file is cut off: an image without pixels", where=name, fix="copy or export it again")
        if not uid:
            raise InputError("SeriesInstanceUID is missing, so the series is unknown", where=name)
        groups.setdefault(uid, []).append(file)
    if not groups:
        raise InputError("expected a series of DICOM images, found none", where=path, fix="check the path")
    for uid, file in objects:
        if uid in groups and file.pixels is not None:
            raise InputError(
                "the SOP class is not that of an image, but the file belongs to a series of images",
                where=file.path,
                fix="export it again",
            )
    passed_over = sorted([*others, *(file.path for _, file in objects)])
    folders = {uid: {file.path.parent for file in files} for uid, files in groups.items()}
    owned = set().union(*folders.values())
    found = []
    for uid, files in groups.items():
        beside = (file for file in passed_over if file.parent in folders[uid] or file.parent not in owned)
        found.append(_series(path, uid, files, tuple(beside)))
    return tuple(sorted(found, key=_order))


@dataclass(frozen=True)
class SeriesRule:
    """Which series of a folder to use.

    Attributes:
        name: Key as listed by masam, number, or UID; must select exactly one series.
        description: Part of the series description; upper and lower case are equal.
        modality: Modality, such as ``MR``.
        largest: Use the series with the most voxels if several remain; otherwise they are refused.
    """

    name: str | None = None
    description: str | None = None
    modality: str | None = None
    largest: bool = False

    @property
    def selects(self) -> bool:
        """Whether series are selected by their properties."""
        return (self.name, self.description, self.modality) != (None, None, None)

    def admits(self, series: Series) -> bool:
        """Return whether a series has the properties."""
        text = read_text(series.files[0].dataset, "SeriesDescription", series.files[0].path).casefold()
        return (
            self.name in (None, series.key, series.uid, series.number)
            and (self.description or "").casefold() in text
            and self.modality in (None, series.modality)
        )

    def __str__(self) -> str:
        options = (f"{option} {value}" for option, value in zip(RULE_OPTIONS, self._values(), strict=True) if value)
        return " ".join(options)

    def _values(self) -> tuple[str | None, ...]:
        return self.name, self.description, self.modality


LARGEST = SeriesRule(largest=True)
"""The rule for a folder of patients."""

RULE_OPTIONS = ("--series", "--series-description", "--modality")
"""Options of ``masam predict`` that select a series."""


def choose_series(path: Path, rule: SeriesRule | str | None = None) -> Series:
    """Find the one series of a folder that a rule selects; text is the name of a rule.

    Raises:
        InputError: As for :func:`find_series`; or several series remain, and none is the largest.
        ConfigError: The rule selects no series, or its name selects several.
        ResourceError: pydicom is not installed.
    """
    rule = rule if isinstance(rule, SeriesRule) else SeriesRule(rule)
    return pick_series(find_series(path), rule, path)


def pick_series(found: Sequence[Series], rule: SeriesRule, where: Path) -> Series:
    """Return the one of several series that a rule selects; errors are those of :func:`choose_series`."""
    chosen = [series for series in found if rule.admits(series)]
    if not chosen or (rule.name is not None and len(chosen) > 1):
        raise ConfigError(f"expected one of the series {_list(found)}, got {len(chosen)} of that name", where=rule)
    why = f"as {rule} requires" if rule.selects else ""
    if len(chosen) > 1:
        fix = f"choose one with {' or '.join(RULE_OPTIONS)}; masam info shows their descriptions"
        if not rule.largest:
            raise InputError(f"expected one series, found {len(chosen)}: {_list(chosen)}", where=where, fix=fix)
        chosen.sort(key=lambda series: series.voxels, reverse=True)
        if chosen[0].voxels == chosen[1].voxels:
            raise InputError(f"no series is the largest of {len(chosen)}: {_list(chosen)}", where=where, fix=fix)
        why = f"the largest of {len(chosen)} {why}".rstrip()
    if len(found) == 1:
        return chosen[0]
    others = (f"not segmented: {series.describe()}" for series in found if series is not chosen[0])
    return replace(chosen[0], choice=(f"used series {chosen[0].describe()}, {why}", *others))


def read_stack(path: Path, name: str | None = None) -> Stack:
    """Find one series and put its slices in order, see :func:`choose_series` and :attr:`Series.stack`."""
    return choose_series(path, name).stack


def _series(root: Path, uid: str, files: list[DicomFile], passed_over: tuple[Path, ...]) -> Series:
    first = files[0]
    number = read_text(first.dataset, "SeriesNumber", first.path)
    modality = read_text(first.dataset, "Modality", first.path)
    # Any other content is dropped, because it may be the patient's name.
    number = number if number.isdecimal() and len(number) <= 12 else ""
    modality = modality if modality in _MODALITIES else ""
    return Series(root, uid, number, modality, tuple(files), passed_over)


def _is_scan(file: DicomFile) -> bool:
    # The class is stored twice. One of them may be damaged, which must not lose a slice.
    classes = {file.sop_class, read_text(file.dataset, "SOPClassUID", file.path) or file.sop_class}
    return any(_is_image_class(one, file) for one in classes)


def _is_image_class(sop_class: str, file: DicomFile) -> bool:
    with pydicom_errors(file.path):
        from pydicom.uid import UID

        name = UID(sop_class).name
    if sop_class == LABEL_MAP or any(word in name for word in _NO_SCAN):
        return False
    # A private class has no name; it is an image if it has pixels.
    return "Image Storage" in name or file.pixels is not None


def _pattern(path: Path) -> str:
    return re.sub(r"\d+", "0", path.name)


def _order(series: Series) -> tuple[int, str]:
    return int(series.number or -1), series.uid


def _list(found: Sequence[Series]) -> str:
    return ", ".join(series.describe() for series in found)


def _raise(error: OSError) -> None:
    raise error
