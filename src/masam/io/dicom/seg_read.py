"""DICOM segmentation objects in: segments become label values on a grid, never anywhere else.

A voxel of a FRACTIONAL segment is inside where its probability or occupancy is above one half: at one half it is as
much outside, and of classes that share a voxel no two can be above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    read_integer,
    read_layout,
    read_numbers,
    read_text,
    unit_axes,
)
from masam.io.dicom.pixels import stored_numbers
from masam.io.dicom.series import Stack
from masam.io.dicom.stack import MAX_DRIFT
from masam.labels import LabelScheme
from masam.volume import Geometry, Volume

_KINDS = {"BINARY": SEGMENTATION, "FRACTIONAL": SEGMENTATION, "LABELMAP": LABEL_MAP}
_FRACTIONS = ("PROBABILITY", "OCCUPANCY")
_MAX_FRAMES = 1_000_000
_MAX_SEGMENT = 65535
_PLACE_TOLERANCE_VOXEL = 0.05
_FLIP_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class _Seg:
    """A segmentation object that has been judged, but for where its frames lie."""

    file: DicomFile
    kind: str
    values: Mapping[int, int]
    frames: tuple[Frame, ...]
    numbers: tuple[int, ...]
    step_mm: float | None


def read_seg(path: Path, reference: Volume | Stack | Sequence[Stack], scheme: LabelScheme | None = None) -> Volume:
    """Read a DICOM segmentation object as a label file.

    Args:
        path: A SEG of type BINARY, FRACTIONAL or LABELMAP; slices without a voxel may be left out.
        reference: The image that it segments, or its series, which is also compared by its UID; of several channels
            their series, on one grid, of which any may be the one that it was drawn on.
        scheme: Its classes, by the segments' labels; without it, values are the numbers of the segments.

    Returns:
        int32 values on the grid of ``reference``.

    Raises:
        InputError: It is no such object, belongs to another series or grid, its segments overlap, or a segment is no
            class of ``scheme``.
        ResourceError: pydicom is missing, memory does not suffice, or the system did not let us read.
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
    places = [_place(frame, geometry, shape) for frame in seg.frames]
    for k, values in zip(places, _frame_values(seg), strict=True):
        _add(array[..., k], values, k, path)
    return Volume(array, geometry)


def seg_grid(paths: Sequence[Path]) -> Volume:
    """Return the smallest grid that holds every frame of some SEGs, for where their image is not at hand.

    Args:
        paths: Segmentation objects drawn on one grid.

    Returns:
        An image without content on that grid; slices as in a series, along their normal.

    Raises:
        InputError: A file is refused, or the frames lie on no grid or on two.
        ResourceError: pydicom is missing, or the system did not let us read.
    """
    segs = [_read(path, None) for path in paths]
    frames = [frame for seg in segs for frame in seg.frames]
    first = frames[0]
    for frame in frames:
        if not _is_parallel(first, frame):
            raise InputError(
                f"its frames ({_describe(frame)}) lie on another grid than those of {first.file.path} "
                f"({_describe(first)})",
                where=frame.file.path,
                fix="export both on the grid of their image",
            )
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    heights = np.array([frame.position_lps_mm for frame in frames]) @ normal
    lowest = int(heights.argmin())
    step_mm = _step_mm(next((seg.step_mm for seg in segs if seg.step_mm), None), heights, first.thickness_mm)
    count = round(float(np.ptp(heights)) / step_mm) + 1
    layout = first.layout
    if 4 * layout.columns * layout.rows * count > gate.MAX_VOLUME_BYTES:
        raise InputError(f"its frames span {count} slices, more than is accepted", where=first.file.path)
    affine = np.eye(4)
    for axis, direction in enumerate((row * first.spacing_mm[1], column * first.spacing_mm[0], normal * step_mm)):
        affine[:3, axis] = direction * _FLIP_TO_RAS
    affine[:3, 3] = np.array(frames[lowest].position_lps_mm) * _FLIP_TO_RAS
    # Without memory of its own: nobody asks for the voxels of an image that is not there.
    return Volume(np.broadcast_to(np.uint8(0), (layout.columns, layout.rows, count)), Geometry(affine))


def _step_mm(said_mm: float | None, heights: NDArray[np.float64], thickness_mm: float | None) -> float:
    """Return the distance of slices: what the files say if it fits, or the smallest that there is, or a thickness."""
    gaps = np.diff(np.unique(np.round(heights, 3)))
    if said_mm and np.abs(gaps / said_mm - np.rint(gaps / said_mm)).max(initial=0) <= MAX_DRIFT:
        return said_mm
    return float(gaps.min()) if gaps.size else said_mm or thickness_mm or 1.0


def _is_parallel(first: Frame, frame: Frame) -> bool:
    one, other = first.layout, frame.layout
    return (
        (one.rows, one.columns) == (other.rows, other.columns)
        and np.allclose(first.orientation, frame.orientation, rtol=0, atol=1e-4)
        and np.allclose(first.spacing_mm, frame.spacing_mm, rtol=1e-4, atol=0)
    )


