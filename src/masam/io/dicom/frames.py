"""The frames of a DICOM file: position, spacing, scaling, and how their pixels are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masam.errors import InputError
from masam.io import gate
from masam.io.dicom.file import DicomFile, pydicom_errors

# RLE reaches a ratio of 64; JPEG 2000 has no limit on empty slices, so small declared sizes are always accepted.
_TRUSTED_RATIO, _TRUSTED_BYTES = 1000, 64 * 2**20
_MAX_SIDE, _MAX_FRAMES = 65535, 100_000
_UNIT_TOLERANCE = 1e-3
_MAX_MM = 1e6
SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
"""SOP classes of segmentation objects; pydicom 3.0 does not define the second, which was added in 2024."""
_GREY = ("MONOCHROME1", "MONOCHROME2")
# The values that an error may quote; any element of a damaged header may contain the patient's name.
_COLOURS = (
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT",
)  # fmt: skip
_FRAME_SEQUENCES = (
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence",
    "SegmentIdentificationSequence",
)  # fmt: skip


@dataclass(frozen=True)
class PixelLayout:
    """How the pixels of a file are stored.

    Attributes:
        rows, columns, frames: Height and width of a frame, and number of frames.
        bits_allocated: Bits per pixel: 8, 16 or 32, or 1 in a BINARY segmentation.
        bits_stored: Number of low bits that hold the value.
        signed: Whether values are in two's complement.
        inverted: Whether high values are dark (MONOCHROME1).
        padding: Lowest and highest stored value that mark pixels outside the image, or None.
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
        """Size of an uncompressed frame in bytes."""
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice.

    Attributes:
        file: The file that contains it.
        layout: How its pixels are stored.
        index: Index of the frame in the file, from 0.
        sources: pydicom Datasets that describe the frame, in order of precedence.
        position_lps_mm: Centre of its first pixel.
        orientation: Direction cosines of a row, then of a column, in DICOM's frame (LPS).
        spacing_mm: Distance between rows, then between columns.
        thickness_mm: Thickness, or else the distance between slices; None if the file contains neither.
        slope, intercept: Factor and offset from stored values to units.
    """

    file: DicomFile
    layout: PixelLayout
    index: int
    sources: tuple[Any, ...]
    position_lps_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    thickness_mm: float | None
    slope: float
    intercept: float

    @property
    def name(self) -> str:
        """Name of the file, with the number of the frame if the file has several."""
        path = str(self.file.path)
        return path if self.layout.frames == 1 else f"{path}, frame {self.index + 1}"


def read_layout(file: DicomFile) -> PixelLayout:
    """Return how the pixels of a file are stored, checked against the bytes that are present."""
    path, dataset, pixels = file.path, file.dataset, file.pixels
    if pixels is None:
        raise InputError("the file is cut off: an image without pixels", where=path, fix="copy or export it again")
    if not pixels.integers:
        raise InputError("expected integer pixels, got floating-point pixels", where=path)
    colours = read_text(dataset, "PhotometricInterpretation", path)
    # The palette of a label map is for display only.
    accepted = (*_GREY, "PALETTE COLOR") if file.sop_class == LABEL_MAP else _GREY
    samples = read_integer(dataset, "SamplesPerPixel", path, 1)
    if samples != 1 or colours not in accepted:
        shown = colours if colours in _COLOURS else "an unknown PhotometricInterpretation"
        raise InputError(
            f"expected greyscale pixels, got {shown} with SamplesPerPixel {samples}",
            where=path,
            fix="choose a greyscale series",
        )
    rows, columns = (read_integer(dataset, key, path) for key in ("Rows", "Columns"))
    frames = read_integer(dataset, "NumberOfFrames", path, 1)
    if not (0 < rows <= _MAX_SIDE and 0 < columns <= _MAX_SIDE and 0 < frames <= _MAX_FRAMES):
        raise InputError(f"invalid image size {columns} x {rows} x {frames}", where=path)
    allocated = read_integer(dataset, "BitsAllocated", path)
    stored = read_integer(dataset, "BitsStored", path, allocated)
    high = read_integer(dataset, "HighBit", path, stored - 1)
    sign = read_integer(dataset, "PixelRepresentation", path, 0)
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or high != stored - 1 or sign not in (0, 1):
        raise InputError(
            "expected 8, 16 or 32 bits per pixel with the value in the lowest bits, got "
            f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}, PixelRepresentation {sign}",
            where=path,
        )
    if allocated == 8 and file.big_endian:
        raise InputError("8-bit pixels in big-endian byte order are not supported", where=path, fix="convert the file")
    padding = _read_padding(dataset, path, stored, sign == 1)
    layout = PixelLayout(rows, columns, frames, allocated, stored, sign == 1, colours == "MONOCHROME1", padding)
    _require_present(file, layout)
    return layout


def read_frames(file: DicomFile, layout: PixelLayout | None = None) -> tuple[Frame, ...]:
    """Return the frames of an image or segmentation, classic or enhanced multi-frame.

    By default, the layout is read from the header.
    """
    layout = layout or read_layout(file)
    with pydicom_errors(file.path):
        groups = list(file.dataset.get("PerFrameFunctionalGroupsSequence") or [])
        shared = list(file.dataset.get("SharedFunctionalGroupsSequence") or [])
    if not groups and not shared:
        if layout.frames > 1:
            raise InputError(
                f"the geometry of the {layout.frames} frames is missing", where=file.path, fix="convert it to NIfTI"
            )
        return (_frame(file, layout, 0, (file.dataset,)),)
    if len(groups) != layout.frames:
        raise InputError(
            f"expected functional groups for each of {layout.frames} frames, got {len(groups)}", where=file.path
        )
    frames = []
    for index, group in enumerate(groups):
        with pydicom_errors(file.path):
            items = [list(one.get(key) or [])[:1] for one in (group, *shared) for key in _FRAME_SEQUENCES]
        frames.append(_frame(file, layout, index, tuple(item for found in items for item in found)))
    return tuple(frames)


def _frame(file: DicomFile, layout: PixelLayout, index: int, sources: tuple[Any, ...]) -> Frame:
    path = file.path
    position = _require_numbers(sources, "ImagePositionPatient", 3, path)
    orientation = _require_numbers(sources, "ImageOrientationPatient", 6, path)
    spacing = _require_numbers(sources, "PixelSpacing", 2, path)
    if min(spacing) <= 0:
        raise InputError(f"expected a PixelSpacing above 0, got {list(spacing)}", where=path)
    keywords = "SliceThickness", "SpacingBetweenSlices"
    thickness = next(filter(None, (find_numbers(sources, keyword, 1, path) for keyword in keywords)), (0.0,))
    if max(map(abs, (*position, *spacing, *thickness))) > _MAX_MM:
        raise InputError(f"a position or spacing is larger than {_MAX_MM:g} mm", where=path)
    slope, intercept = _scaling(sources, path)
    axes = _unit_axes(orientation, path)
    return Frame(file, layout, index, sources, position, axes, spacing, abs(thickness[0]) or None, slope, intercept)


def _scaling(sources: Sequence[Any], path: Path) -> tuple[float, float]:
    """Return slope and intercept from stored values to units."""
    with pydicom_errors(path):
        has_table = any(source.get("ModalityLUTSequence") for source in sources)
    if has_table:
        raise InputError("a Modality LUT is not supported", where=path, fix="convert it to NIfTI")
    (slope,) = find_numbers(sources, "RescaleSlope", 1, path) or (1.0,)
    (intercept,) = find_numbers(sources, "RescaleIntercept", 1, path) or (0.0,)
    if slope == 0:
        raise InputError("expected a RescaleSlope other than 0", where=path)
    return slope, intercept


def find_numbers(sources: Sequence[Any], keyword: str, count: int, path: Path) -> tuple[float, ...] | None:
    """Return the ``count`` values of an element from the first data set that contains it, or None."""
    for source in sources:
        if (values := read_numbers(source, keyword, path)) is not None:
            if len(values) != count:
                raise InputError(f"expected {count} values in {keyword}, got {len(values)}", where=path)
            return values
    return None


def _require_numbers(sources: Sequence[Any], keyword: str, count: int, path: Path) -> tuple[float, ...]:
    if (values := find_numbers(sources, keyword, count, path)) is None:
        raise InputError(
            f"{keyword} is missing, so the geometry is unknown", where=path, fix="export it from the scanner again"
        )
    return values


def _unit_axes(orientation: tuple[float, ...], path: Path) -> tuple[float, ...]:
    """Return the directions of a row and of a column, orthogonal and of length 1."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > _UNIT_TOLERANCE:
        raise InputError("ImageOrientationPatient is not a pair of orthogonal unit vectors", where=path)
    # Files store six digits or fewer; without this the affine's spacing would be off by their rounding.
    row = row / lengths[0]
    column = column - (column @ row) * row
    return (*row.tolist(), *(column / np.linalg.norm(column)).tolist())


