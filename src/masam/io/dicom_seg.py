"""DICOM SEG in and out: labels as segments that name the images they were drawn on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam import __version__, atomic
from masam.errors import InputError
from masam.io.dicom_codes import Code, property_codes
from masam.io.dicom_file import DicomFile, quiet_border, read_header, require_package
from masam.io.dicom_frames import numbers, text, unit_axes, whole
from masam.io.dicom_series import Stack
from masam.io.dicom_stack import MAX_DRIFT
from masam.labels import Label, LabelScheme
from masam.volume import Geometry, Volume

_OTHER_TYPES = ("FRACTIONAL", "LABELMAP")
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_MAX_FRAMES = 1_000_000
_PLACE_TOLERANCE_VOXEL = 0.05
_FLIP_TO_RAS = np.array([-1.0, -1.0, 1.0])
# highdicom copies these into the SEG, where they may be empty but must be there.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime",
)  # fmt: skip
_SERIES_NUMBER = 9000
"""Number of the series that a SEG is; scanners count from 1."""


def write_seg(path: Path, labels: Volume, stack: Stack, scheme: LabelScheme) -> tuple[str, ...]:
    """Write labels as a DICOM segmentation object, one binary segment a class.

    Patient and study are copied from the source, as the standard wants; the file belongs where the source belongs.

    Args:
        path: File to write.
        labels: Values of ``scheme`` on the grid of the series.
        stack: The series that was segmented.
        scheme: The classes.

    Returns:
        Names of the classes without a voxel. They have no segment, unless that leaves none at all.

    Raises:
        InputError: The labels lie on another grid, or the series lacks what a SEG has to refer to.
        ResourceError: highdicom is missing, or the file cannot be written or did not read back voxel by voxel.
    """
    require_package("highdicom")
    if labels.shape != stack.shape or not labels.geometry.matches(stack.geometry, stack.shape):
        raise InputError("the labels do not lie on the grid of the series", where=stack.series.root)
    sources = _sources(stack)
    present = [label for label in scheme.foreground if (labels.array == label.value).any()]
    dataset = _segmentation(sources, _segment_numbers(labels, stack, present), present or scheme.foreground, stack)

    def write(temporary: Path) -> None:
        dataset.save_as(temporary)

    def verify(temporary: Path) -> None:
        again = read_seg(temporary, stack, scheme)
        known = np.isin(labels.array, [label.value for label in scheme.foreground])
        if not np.array_equal(again.array, np.where(known, labels.array, 0)):
            raise InputError("voxels differ", where=temporary)

    atomic.write_with(path, write, verify)
    return tuple(label.name for label in scheme.foreground if label not in present)


def read_seg(path: Path, reference: Volume | Stack | Sequence[Stack], scheme: LabelScheme | None = None) -> Volume:
    """Read a DICOM segmentation object as a label file.

    Args:
        path: A SEG of type BINARY.
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
    file = read_header(path)
    kind = text(file.dataset, "SegmentationType", path)
    if file.sop_class != _SEGMENTATION or kind != "BINARY":
        shown = f"type {kind}" if kind in _OTHER_TYPES else "another object"
        raise InputError(f"expected a DICOM SEG of type BINARY, got {shown}", where=path)
    if not isinstance(reference, Volume):
        stacks = [reference] if isinstance(reference, Stack) else list(reference)
        _require_same_series(file, stacks)
        reference = stacks[0]
    geometry, shape = reference.geometry, reference.shape
    array = np.zeros(shape, np.int32, order="F")
    values = _values(file, scheme)
    frames = _frames(file, shape)
    for index, group in enumerate(frames):
        (number,) = _fact(group, file, "SegmentIdentificationSequence", "ReferencedSegmentNumber") or (0,)
        if number not in values:
            raise InputError(f"frame {index + 1} is of segment {number:g}, which nothing describes", where=path)
        value = values[int(number)]
        k = _place(group, file, geometry, shape)
        inside = _bits(file, index, shape)
        slab = array[..., k]
        if (other := slab[inside & (slab != 0) & (slab != value)]).size:
            raise InputError(
                f"segments overlap in slice {k}: label values {value} and {other[0]}",
                where=path,
                fix="labels give each voxel one class; export the segments without overlap",
            )
        slab[inside] = value
    return Volume(array, geometry)


