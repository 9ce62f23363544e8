"""One DICOM file, judged before it is believed: its header, and where its pixels lie and how many bytes they are.

What pydicom says of a fault is not passed on, neither as an error nor in its log: it may quote the patient's name.
"""

from __future__ import annotations

import logging
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from masam.errors import InputError, ResourceError
from masam.io import gate

DICOM_ENDING = ".dcm"
"""File name ending of DICOM files; a label file with this ending is a segmentation object."""

MAX_FILE_BYTES = 4 * 2**30
"""Cap for one file that has to be read at once: a deflated one."""

MAX_ELEMENTS = 20_000
"""Cap for the elements of a file at the top level; a scanner's file has some hundred."""

_HEAD_BYTES = 2**16
_PREAMBLE = 132
_IMPLICIT_LITTLE, _EXPLICIT_BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = {_IMPLICIT_LITTLE, "1.2.840.10008.1.2.1", _EXPLICIT_BIG, _DEFLATED}
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_UNDEFINED = 0xFFFFFFFF
# An empty slice may deflate by a thousand, but is smaller than what is trusted.
_DEFLATE_RATIO, _DEFLATE_TRUSTED = 100, 16 * 2**20
_COPY = "copy or export it again"


@dataclass(frozen=True)
class PixelBytes:
    """Where a file's pixels lie.

    Attributes:
        offset: First byte of the value, in the (inflated) file.
        length: Bytes of it; of encapsulated pixels those of all fragments.
        encapsulated: Whether they are compressed, in fragments.
        integers: Whether they are whole numbers, not floating ones.
        fragments: Number of fragments, without the table of offsets.
    """

    offset: int
    length: int
    encapsulated: bool
    integers: bool
    fragments: int = 0


@dataclass(frozen=True, eq=False)
class DicomFile:
    """A file that has been judged.

    Attributes:
        path: The file.
        sop_class: What kind of object it is, as a UID.
        syntax: Transfer syntax, as a UID.
        dataset: pydicom's Dataset of all before the pixels.
        pixels: Where they lie; None if it has none.
        inflated: The data set's bytes, if the file is deflated.
    """

    path: Path
    sop_class: str
    syntax: str
    dataset: Any
    pixels: PixelBytes | None
    inflated: bytes | None = None

    @property
    def big_endian(self) -> bool:
        """Whether the pixels' most significant byte comes first."""
        return self.syntax == _EXPLICIT_BIG

    def read_pixels(self, start: int, length: int) -> bytes:
        """Read bytes of native pixels.

        Args:
            start: First byte, counted from the first of the pixels.
            length: Number of bytes.

        Raises:
            InputError: The file has become shorter.
            ResourceError: The system did not let us read.
        """
        offset = start + (self.pixels.offset if self.pixels else 0)
        if self.inflated is not None:
            return self.inflated[offset : offset + length]
        with gate.open_regular(self.path) as file, gate.os_errors(self.path):
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise InputError("the file changed while it was read", where=self.path)
        return data


@contextmanager
def pydicom_errors(where: object) -> Iterator[None]:
    """As ``gate.library_errors``, for pydicom: neither errors nor its log nor warnings repeat what the file holds.

    Args:
        where: File to name in the error.

    Raises:
        InputError: The library did not accept the content, or there is no such file.
        ResourceError: Memory ran out, or the system did not let us read.
    """
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
            raise InputError("its sequences are nested too deeply", where=where) from None
        raise InputError(f"it is damaged DICOM ({type(cause).__name__})", where=where, fix=_COPY) from None
    finally:
        log.setLevel(level)


def require_package(name: str = "pydicom") -> None:
    """Refuse to go on without a package of the ``dicom`` extra.

    Raises:
        ResourceError: It is not installed.
    """
    import importlib

    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ResourceError(f"DICOM needs {name}, which is not installed", fix="pip install 'masam[dicom]'") from error


def is_dicom(path: Path) -> bool:
    """Say whether a file's first bytes are those of DICOM (part 10: ``DICM`` after 128 bytes).

    Raises:
        InputError: It is no regular file.
        ResourceError: The system did not let us read.
    """
    try:
        with gate.open_regular(path) as file:
            return file.read(_PREAMBLE)[128:] == b"DICM"
    except InputError:
        if path.is_file() and path.stat().st_size == 0:
            return False
        raise