def _read_padding(dataset: Any, path: Path, bits: int, signed: bool) -> tuple[int, int] | None:
    first = read_numbers(dataset, "PixelPaddingValue", path)
    if not first:
        return None
    last = read_numbers(dataset, "PixelPaddingRangeLimit", path) or first
    # The type of the element is ambiguous (US or SS) and writers disagree; the stored bits decide.
    low, high = sorted(_wrap(int(value), bits, signed) for value in (first[0], last[0]))
    return low, high


def _wrap(value: int, bits: int, signed: bool) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def _require_present(file: DicomFile, layout: PixelLayout) -> None:
    """Compare the declared with the present number of bytes before memory is allocated."""
    pixels = file.pixels
    declared, present = layout.frame_bytes * layout.frames, pixels.length if pixels else 0
    what = f"the header declares {layout.columns} x {layout.rows} x {layout.frames} pixels ({declared} bytes)"
    if declared > gate.MAX_VOLUME_BYTES:
        raise InputError(f"{what}, the limit is {gate.MAX_VOLUME_BYTES} bytes", where=file.path)
    if pixels and pixels.encapsulated:
        if declared > max(_TRUSTED_BYTES, _TRUSTED_RATIO * present) or pixels.fragments < layout.frames:
            raise InputError(
                f"{what}, {present} bytes in {pixels.fragments} fragments cannot contain them", where=file.path
            )
    elif not declared <= present < declared + layout.frame_bytes + 1:
        raise InputError(f"{what}, the file has {present} bytes", where=file.path, fix="copy or export it again")


def read_text(dataset: Any, keyword: str, path: Path) -> str:
    """Return an element as text, empty if it is missing."""
    with pydicom_errors(path):
        return str(dataset.get(keyword) or "").strip("\0 ")


def read_integer(dataset: Any, keyword: str, path: Path, default: int | None = None) -> int:
    """Return an element as an integer; InputError if it is not one, or is missing and there is no default."""
    values = read_numbers(dataset, keyword, path)
    if not values:
        if default is None:
            raise InputError(f"{keyword} is missing", where=path)
        return default
    if len(values) > 1 or values[0] != int(values[0]):
        raise InputError(f"expected one integer in {keyword}", where=path)
    return int(values[0])


def read_numbers(dataset: Any, keyword: str, path: Path) -> tuple[float, ...] | None:
    """Return the finite values of an element, None if it is missing or empty."""
    with pydicom_errors(path):
        value = dataset.get(keyword)
        if value is None or value == "":
            return None
        values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        numbers = tuple(float(one) for one in values)
    if not all(np.isfinite(numbers)):
        raise InputError(f"expected finite numbers in {keyword}", where=path)
    return numbers or None
