"""What each frame of a DICOM file says of itself: place, spacing, scaling, and how its numbers are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masam.errors import InputError
from masam.io import gate
from masam.io.dicom.file import DicomFile, pydicom_errors

# Run lengths reach a ratio of 64; JPEG 2000 has no bound on empty slices, so a claim that costs little may be any.
_TRUSTED_RATIO, _TRUSTED_BYTES = 1000, 64 * 2**20
_MAX_SIDE, _MAX_FRAMES = 65535, 100_000
_UNIT_TOLERANCE = 1e-3
_MAX_MM = 1e6
SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
"""SOP classes of segmentation objects; pydicom 3.0 has no name for the second, which is of 2024."""
_GREY = ("MONOCHROME1", "MONOCHROME2")
# What an error may quote; a damaged header may hold the patient's name in any place.
_COLOURS = (
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT",
)  # fmt: skip


@dataclass(frozen=True)
class PixelLayout:
    """How the numbers of a file are stored.

    Attributes:
        rows: Height of a frame.
        columns: Width of a frame.
        frames: Number of frames.
        bits_allocated: Bits a voxel takes, 8, 16 or 32.
        bits_stored: Low bits of them that hold the number.
        signed: Whether they are two's complement.
        inverted: Whether high numbers are dark (MONOCHROME1).
        padding: Lowest and highest stored number that mean "no voxel", or None.
    """

    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    inverted: bool
    padding: tuple[int, int] | None

    @property
    def frame_bytes(self) -> int:
        """Bytes of one native frame."""
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice.

    Attributes:
        file: The file it lies in.
        layout: How its numbers are stored.
        index: Its number in the file, from 0.
        position_lps_mm: Centre of its first voxel.
        orientation: Direction of a row, then of a column, in DICOM's frame (LPS).
        spacing_mm: Distance of rows, then of columns.
        thickness_mm: Its thickness, or the distance of slices; None if the file has neither.
        slope: Factor from stored numbers to units.
        intercept: What is added then.
    """

    file: DicomFile
    layout: PixelLayout
    index: int
    position_lps_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    thickness_mm: float | None
    slope: float
    intercept: float

    @property
    def name(self) -> str:
        """The file's name, with the frame's number where there are several."""
        path = str(self.file.path)
        return path if self.layout.frames == 1 else f"{path}, frame {self.index + 1}"


def read_layout(file: DicomFile) -> PixelLayout:
    """Return how a file's numbers are stored, judged by the bytes that are there.

    Raises:
        InputError: It is in colour, of floating numbers, contradicts itself, or claims more than it holds.
    """
    path, dataset, pixels = file.path, file.dataset, file.pixels
    if pixels is None:
        raise InputError("the file is cut off: an image without pixels", where=path, fix="copy or export it again")
    if not pixels.integers:
        raise InputError("expected whole numbers as pixels, got floating ones", where=path)
    colours = read_text(dataset, "PhotometricInterpretation", path)
    # The palette of a label map tells how to show segments; its numbers are theirs.
    accepted = (*_GREY, "PALETTE COLOR") if file.sop_class == LABEL_MAP else _GREY
    if read_integer(dataset, "SamplesPerPixel", path, 1) != 1 or colours not in accepted:
        shown = colours if colours in _COLOURS else "another kind"
        raise InputError(
            f"expected one grey value a voxel, got {shown}", where=path, fix="choose a series of grey images"
        )
    rows, columns = (read_integer(dataset, key, path) for key in ("Rows", "Columns"))
    frames = read_integer(dataset, "NumberOfFrames", path, 1)
    if not (0 < rows <= _MAX_SIDE and 0 < columns <= _MAX_SIDE and 0 < frames <= _MAX_FRAMES):
        raise InputError(f"expected a size, got {columns} x {rows} x {frames}", where=path)
    allocated = read_integer(dataset, "BitsAllocated", path)
    stored = read_integer(dataset, "BitsStored", path, allocated)
    high = read_integer(dataset, "HighBit", path, stored - 1)
    sign = read_integer(dataset, "PixelRepresentation", path, 0)
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or high != stored - 1 or sign not in (0, 1):
        raise InputError(
            f"expected 8, 16 or 32 bits a voxel, the lowest of them in use, got {stored} of {allocated} "
            f"up to bit {high}, sign {sign}",
            where=path,
        )
    if allocated == 8 and file.big_endian:
        raise InputError("8 bits a voxel in big-endian words are not supported", where=path, fix="store it anew")
    layout = PixelLayout(
        *(rows, columns, frames, allocated, stored, sign == 1, colours == "MONOCHROME1"),
        _padding(dataset, path, stored, sign == 1),
    )
    _require_present(file, layout)
    return layout