def _segmentation(sources: list[Any], numbered: NDArray[np.uint16], labels: Any, stack: Stack) -> Any:
    """Let highdicom make the object."""
    with quiet_border(stack.series.root):
        import highdicom
        from pydicom.sr.codedict import codes
        from pydicom.uid import generate_uid

        algorithm = highdicom.AlgorithmIdentificationSequence(
            name="masam", version=__version__, family=codes.DCM.ArtificialIntelligence
        )
        return highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=numbered,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_description(n, label, algorithm) for n, label in enumerate(labels, start=1)],
            series_instance_uid=generate_uid(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="masam",
            manufacturer_model_name="masam",
            software_versions=__version__,
            device_serial_number="0",
            content_label="MASAM",
            series_description="masam segmentation, research use only",
        )


def _description(number: int, label: Label, algorithm: Any) -> Any:
    import highdicom

    category, kind = property_codes(label.name)
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label.name[:64],
        segmented_property_category=_coded(category),
        segmented_property_type=_coded(kind),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=highdicom.color.CIELabColor.from_rgb(*label.colour),
    )


def _coded(code: Code) -> Any:
    import highdicom

    return highdicom.sr.CodedConcept(value=code[0], meaning=code[1], scheme_designator="SCT")


def _sources(stack: Stack) -> list[Any]:
    """Return the source's data sets, one a slice, or the one of a multi-frame file."""
    files = list(dict.fromkeys(frame.file for frame in stack.frames))
    if len(files) > 1 and len(files) != len(stack.frames):
        raise InputError(
            "a SEG of several multi-frame files is not supported", where=stack.series.root, fix="write NIfTI"
        )
    sources = []
    for file in files:
        dataset = copy.copy(file.dataset)
        with quiet_border(file.path):
            for key in _MAY_BE_EMPTY:
                if key not in dataset:
                    setattr(dataset, key, "")
            missing = [key for key in ("SOPInstanceUID", "StudyInstanceUID") if not dataset.get(key)]
        if missing:
            raise InputError(f"it has no {missing[0]}, which a SEG has to name", where=file.path, fix="write NIfTI")
        sources.append(dataset)
    return sources


def _segment_numbers(labels: Volume, stack: Stack, present: list[Label]) -> NDArray[np.uint16]:
    """Return numbers of segments [slices, rows, columns], slices in the order of the sources."""
    numbered = np.zeros(labels.shape, np.uint16)
    for number, label in enumerate(present, start=1):
        numbered[labels.array == label.value] = number
    slices = numbered.transpose(2, 1, 0)  # slices, rows, columns
    if stack.frames[0].form.frames > 1:
        slices = slices[np.argsort([frame.index for frame in stack.frames])]
    return np.ascontiguousarray(slices)


def _require_same_series(file: DicomFile, stacks: Sequence[Stack]) -> None:
    with quiet_border(file.path):
        named = {str(item.get("SeriesInstanceUID")) for item in file.dataset.get("ReferencedSeriesSequence") or []}
        frame, *frames = (
            str(one.dataset.get("FrameOfReferenceUID") or "")
            for one in (file, *(stack.frames[0].file for stack in stacks))
        )
    if not named & {stack.series.uid for stack in stacks} if named else frame not in frames:
        described = " or ".join(stack.series.describe() for stack in stacks)
        raise InputError(f"the SEG was drawn on another series than {described}", where=file.path, fix="pair them anew")


