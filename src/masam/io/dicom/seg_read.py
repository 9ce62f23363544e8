"""Read DICOM segmentation objects as label values on the grid of an image.

A voxel of a FRACTIONAL segment is foreground if its probability or occupancy is above one half. Of several classes that
share a voxel, at most one can be above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.io import gate
from masam.io.dicom.file import DicomFile, pydicom_errors, read_header
from masam.io.dicom.frames import (
    LABEL_MAP,
    SEGMENTATION,
    Frame,
    PixelLayout,
    find_numbers,
    read_frames,
    read_integer,
    read_layout,
    read_text,
)
from masam.io.dicom.pixels import stored_numbers
from masam.io.dicom.series import Stack
from masam.io.dicom.stack import FLIP_TO_RAS, MAX_DRIFT, geometry_of, normal_of, require_same_plane
from masam.labels import LabelScheme
from masam.volume import Geometry, Volume

_KINDS = {"BINARY": SEGMENTATION, "FRACTIONAL": SEGMENTATION, "LABELMAP": LABEL_MAP}
_FRACTIONS = ("PROBABILITY", "OCCUPANCY")
_MAX_FRAMES = 1_000_000
_MAX_SEGMENT = 65535
_POSITION_TOLERANCE_VOXEL = 0.05


@dataclass(frozen=True, eq=False)
class _Seg:
    """A segmentation object: label value by segment number, its frames, and the segment number of each frame."""

    file: DicomFile
    kind: str
    values: Mapping[int, int]
    frames: tuple[Frame, ...]
    segments: tuple[int, ...]
    step_mm: float | None


def read_seg(path: Path, reference: Volume | Stack | Sequence[Stack], scheme: LabelScheme | None = None) -> Volume:
    """Read a DICOM segmentation object as a label volume of int32.

    Args:
        path: A SEG of type BINARY, FRACTIONAL or LABELMAP; slices without foreground may be missing.
        reference: The segmented image, or its series, whose UID is compared as well. For several channels, their
            series on one grid; the SEG may refer to any of them. Its grid is that of the result.
        scheme: Label scheme that maps segment labels to values; by default values are the segment numbers.

    Raises:
        InputError: The file is not a SEG, belongs to another series or grid, its segments overlap, or a segment is not
            in ``scheme``.
    """
    seg = _read(path, scheme)
    if not isinstance(reference, Volume):
        stacks = [reference] if isinstance(reference, Stack) else list(reference)
        _require_same_series(seg.file, stacks)
        reference = stacks[0]
    geometry, shape = reference.geometry, reference.shape
    layout = seg.frames[0].layout
    if (layout.columns, layout.rows) != shape[:2]:
        raise InputError(
            f"expected {shape[0]} x {shape[1]} voxels as in the image, got {layout.columns} x {layout.rows}",
            where=path,
            fix="export the SEG on the grid of its image",
        )
    with gate.os_errors(path):
        array = np.zeros(shape, np.int32, order="F")
    # All positions are checked before any pixel is read.
    indices = [_slice_index(frame, geometry, shape) for frame in seg.frames]
    for k, values in zip(indices, _frame_values(seg), strict=True):
        labels = array[..., k]
        overlap = (values != 0) & (labels != 0) & (labels != values)
        if overlap.any():
            raise InputError(
                f"segments overlap in slice {k}: label values {values[overlap][0]} and {labels[overlap][0]}",
                where=path,
                fix="export the segments without overlap, as a label file has one class per voxel",
            )
        np.copyto(labels, values, where=values != 0)
    return Volume(array, geometry)


def seg_grid(paths: Sequence[Path]) -> Volume:
    """Return an image of zeros on the smallest grid that contains every frame of one or more SEGs."""
    segs = [_read(path, None) for path in paths]
    frames = [frame for seg in segs for frame in seg.frames]
    first = frames[0]
    for frame in frames:
        require_same_plane(first, frame)
    normal = normal_of(first)
    heights = np.array([frame.position_lps_mm for frame in frames]) @ normal
    step_mm = _step_mm(next((seg.step_mm for seg in segs if seg.step_mm), None), heights, first.thickness_mm)
    count = round(float(np.ptp(heights)) / step_mm) + 1
    layout = first.layout
    if 4 * layout.columns * layout.rows * count > gate.MAX_VOLUME_BYTES:
        raise InputError(
            f"the frames span {count} slices, more than {gate.MAX_VOLUME_BYTES} bytes", where=first.file.path
        )
    geometry = geometry_of(frames[int(heights.argmin())], normal * step_mm)
    # A broadcast array takes no memory.
    return Volume(np.broadcast_to(np.uint8(0), (layout.columns, layout.rows, count)), geometry)


def _step_mm(declared_mm: float | None, heights: NDArray[np.float64], thickness_mm: float | None) -> float:
    """Return the distance between slices: as declared if that fits, else the smallest gap, else the thickness."""
    gaps = np.diff(np.unique(np.round(heights, 3)))
    if declared_mm and np.abs(gaps / declared_mm - np.rint(gaps / declared_mm)).max(initial=0) <= MAX_DRIFT:
        return declared_mm
    return float(gaps.min()) if gaps.size else declared_mm or thickness_mm or 1.0


def _read(path: Path, scheme: LabelScheme | None) -> _Seg:
    """Read the header of a SEG, and check its type, segments and size."""
    file = read_header(path)
    kind = read_text(file.dataset, "SegmentationType", path)
    if _KINDS.get(kind) != file.sop_class:
        raise InputError(f"expected a DICOM SEG ({', '.join(_KINDS)}), got another object", where=path)
    if kind == "FRACTIONAL" and read_text(file.dataset, "SegmentationFractionalType", path) not in _FRACTIONS:
        raise InputError(f"expected SegmentationFractionalType {' or '.join(_FRACTIONS)}", where=path)
    layout = _binary_layout(file) if kind == "BINARY" else read_layout(file)
    if layout.signed or layout.bits_allocated > 16:
        raise InputError("expected unsigned pixels with 8 or 16 bits", where=path)
    frames = read_frames(file, layout)
    values = _values(file, kind, scheme)
    segments = []
    for frame in frames if kind != "LABELMAP" else ():
        (number,) = find_numbers(frame.sources, "ReferencedSegmentNumber", 1, path) or (0,)
        if number not in values:
            raise _unknown_segment(frame.index, number, path)
        segments.append(int(number))
    step = find_numbers(frames[0].sources, "SpacingBetweenSlices", 1, path)
    return _Seg(file, kind, values, frames, tuple(segments), abs(step[0]) if step else None)


def _unknown_segment(index: int, number: float, path: Path) -> InputError:
    return InputError(f"frame {index + 1} refers to segment {number:g}, which is not described", where=path)


def _binary_layout(file: DicomFile) -> PixelLayout:
    path, pixels = file.path, file.pixels
    rows, columns = read_integer(file.dataset, "Rows", path), read_integer(file.dataset, "Columns", path)
    frames = read_integer(file.dataset, "NumberOfFrames", path, 1)
    if pixels is None or pixels.encapsulated or read_integer(file.dataset, "BitsAllocated", path) != 1:
        raise InputError("expected uncompressed segments with 1 bit per pixel", where=path)
    needed = (frames * rows * columns + 7) // 8
    if not (0 < frames <= _MAX_FRAMES and min(rows, columns) > 0 and needed <= pixels.length <= needed + 1):
        raise InputError(
            f"the header declares {frames} frames ({needed} bytes), the file has {pixels.length} bytes", where=path
        )
    return PixelLayout(rows, columns, frames, 1, 1, False, False, None)


def _values(file: DicomFile, kind: str, scheme: LabelScheme | None) -> Mapping[int, int]:
    """Return the label value of each segment number."""
    path = file.path
    with pydicom_errors(path):
        described = list(file.dataset.get("SegmentSequence") or [])
    names = {read_integer(one, "SegmentNumber", path): read_text(one, "SegmentLabel", path) for one in described}
    values: dict[int, int] = {}
    # A label map uses 0 for the background, and may describe it like a segment.
    if kind == "LABELMAP" and names.get(0, "background").casefold() == "background":
        values[0] = 0
        if 0 in names:
            del names[0], described[0]
    first = 0 if kind == "LABELMAP" else 1
    if not names or len(names) != len(described) or not first <= min(names) <= max(names) <= _MAX_SEGMENT:
        raise InputError(f"expected segments with unique numbers from 1 to {_MAX_SEGMENT}", where=path)
    if scheme is None:
        return values | {number: number for number in names}
    known = {label.name[:64]: label.value for label in scheme.foreground}
    if scheme.ignore_value is not None:
        known["ignore"] = scheme.ignore_value
    if unknown := sorted(set(names.values()) - known.keys()):
        raise InputError(
            f"segment {unknown[0]!r} is not a class of the data set, which defines {sorted(known)}",
            where=path,
            fix="rename the segment, or add the class to dataset.json",
        )
    return values | {number: known[name] for number, name in names.items()}


def _slice_index(frame: Frame, geometry: Geometry, shape: tuple[int, int, int]) -> int:
    """Return the index of the image slice that contains a frame."""
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    plane = np.array([row * frame.spacing_mm[1], column * frame.spacing_mm[0]]) * FLIP_TO_RAS
    axes = geometry.affine[:3, :3]
    across = np.abs(plane.T - axes[:, :2]).max() * max(shape[:2])
    index = np.linalg.solve(axes, np.array(frame.position_lps_mm) * FLIP_TO_RAS - geometry.affine[:3, 3])
    k = round(float(index[2]))
    offset = np.abs(index - (0, 0, k))
    is_near = offset[:2].max() <= _POSITION_TOLERANCE_VOXEL and offset[2] <= MAX_DRIFT
    is_near = is_near and across <= _POSITION_TOLERANCE_VOXEL * min(geometry.spacing_mm)
    if not is_near or not 0 <= k < shape[2]:
        layout, (b, a) = frame.layout, frame.spacing_mm
        origin = (np.array(frame.position_lps_mm) * FLIP_TO_RAS).round(2).tolist()
        i, j, depth = shape
        x, y, z = geometry.spacing_mm
        raise InputError(
            f"a frame ({layout.columns} x {layout.rows} voxels of {a:.4g} x {b:.4g} mm at {origin} mm) is not on the "
            f"grid of the image ({i} x {j} x {depth} voxels of {x:.4g} x {y:.4g} x {z:.4g} mm at "
            f"{geometry.affine[:3, 3].round(2).tolist()} mm)",
            where=frame.file.path,
            fix="export the SEG on the grid of its image",
        )
    return k


def _require_same_series(file: DicomFile, stacks: Sequence[Stack]) -> None:
    with pydicom_errors(file.path):
        named = {str(item.get("SeriesInstanceUID")) for item in file.dataset.get("ReferencedSeriesSequence") or []}
        frame, *frames = (
            str(one.dataset.get("FrameOfReferenceUID") or "")
            for one in (file, *(stack.frames[0].file for stack in stacks))
        )
    if not named & {stack.series.uid for stack in stacks} if named else frame not in frames:
        described = " or ".join(stack.series.describe() for stack in stacks)
        raise InputError(
            f"the SEG was drawn on another series than {described}",
            where=file.path,
            fix="use the SEG together with its own series",
        )


def _frame_values(seg: _Seg) -> Iterator[NDArray[np.int32]]:
    """Yield the label values [columns, rows] of each frame, 0 outside its segment."""
    path = seg.file.path
    if seg.kind == "LABELMAP":
        table = np.full(_MAX_SEGMENT + 1, -1, np.int32)
        for number, value in seg.values.items():
            table[number] = value
        for frame, stored in zip(seg.frames, stored_numbers(seg.frames), strict=True):
            values = table[np.clip(stored, 0, _MAX_SEGMENT)]
            if (values < 0).any():
                raise _unknown_segment(frame.index, float(stored[values < 0][0]), path)
            yield values.T
        return
    masks: Iterator[NDArray[np.bool_]] = map(_binary_mask, seg.frames)
    if seg.kind == "FRACTIONAL":
        maximum = read_integer(seg.file.dataset, "MaximumFractionalValue", path)
        if maximum < 1:
            raise InputError(f"expected a MaximumFractionalValue of 1 or more, got {maximum}", where=path)
        masks = (2 * stored > maximum for stored in stored_numbers(seg.frames))
    for number, mask in zip(seg.segments, masks, strict=True):
        yield np.where(mask, np.int32(seg.values[number]), np.int32(0)).T


def _binary_mask(frame: Frame) -> NDArray[np.bool_]:
    """Return the mask [rows, columns] of a BINARY frame; the bits of all frames are contiguous."""
    size = frame.layout.rows * frame.layout.columns
    first = frame.index * size
    start, end = first // 8, (first + size + 7) // 8
    data = np.frombuffer(frame.file.read_pixels(start, end - start), np.uint8)
    bits = np.unpackbits(data, bitorder="little")[first - 8 * start :][:size]
    return bits.reshape(frame.layout.rows, frame.layout.columns).astype(bool)
