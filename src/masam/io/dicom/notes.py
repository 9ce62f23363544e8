"""What is unusual about a series: promises of the header that are not kept, and slices that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from masam.errors import InputError, some_of
from masam.io.dicom.file import DicomFile
from masam.io.dicom.frames import Frame, read_numbers


def describe_oddities(files: Sequence[DicomFile], frames: Sequence[Frame], where: object) -> Iterator[str]:
    """Yield notes for the user on a series that is accepted.

    Args:
        files: The files of the series.
        frames: Their frames.
        where: Folder or file named in errors.

    Raises:
        InputError: The header declares more images than there are. If at least half of them are missing, the series is
            probably one phase or echo of the acquisition, so that this is only a note.
    """
    images, parts = (len(frames), "image"), (len(files), "file")
    for keyword, (found, what) in {
        "ImagesInAcquisition": images,
        "NumberOfSeriesRelatedInstances": (len(files), "image"),
        "NumberOfSlices": images,
        "InConcatenationTotalNumber": parts,
    }.items():
        values = _values(files, keyword)
        if (declared := max(values, default=0)) <= found:
            continue
        count = f"{found} {'was' if found == 1 else 'were'} found"
        note = f"the header declares {declared:g} {what}s ({keyword}), {count}"
        if len(values) == 1 and (2 * found > declared or what == "file"):
            fix = "export the complete series again; if it was split on purpose, convert it to NIfTI"
            raise InputError(note, where=where, fix=fix)
        yield note
    if (positions := max(_values(files, "NumberOfTemporalPositions"), default=1)) > 1:
        yield f"the header declares {positions:g} time points, the series has one"
    if len(frames) == 1:
        yield f"one slice: its thickness, {frames[0].thickness_mm:g} mm, is used as the slice spacing"
    signed = [frame.name for frame in frames if frame.layout.signed]
    unsigned = [frame.name for frame in frames if not frame.layout.signed]
    if signed and unsigned:
        few, kind = min((unsigned, "unsigned"), (signed, "signed"), key=lambda names: len(names[0]))
        has = "has" if len(few) == 1 else "have"
        yield f"{len(few)} of {len(frames)} slices {has} {kind} pixels, unlike the others: {some_of(few)}"
    if any(frame.layout.inverted for frame in frames):
        yield "grey values are stored inverted (MONOCHROME1) and are inverted when they are read"
    if any(frame.layout.padding for frame in frames):
        yield "padding outside the scanned field is replaced by the smallest value inside"


def _values(files: Sequence[DicomFile], keyword: str) -> set[float]:
    """Return the distinct values of an element, without those that cannot be read."""
    values: set[float] = set()
    for file in files:
        try:
            values.update(read_numbers(file.dataset, keyword, file.path) or ())
        except InputError:
            continue
    return values