def _values(file: DicomFile, scheme: LabelScheme | None) -> Mapping[int, int]:
    """Return number of segment to label value."""
    path = file.path
    with quiet_border(path):
        described = list(file.dataset.get("SegmentSequence") or [])
    names = {whole(one, "SegmentNumber", path): text(one, "SegmentLabel", path) for one in described}
    if not names or len(names) != len(described) or not 1 <= min(names) <= max(names) <= 65535:
        raise InputError("expected segments with numbers of their own, from 1 to 65535", where=path)
    if scheme is None:
        return {number: number for number in names}
    known = {label.name[:64]: label.value for label in scheme.foreground}
    if scheme.ignore_value is not None:
        known["ignore"] = scheme.ignore_value
    if unknown := sorted(set(names.values()) - known.keys()):
        raise InputError(
            f"segment {unknown[0]!r} is no class of the data set (it knows {sorted(known)})",
            where=path,
            fix="rename the segment, or add the class to dataset.json",
        )
    return {number: known[name] for number, name in names.items()}


def _frames(file: DicomFile, shape: tuple[int, int, int]) -> list[Any]:
    """Return the groups of each frame; size and bytes are as they claim."""
    path, pixels = file.path, file.pixels
    rows, columns = whole(file.dataset, "Rows", path), whole(file.dataset, "Columns", path)
    frames = whole(file.dataset, "NumberOfFrames", path, 1)
    if (columns, rows) != shape[:2]:
        raise InputError(f"expected {shape[0]} x {shape[1]} voxels as in the image, got {columns} x {rows}", where=path)
    if pixels is None or pixels.encapsulated or whole(file.dataset, "BitsAllocated", path) != 1:
        raise InputError("expected uncompressed segments of 1 bit a voxel", where=path)
    needed = (frames * rows * columns + 7) // 8
    if not (0 < frames <= _MAX_FRAMES and needed <= pixels.length <= needed + 1):
        raise InputError(f"it claims {frames} frames ({needed} bytes), the file has {pixels.length}", where=path)
    with quiet_border(path):
        groups = list(file.dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if len(groups) != frames:
        raise InputError(f"expected the place of each of {frames} frames, got {len(groups)}", where=path)
    return groups


def _fact(group: Any, file: DicomFile, sequence: str, key: str) -> tuple[float, ...]:
    """Return numbers of a frame, its own before those that all frames share; none if neither has them."""
    with quiet_border(file.path):
        groups = [group, *(file.dataset.get("SharedFunctionalGroupsSequence") or [])]
        items = [item for one in groups for item in one.get(sequence) or []]
    return (numbers(items[0], key, file.path) if items else None) or ()


def _place(group: Any, file: DicomFile, geometry: Geometry, shape: tuple[int, int, int]) -> int:
    """Return the slice of the image in which a frame lies."""
    path = file.path
    position = _fact(group, file, "PlanePositionSequence", "ImagePositionPatient")
    directions = _fact(group, file, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = _fact(group, file, "PixelMeasuresSequence", "PixelSpacing")
    if (len(position), len(directions), len(spacing)) != (3, 6, 2):
        raise InputError("a frame does not say where it lies", where=path)
    directions = unit_axes(directions, path)
    frame = np.array([np.multiply(directions[:3], spacing[1]), np.multiply(directions[3:], spacing[0])]) * _FLIP_TO_RAS
    axes = geometry.affine[:3, :3]
    across = np.abs(frame.T - axes[:, :2]).max() * max(shape[:2])
    index = np.linalg.solve(axes, np.array(position) * _FLIP_TO_RAS - geometry.affine[:3, 3])
    k = round(float(index[2]))
    off = np.abs(index - (0, 0, k))
    is_near = off[:2].max() <= _PLACE_TOLERANCE_VOXEL and off[2] <= MAX_DRIFT
    is_near = is_near and across <= _PLACE_TOLERANCE_VOXEL * min(geometry.spacing_mm)
    if not is_near or not 0 <= k < shape[2]:
        raise InputError(
            "a frame does not lie on the image's grid", where=path, fix="export the SEG on the grid of its image"
        )
    return k


def _bits(file: DicomFile, index: int, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return the voxels [columns, rows] inside a frame's segment; frames follow one another bit by bit."""
    size = shape[0] * shape[1]
    first = index * size
    start, end = first // 8, (first + size + 7) // 8
    data = np.frombuffer(file.read_pixels(start, end - start), np.uint8)
    bits = np.unpackbits(data, bitorder="little")[first - 8 * start :][:size]
    return bits.reshape(shape[1], shape[0]).T.astype(bool)  # columns, rows