def read_frames(file: DicomFile) -> tuple[Frame, ...]:
    """Return what a file says of each of its frames.

    Args:
        file: An image; classic, or enhanced multi-frame with its functional groups.

    Raises:
        InputError: A fact is missing, damaged, or not supported.
    """
    layout = read_layout(file)
    with pydicom_errors(file.path):
        groups = list(file.dataset.get("PerFrameFunctionalGroupsSequence") or [])
        shared = list(file.dataset.get("SharedFunctionalGroupsSequence") or [])
    if not groups and not shared:
        if layout.frames > 1:
            raise InputError(
                f"it holds {layout.frames} frames and no geometry for each", where=file.path, fix="convert it to NIfTI"
            )
        return (_frame(file, layout, 0, [file.dataset]),)
    if len(groups) != layout.frames:
        raise InputError(
            f"expected functional groups for each of {layout.frames} frames, got {len(groups)}", where=file.path
        )
    return tuple(_frame(file, layout, index, _sources(group, shared, file.path)) for index, group in enumerate(groups))


def _sources(group: Any, shared: list[Any], path: Path) -> list[Any]:
    """Return the data sets in which to look for a frame's facts, its own before those that it shares."""
    wanted = (
        "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
        "PixelValueTransformationSequence",
    )  # fmt: skip
    with pydicom_errors(path):
        return [item for one in (group, *shared) for key in wanted for item in list(one.get(key) or [])[:1]]


def _frame(file: DicomFile, layout: PixelLayout, index: int, sources: list[Any]) -> Frame:
    path = file.path
    position = _need(sources, "ImagePositionPatient", 3, path)
    orientation = _need(sources, "ImageOrientationPatient", 6, path)
    spacing = _need(sources, "PixelSpacing", 2, path)
    if min(spacing) <= 0:
        raise InputError(f"expected a PixelSpacing above 0, got {list(spacing)}", where=path)
    thickness = _find(sources, "SliceThickness", 1, path) or _find(sources, "SpacingBetweenSlices", 1, path) or (0.0,)
    if max(map(abs, (*position, *spacing, *thickness))) > _MAX_MM:
        raise InputError(f"a position or a spacing is beyond {_MAX_MM:g} mm", where=path)
    slope, intercept = _scaling(sources, path)
    return Frame(
        file=file,
        layout=layout,
        index=index,
        position_lps_mm=position,
        orientation=unit_axes(orientation, path),
        spacing_mm=spacing,
        thickness_mm=abs(thickness[0]) or None,
        slope=slope,
        intercept=intercept,
    )


def _scaling(sources: list[Any], path: Path) -> tuple[float, float]:
    """Return slope and intercept, from stored numbers to units."""
    with pydicom_errors(path):
        has_table = any(source.get("ModalityLUTSequence") for source in sources)
    if has_table:
        raise InputError("a table of units (Modality LUT) is not supported", where=path, fix="convert it to NIfTI")
    (slope,) = _find(sources, "RescaleSlope", 1, path) or (1.0,)
    (intercept,) = _find(sources, "RescaleIntercept", 1, path) or (0.0,)
    if slope == 0:
        raise InputError("its RescaleSlope is 0", where=path)
    return slope, intercept