def read_header(path: Path) -> DicomFile:
    """Read all of a file but its pixels, and judge where those lie.

    Args:
        path: A DICOM file.

    Raises:
        InputError: It is not DICOM, damaged, cut off, or claims more than it holds.
        ResourceError: pydicom is missing, memory does not suffice, or the system did not let us read.
    """
    require_package()
    with gate.open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
        if head[128:_PREAMBLE] != b"DICM":
            raise InputError("expected a DICOM file (DICM after 128 bytes), got another", where=path)
        sop_class, syntax, start = _file_meta(head, path)
        if syntax != _DEFLATED:
            file.seek(start)
            dataset, pixels = _read_dataset(file, path, syntax, os.fstat(file.fileno()).st_size)
            return DicomFile(path, sop_class, syntax, dataset, pixels)
    inflated = _inflate(gate.read_bytes(path, MAX_FILE_BYTES)[start:], path)
    dataset, pixels = _read_dataset(BytesIO(inflated), path, syntax, len(inflated))
    return DicomFile(path, sop_class, syntax, dataset, pixels, inflated)


def _file_meta(head: bytes, path: Path) -> tuple[str, str, int]:
    """Return SOP class, transfer syntax and the offset behind the file's own group of elements."""
    found: dict[int, str] = {}
    position = _PREAMBLE
    while head[position : position + 2] == b"\x02\x00":
        element, vr = head[position + 2 : position + 4], head[position + 4 : position + 6]
        is_long = vr in (b"OB", b"UN", b"OW", b"SQ", b"UT")
        start = position + (12 if is_long else 8)
        field = head[start - 4 : start] if is_long else head[start - 2 : start] + bytes(2)
        end = start + struct.unpack("<I", field)[0] if len(field) == 4 else len(head) + 1
        if end > len(head):
            break
        found[int.from_bytes(element, "little")] = head[start:end].decode("ascii", "replace").strip("\0 ")
        position = end
    if not {0x02, 0x10} <= found.keys() or len(head) < position + 8:
        raise InputError("its file meta information is damaged or cut off", where=path, fix=_COPY)
    return found[0x02], found[0x10], position


def _inflate(data: bytes, path: Path) -> bytes:
    """Inflate a data set, to no more than a scan would give."""
    limit = max(_DEFLATE_TRUSTED, _DEFLATE_RATIO * len(data))
    member = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = member.decompress(data, limit)
    except zlib.error:
        raise InputError("its deflated data are damaged", where=path, fix=_COPY) from None
    if not member.eof:
        if len(inflated) < limit:
            raise InputError("its deflated data are cut off", where=path, fix=_COPY)
        raise InputError(
            f"its {len(data)} deflated bytes inflate to more than {limit}, suspiciously many",
            where=path,
            fix="if the file is honest, store it without deflation",
        )
    return inflated


def _read_dataset(file: BufferedIOBase, path: Path, syntax: str, size: int) -> tuple[Any, PixelBytes | None]:
    """Parse up to the pixels."""
    seen: list[tuple[int, int, int]] = []
    with pydicom_errors(path):
        from pydicom.filereader import read_dataset

        dataset = read_dataset(
            cast(BinaryIO, file),
            is_implicit_VR=syntax == _IMPLICIT_LITTLE,
            is_little_endian=syntax != _EXPLICIT_BIG,
            stop_when=_stop_at_pixels(file, path, seen),
        )
    if not seen:
        return dataset, None
    tag, length, offset = seen[-1]
    is_integer = tag == _PIXEL_TAGS[2]
    if length != _UNDEFINED:
        if syntax not in _NATIVE:
            raise InputError("its pixels are not in fragments, as its transfer syntax wants", where=path, fix=_COPY)
        if offset + length > size:
            raise InputError(
                f"the file is cut off: expected {length} bytes of pixels, it holds {max(0, size - offset)}",
                where=path,
                fix=_COPY,
            )
        return dataset, PixelBytes(offset, length, False, is_integer)
    if syntax in _NATIVE:
        raise InputError("its pixels are in fragments, but its transfer syntax has none", where=path, fix=_COPY)
    lengths = _fragments(file, offset, size, path)
    return dataset, PixelBytes(offset, sum(lengths), True, is_integer, len(lengths))


def _stop_at_pixels(
    file: BufferedIOBase, path: Path, seen: list[tuple[int, int, int]]
) -> Callable[[Any, Any, int], bool]:
    """Return what pydicom asks at each element; it notes tag, length and offset of the pixels."""
    count = 0

    def stop(tag: Any, vr: Any, length: int) -> bool:
        nonlocal count
        count += 1
        if count > MAX_ELEMENTS:
            raise InputError(f"expected at most {MAX_ELEMENTS} elements, the file has more", where=path)
        if int(tag) in _PIXEL_TAGS:
            seen.append((int(tag), length, file.tell()))
        return int(tag) in _PIXEL_TAGS

    return stop


def _fragments(file: BufferedIOBase, offset: int, size: int, path: Path) -> list[int]:
    """Walk over encapsulated pixels to their end; return each fragment's length, without the table of offsets."""
    cut_off = InputError("the file is cut off: its compressed pixels have no end", where=path, fix=_COPY)
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