def _read(path: Path, scheme: LabelScheme | None) -> _Seg:
    """Judge a file: what kind it is, what its segments are, and that its bytes are as many as they claim."""
    file = read_header(path)
    kind = read_text(file.dataset, "SegmentationType", path)
    if _KINDS.get(kind) != file.sop_class:
        raise InputError(f"expected a DICOM SEG ({', '.join(_KINDS)}), got another object", where=path)
    if kind == "FRACTIONAL" and read_text(file.dataset, "SegmentationFractionalType", path) not in _FRACTIONS:
        raise InputError(f"expected fractions that are {' or '.join(_FRACTIONS)}", where=path)
    layout = _binary_layout(file) if kind == "BINARY" else read_layout(file)
    if layout.signed or layout.bits_allocated > 16:
        raise InputError("expected numbers of 8 or 16 bits without a sign", where=path)
    with pydicom_errors(path):
        groups = list(file.dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if len(groups) != layout.frames:
        raise InputError(f"expected the place of each of {layout.frames} frames, got {len(groups)}", where=path)
    values = _values(file, kind, scheme)
    found = []
    for index, group in enumerate(groups if kind != "LABELMAP" else ()):
        (number,) = _fact(group, file, "SegmentIdentificationSequence", "ReferencedSegmentNumber") or (0,)
        if number not in values:
            raise _undescribed(index, number, path)
        found.append(int(number))
    frames = tuple(_frame(file, layout, index, group) for index, group in enumerate(groups))
    step = _fact(groups[0], file, "PixelMeasuresSequence", "SpacingBetweenSlices")
    return _Seg(file, kind, values, frames, tuple(found), abs(step[0]) if step else None)


def _undescribed(index: int, number: float, path: Path) -> InputError:
    return InputError(f"frame {index + 1} is of segment {number:g}, which nothing describes", where=path)


def _binary_layout(file: DicomFile) -> PixelLayout:
    path, pixels = file.path, file.pixels
    rows, columns = read_integer(file.dataset, "Rows", path), read_integer(file.dataset, "Columns", path)
    frames = read_integer(file.dataset, "NumberOfFrames", path, 1)
    if pixels is None or pixels.encapsulated or read_integer(file.dataset, "BitsAllocated", path) != 1:
        raise InputError("expected uncompressed segments of 1 bit a voxel", where=path)
    needed = (frames * rows * columns + 7) // 8
    if not (0 < frames <= _MAX_FRAMES and min(rows, columns) > 0 and needed <= pixels.length <= needed + 1):
        raise InputError(f"it claims {frames} frames ({needed} bytes), the file has {pixels.length}", where=path)
    return PixelLayout(rows, columns, frames, 1, 1, False, False, None)


def _values(file: DicomFile, kind: str, scheme: LabelScheme | None) -> Mapping[int, int]:
    """Return number of segment to label value."""
    path = file.path
    with pydicom_errors(path):
        described = list(file.dataset.get("SegmentSequence") or [])
    names = {read_integer(one, "SegmentNumber", path): read_text(one, "SegmentLabel", path) for one in described}
    values: dict[int, int] = {}
    # A label map has a number for what no segment holds, and may describe it as if it were one.
    if kind == "LABELMAP" and names.get(0, "background").casefold() == "background":
        values[0] = 0
        if 0 in names:
            del names[0], described[0]
    least = 0 if kind == "LABELMAP" else 1
    if not names or len(names) != len(described) or not least <= min(names) <= max(names) <= _MAX_SEGMENT:
        raise InputError(f"expected segments with numbers of their own, from 1 to {_MAX_SEGMENT}", where=path)
    if scheme is None:
        return values | {number: number for number in names}
    known = {label.name[:64]: label.value for label in scheme.foreground}
    if scheme.ignore_value is not None:
        known["ignore"] = scheme.ignore_value
    if unknown := sorted(set(names.values()) - known.keys()):
        raise InputError(
            f"segment {unknown[0]!r} is no class of the data set (it knows {sorted(known)})",
            where=path,
            fix="rename the segment, or add the class to dataset.json",
        )
    return values | {number: known[name] for number, name in names.items()}


def _fact(group: Any, file: DicomFile, sequence: str, key: str) -> tuple[float, ...]:
    """Return numbers of a frame, its own before those that all frames share; none if neither has them."""
    with pydicom_errors(file.path):
        groups = [group, *(file.dataset.get("SharedFunctionalGroupsSequence") or [])]
        items = [item for one in groups for item in one.get(sequence) or []]
    return (read_numbers(items[0], key, file.path) if items else None) or ()


def _frame(file: DicomFile, layout: PixelLayout, index: int, group: Any) -> Frame:
    """Return where a frame says it lies."""
    path = file.path
    position = _fact(group, file, "PlanePositionSequence", "ImagePositionPatient")
    directions = _fact(group, file, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = _fact(group, file, "PixelMeasuresSequence", "PixelSpacing")
    if (len(position), len(directions), len(spacing)) != (3, 6, 2):
        raise InputError("a frame does not say where it lies", where=path)
    thickness = _fact(group, file, "PixelMeasuresSequence", "SliceThickness") or (0.0,)
    axes = unit_axes(directions, path)
    return Frame(file, layout, index, position, axes, spacing, abs(thickness[0]) or None, 1.0, 0.0)


def _place(frame: Frame, geometry: Geometry, shape: tuple[int, int, int]) -> int:
    """Return the slice of the image in which a frame lies."""
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    plane = np.array([row * frame.spacing_mm[1], column * frame.spacing_mm[0]]) * _FLIP_TO_RAS
    axes = geometry.affine[:3, :3]
    across = np.abs(plane.T - axes[:, :2]).max() * max(shape[:2])
    index = np.linalg.solve(axes, np.array(frame.position_lps_mm) * _FLIP_TO_RAS - geometry.affine[:3, 3])
    k = round(float(index[2]))
    off = np.abs(index - (0, 0, k))
    is_near = off[:2].max() <= _PLACE_TOLERANCE_VOXEL and off[2] <= MAX_DRIFT
    is_near = is_near and across <= _PLACE_TOLERANCE_VOXEL * min(geometry.spacing_mm)
    if not is_near or not 0 <= k < shape[2]:
        i, j, depth = shape
        a, b, c = geometry.spacing_mm
        raise InputError(
            f"a frame ({_describe(frame)}) does not lie on the image's grid ({i} x {j} x {depth} voxels of "
            f"{a:.4g} x {b:.4g} x {c:.4g} mm from {_rounded(geometry.affine[:3, 3])} mm)",
            where=frame.file.path,
            fix="export the SEG on the grid of its image",
        )
    return k


def _describe(frame: Frame) -> str:
    origin = _rounded(np.array(frame.position_lps_mm) * _FLIP_TO_RAS)
    size, (b, a) = frame.layout, frame.spacing_mm
    return f"{size.columns} x {size.rows} voxels of {a:.4g} x {b:.4g} mm from {origin} mm"


def _rounded(position: NDArray[np.float64]) -> list[float]:
    return [round(float(x), 2) for x in position]


def _require_same_series(file: DicomFile, stacks: Sequence[Stack]) -> None:
    with pydicom_errors(file.path):
        named = {str(item.get("SeriesInstanceUID")) for item in file.dataset.get("ReferencedSeriesSequence") or []}
        frame, *frames = (
            str(one.dataset.get("FrameOfReferenceUID") or "")
            for one in (file, *(stack.frames[0].file for stack in stacks))
        )
    if not named & {stack.series.uid for stack in stacks} if named else frame not in frames:
        described = " or ".join(stack.series.describe() for stack in stacks)
        raise InputError(f"the SEG was drawn on another series than {described}", where=file.path, fix="pair them anew")


def _frame_values(seg: _Seg) -> Iterator[NDArray[np.int32]]:
    """Yield the label values [columns, rows] of each frame, 0 where it says nothing."""
    path = seg.file.path
    if seg.kind == "LABELMAP":
        table = np.full(_MAX_SEGMENT + 1, -1, np.int32)
        for number, value in seg.values.items():
            table[number] = value
        for frame, stored in zip(seg.frames, stored_numbers(seg.frames), strict=True):
            values = table[np.clip(stored, 0, _MAX_SEGMENT)]
            if (values < 0).any():
                raise _undescribed(frame.index, float(stored[values < 0][0]), path)
            yield values.T
        return
    insides: Iterator[NDArray[np.bool_]] = map(_bits, seg.frames)
    if seg.kind == "FRACTIONAL":
        most = read_integer(seg.file.dataset, "MaximumFractionalValue", path)
        if most < 1:
            raise InputError(f"expected a MaximumFractionalValue of 1 or more, got {most}", where=path)
        insides = (2 * stored > most for stored in stored_numbers(seg.frames))
    for number, inside in zip(seg.numbers, insides, strict=True):
        yield np.where(inside, np.int32(seg.values[number]), np.int32(0)).T


def _add(slab: NDArray[np.int32], values: NDArray[np.int32], k: int, path: Path) -> None:
    """Put the values of a frame into its slice."""
    clash = (values != 0) & (slab != 0) & (slab != values)
    if clash.any():
        raise InputError(
            f"segments overlap in slice {k}: label values {values[clash][0]} and {slab[clash][0]}",
            where=path,
            fix="labels give each voxel one class; export the segments without overlap",
        )
    np.copyto(slab, values, where=values != 0)


def _bits(frame: Frame) -> NDArray[np.bool_]:
    """Return the voxels [rows, columns] inside a frame's segment; frames follow one another bit by bit."""
    size = frame.layout.rows * frame.layout.columns
    first = frame.index * size
    start, end = first // 8, (first + size + 7) // 8
    data = np.frombuffer(frame.file.read_pixels(start, end - start), np.uint8)
    bits = np.unpackbits(data, bitorder="little")[first - 8 * start :][:size]
    return bits.reshape(frame.layout.rows, frame.layout.columns).astype(bool)
