"""One DICOM file: its header, checked, and the position and size of its pixels.

Messages of pydicom are never passed on, neither as errors nor in its log: they may contain the patient's name.
"""

from __future__ import annotations

import itertools
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from masam.errors import InputError
from masam.io import gate
from masam.io.packages import require_package

DICOM_ENDING = ".dcm"
"""File name ending of DICOM files; a label file with this ending is a DICOM SEG."""

MAX_FILE_BYTES = 4 * 2**30
"""Maximum size of a deflated file, which is read at once."""

MAX_ELEMENTS = 20_000
"""Maximum number of top-level elements; files from scanners have some hundred."""

_HEAD_BYTES = 2**16
_PREAMBLE = 132
_IMPLICIT_LITTLE, _EXPLICIT_BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = {_IMPLICIT_LITTLE, "1.2.840.10008.1.2.1", _EXPLICIT_BIG, _DEFLATED}
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_UNDEFINED = 0xFFFFFFFF
# An empty slice may deflate by 1000 to 1, but is smaller than the trusted size.
_DEFLATE_RATIO, _DEFLATE_TRUSTED = 100, 16 * 2**20
_COPY = "copy or export it again"


@dataclass(frozen=True)
class PixelBytes:
    """Position and size of a file's pixels.

    Attributes:
        offset: Position of the first byte in the (inflated) file.
        length: Number of bytes; for encapsulated pixels, of all fragments.
        encapsulated: Whether the pixels are compressed, in fragments.
        integers: Whether the pixels are integers.
        fragments: Number of fragments, without the offset table.
    """

    offset: int
    length: int
    encapsulated: bool
    integers: bool
    fragments: int = 0


@dataclass(frozen=True, eq=False)
class DicomFile:
    """A file whose header has been checked.

    Attributes:
        path: Path of the file.
        sop_class: UID of its SOP class.
        syntax: UID of its transfer syntax.
        dataset: pydicom Dataset of all elements before the pixels.
        pixels: Position of the pixels; None if there are none.
        inflated: Bytes of the data set if the file is deflated.
    """

    path: Path
    sop_class: str
    syntax: str
    dataset: Any
    pixels: PixelBytes | None
    inflated: bytes | None = None

    @property
    def big_endian(self) -> bool:
        """Whether pixels are stored in big-endian byte order."""
        return self.syntax == _EXPLICIT_BIG

    def read_pixels(self, start: int, length: int) -> bytes:
        """Read ``length`` bytes of native pixels from position ``start``, relative to the first pixel."""
        offset = start + (self.pixels.offset if self.pixels else 0)
        if self.inflated is not None:
            return self.inflated[offset : offset + length]
        with gate.open_regular(self.path) as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise InputError("the file changed while it was read", where=self.path)
        return data


@contextmanager
def pydicom_errors(where: object) -> Iterator[None]:
    """Translate exceptions of pydicom as :func:`masam.io.gate.library_errors` does, without quoting the file."""
    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with gate.library_errors(where), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, OSError):
            raise
        if isinstance(cause, RecursionError):
            raise InputError("sequences are nested too deeply", where=where) from None
        raise InputError(f"damaged DICOM ({type(cause).__name__})", where=where, fix=_COPY) from None
    finally:
        log.setLevel(level)


def is_dicom(path: Path) -> bool:
    """Return whether a regular file starts like DICOM (part 10: ``DICM`` after 128 bytes)."""
    try:
        with gate.open_regular(path) as file:
            return file.read(_PREAMBLE)[128:] == b"DICM"
    except InputError:
        if path.is_file() and path.stat().st_size == 0:
            return False
        raise


def read_header(path: Path) -> DicomFile:
    """Read all elements before the pixels, and check the position and size of the pixels."""
    require_package("pydicom")
    with gate.open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
        if head[128:_PREAMBLE] != b"DICM":
            raise InputError("expected a DICOM file (DICM after 128 bytes), got other content", where=path)
        sop_class, syntax, start = _read_file_meta(head, path)
        if syntax != _DEFLATED:
            file.seek(start)
            dataset, pixels = _read_dataset(file, path, syntax, os.fstat(file.fileno()).st_size)
            return DicomFile(path, sop_class, syntax, dataset, pixels)
    inflated = _inflate(gate.read_bytes(path, MAX_FILE_BYTES)[start:], path)
    dataset, pixels = _read_dataset(BytesIO(inflated), path, syntax, len(inflated))
    return DicomFile(path, sop_class, syntax, dataset, pixels, inflated)