def _find(sources: list[Any], keyword: str, count: int, path: Path) -> tuple[float, ...] | None:
    """Return an element's numbers, of the first data set that has it."""
    for source in sources:
        if (found := read_numbers(source, keyword, path)) is not None:
            if len(found) != count:
                raise InputError(f"expected {count} numbers as {keyword}, got {len(found)}", where=path)
            return found
    return None


def _need(sources: list[Any], keyword: str, count: int, path: Path) -> tuple[float, ...]:
    if (found := _find(sources, keyword, count, path)) is None:
        raise InputError(
            f"it has no {keyword}, so where the slice lies is unknown", where=path, fix="export it from the scanner"
        )
    return found


def unit_axes(orientation: tuple[float, ...], path: Path) -> tuple[float, ...]:
    """Return the directions of a row and of a column at a right angle, each of length 1.

    Raises:
        InputError: They are off by more than rounding.
    """
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > _UNIT_TOLERANCE:
        raise InputError("its ImageOrientationPatient is not two directions at a right angle", where=path)
    # Files give six digits or fewer; without this the affine's spacing would be off by their rounding.
    row = row / lengths[0]
    column = column - (column @ row) * row
    return (*row.tolist(), *(column / np.linalg.norm(column)).tolist())


def _padding(dataset: Any, path: Path, bits: int, signed: bool) -> tuple[int, int] | None:
    first = read_numbers(dataset, "PixelPaddingValue", path)
    if not first:
        return None
    last = read_numbers(dataset, "PixelPaddingRangeLimit", path) or first
    # The element's own type is ambiguous (US or SS), so writers disagree: the stored bits decide.
    low, high = sorted(_wrapped(int(value), bits, signed) for value in (first[0], last[0]))
    return low, high


def _wrapped(value: int, bits: int, signed: bool) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def _require_present(file: DicomFile, layout: PixelLayout) -> None:
    """Compare what is claimed with what is there, before any memory is taken."""
    pixels = file.pixels
    claimed, present = layout.frame_bytes * layout.frames, pixels.length if pixels else 0
    what = f"{layout.columns} x {layout.rows} x {layout.frames} voxels ({claimed} bytes)"
    if claimed > gate.MAX_VOLUME_BYTES:
        raise InputError(f"it claims {what}, more than is accepted", where=file.path)
    if pixels and pixels.encapsulated:
        if claimed > max(_TRUSTED_BYTES, _TRUSTED_RATIO * present) or pixels.fragments < layout.frames:
            raise InputError(
                f"it claims {what}, {present} bytes in {pixels.fragments} fragments cannot hold them", where=file.path
            )
    elif not claimed <= present < claimed + layout.frame_bytes + 1:
        raise InputError(f"it claims {what}, the file has {present}", where=file.path, fix="copy or export it again")


def read_text(dataset: Any, keyword: str, path: Path) -> str:
    """Return an element as text, empty if it is not there.

    Raises:
        InputError: It cannot be read.
    """
    with pydicom_errors(path):
        return str(dataset.get(keyword) or "").strip("\0 ")


def read_integer(dataset: Any, keyword: str, path: Path, default: int | None = None) -> int:
    """Return an element as a whole number.

    Raises:
        InputError: It is missing without a default, or not one whole number.
    """
    found = read_numbers(dataset, keyword, path)
    if not found:
        if default is None:
            raise InputError(f"it has no {keyword}", where=path)
        return default
    if len(found) > 1 or found[0] != int(found[0]):
        raise InputError(f"expected a whole number as {keyword}", where=path)
    return int(found[0])


def read_numbers(dataset: Any, keyword: str, path: Path) -> tuple[float, ...] | None:
    """Return an element's numbers, None if it is missing or empty.

    Raises:
        InputError: They are no finite numbers.
    """
    with pydicom_errors(path):
        value = dataset.get(keyword)
        if value is None or value == "":
            return None
        many = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        found = tuple(float(one) for one in many)
    if not all(np.isfinite(found)):
        raise InputError(f"expected finite numbers as {keyword}", where=path)
    return found or None