def _read_file_meta(head: bytes, path: Path) -> tuple[str, str, int]:
    """Return SOP class, transfer syntax and the position after the file meta information."""
    stream = BytesIO(head[_PREAMBLE:])
    with pydicom_errors(path):
        from pydicom.filereader import read_dataset

        meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        sop_class, syntax = (str(meta.get(key) or "") for key in ("MediaStorageSOPClassUID", "TransferSyntaxUID"))
    start = _PREAMBLE + stream.tell()
    if not sop_class or not syntax or len(head) < start + 8:
        raise InputError("the file meta information is damaged or cut off", where=path, fix=_COPY)
    return sop_class, syntax, start


def _inflate(data: bytes, path: Path) -> bytes:
    """Inflate a data set up to a size that is plausible for a scan."""
    limit = max(_DEFLATE_TRUSTED, _DEFLATE_RATIO * len(data))
    member = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = member.decompress(data, limit)
    except zlib.error:
        raise InputError("the deflated data are damaged", where=path, fix=_COPY) from None
    if not member.eof:
        if len(inflated) < limit:
            raise InputError("the deflated data are cut off", where=path, fix=_COPY)
        raise InputError(
            f"{len(data)} deflated bytes inflate to more than {limit}, which is not plausible",
            where=path,
            fix="if the file is valid, store it without deflation",
        )
    return inflated


def _read_dataset(file: BufferedIOBase, path: Path, syntax: str, size: int) -> tuple[Any, PixelBytes | None]:
    """Return the elements before the pixels, and the position of the pixels in a file of ``size`` bytes."""
    found: list[tuple[int, int, int]] = []
    elements = itertools.count(1)

    def stop(tag: Any, vr: Any, length: int) -> bool:
        if next(elements) > MAX_ELEMENTS:
            raise InputError(f"expected at most {MAX_ELEMENTS} elements, the file has more", where=path)
        if int(tag) in _PIXEL_TAGS:
            found.append((int(tag), length, file.tell()))
        return bool(found)

    with pydicom_errors(path):
        from pydicom.filereader import read_dataset

        dataset = read_dataset(
            cast(BinaryIO, file),
            is_implicit_VR=syntax == _IMPLICIT_LITTLE,
            is_little_endian=syntax != _EXPLICIT_BIG,
            stop_when=stop,
        )
    if not found:
        return dataset, None
    ((tag, length, offset),) = found
    is_integer = tag == _PIXEL_TAGS[2]
    if length != _UNDEFINED:
        if syntax not in _NATIVE:
            raise InputError("the pixels are not in fragments, as the transfer syntax requires", where=path, fix=_COPY)
        if offset + length > size:
            raise InputError(
                f"the file is cut off: expected {length} bytes of pixels, found {max(0, size - offset)}",
                where=path,
                fix=_COPY,
            )
        return dataset, PixelBytes(offset, length, False, is_integer)
    if syntax in _NATIVE:
        raise InputError("the pixels are in fragments, but the transfer syntax has none", where=path, fix=_COPY)
    lengths = _fragment_lengths(file, offset, size, path)
    return dataset, PixelBytes(offset, sum(lengths), True, is_integer, len(lengths))


def _fragment_lengths(file: BufferedIOBase, offset: int, size: int, path: Path) -> list[int]:
    """Return the lengths of all fragments of encapsulated pixels, without the offset table."""
    cut_off = InputError("the file is cut off: the compressed pixels have no end", where=path, fix=_COPY)
    lengths: list[int] = []
    with gate.os_errors(path):
        while True:
            file.seek(offset)
            item = file.read(8)
            if len(item) < 8:
                raise cut_off
            group, element, length = struct.unpack("<HHI", item)
            if (group, element) == (0xFFFE, 0xE0DD):
                return lengths[1:]
            offset += 8 + length
            if (group, element) != (0xFFFE, 0xE000) or offset > size:
                raise cut_off
            lengths.append(length)
