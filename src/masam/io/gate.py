"""The one door for bytes from outside: regular files, bounded memory, checksums to the end.

Readers get bytes that were read whole and verified. Neither nibabel nor SimpleITK does that alone: the first stops
before the checksum of a gzip file, the second fills what is missing with zeros.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError, MasamError, ResourceError

MAX_TEXT_BYTES = 64 * 2**20
"""Cap for files that are read at once, such as ``dataset.json``."""

MAX_VOLUME_BYTES = 16 * 2**30
"""Cap for one volume in memory, as its file declares it."""

# Deflate cannot do better than 1032 to 1 (zlib's "Maximum Compression Factor"), so a larger claim is false. From 2 GiB
# on we want a ratio of a real scan; empty label maps, which do reach 1000 to 1, are smaller than that.
_DEFLATE_LIMIT = 1032
_TRUSTED_BYTES = 2 * 2**30
_TRUSTED_RATIO = 100

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 2**18
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@contextmanager
def library_errors(where: object) -> Iterator[None]:
    """Turn what a library raises on bad input into masam's errors; the only place that catches everything.

    To be put around the library's call alone: our own bugs shall stay visible.

    Args:
        where: File to name in the error.

    Raises:
        InputError: A library did not accept the content, or there is no such file.
        ResourceError: Memory ran out, or the system did not let us read.
    """
    try:
        with os_errors(where):
            yield
    except MasamError:
        raise
    except Exception as error:
        raise InputError(f"cannot be read ({type(error).__name__}: {error})", where=where) from error


@contextmanager
def os_errors(where: object) -> Iterator[None]:
    """Turn what the system raises, OSError and MemoryError, into masam's errors, and leave the rest.

    Args:
        where: File to name in the error.

    Raises:
        InputError: There is no such file.
        ResourceError: Memory ran out, or the system did not let us read.
    """
    try:
        yield
    except MemoryError as error:
        raise ResourceError("there is not enough memory to read it", where=where, fix="free memory") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if error.errno in _NO_SUCH_FILE:
            raise InputError(f"expected a file, got none ({reason})", where=where, fix="check the path") from error
        raise ResourceError(
            f"cannot read the file ({reason})", where=where, fix="check permissions and disk"
        ) from error


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file that is not empty, never waiting for a writer as a FIFO would.

    Raises:
        InputError: There is no such file, it is empty, or it is a folder, FIFO, socket or device.
        ResourceError: The system did not let us read.
    """
    if "\0" in str(path):
        raise InputError("the name holds a zero byte", where=repr(str(path)), fix="check the path")
    with os_errors(path):
        # Before opening, since opening a device may act on it; and after, since the name may have been given away.
        _require_regular(path.stat(), path)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            _require_regular(status, path)
            if status.st_size == 0:
                raise InputError("the file is empty", where=path, fix="copy or export it again")
            yield file


def read_bytes(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Read a whole file.

    Args:
        path: A regular file.
        max_bytes: Largest size accepted.

    Raises:
        InputError: See :func:`open_regular`; or the file is larger than ``max_bytes``.
        ResourceError: The system did not let us read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise InputError(f"expected at most {max_bytes} bytes, the file has {size}", where=path)
        data = file.read(size + 1)
        if len(data) != size:
            raise InputError(f"the file changed while it was read ({size} bytes, then {len(data)})", where=path)
        return data


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, whose mappings name no key twice.

    Raises:
        InputError: See :func:`read_bytes`; or it is not such JSON, with the line at fault.
        ResourceError: The system did not let us read.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Python's reader would keep the last of two equal keys and lose a class in silence.
        if len(dict(pairs)) != len(pairs):
            raise InputError(f"a key appears twice in one mapping: {[key for key, _ in pairs]}", where=path)
        return dict(pairs)

    data = read_bytes(path)
    with library_errors(path):
        try:
            return json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique)
        except json.JSONDecodeError as error:
            raise InputError(
                f"not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}", where=path
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(f"expected UTF-8 text, byte {error.start} is not", where=path) from error


def read_head(path: Path, length: int, *, compressed: bool) -> bytes:
    """Read the first ``length`` bytes of a file, fewer if it is shorter; no checksum is checked.

    Args:
        path: A regular file.
        length: Number of bytes (inflated).
        compressed: Whether the file is gzip.

    Raises:
        InputError: See :func:`open_regular`; or the file is not what ``compressed`` says.
        ResourceError: The system did not let us read.
    """
    with open_regular(path) as file:
        return bytes(_take(_chunks(file, path, compressed), length)[:length])


def read_sized(
    path: Path, head_bytes: int, size_of: Callable[[bytes], int], *, compressed: bool, max_bytes: int = MAX_VOLUME_BYTES
) -> NDArray[np.uint8]:
    """Read a file whose first bytes say how long the whole must be.

    The claim is judged before memory is taken, then the file is read into one buffer of that size, to its very end.

    Args:
        path: A regular file.
        head_bytes: Number of first bytes that ``size_of`` wants; it gets fewer if the file is shorter.
        size_of: Returns the size in bytes that the (inflated) file must have; raises InputError on a bad header.
        compressed: Whether the file is gzip: exactly one member, nothing after it, checksum verified.
        max_bytes: Largest declared size accepted.

    Returns:
        [N] uint8, the inflated file.

    Raises:
        InputError: The file is not of the declared size, damaged, cut off, or claims more than is plausible.
        ResourceError: Memory does not suffice, or the system did not let us read.
    """
    with open_regular(path) as file:
        chunks = _chunks(file, path, compressed)
        head = _take(chunks, head_bytes)
        size = size_of(bytes(head[:head_bytes]))
        check_declared_size(path, size, compressed=compressed, max_bytes=max_bytes)
        if len(head) > size:
            raise _too_long(path, size)
        # Not zeroed: pages of a false claim are never touched, so they cost nothing.
        buffer = np.empty(size, np.uint8)
        view = buffer.data
        view[: len(head)] = head
        filled = len(head)
        for chunk in chunks:
            if filled + len(chunk) > size:
                raise _too_long(path, size)
            view[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        if filled < size:
            raise InputError(
                f"expected {size} bytes as the header declares, got {filled}", where=path, fix="copy or export it again"
            )
        return buffer


def check_declared_size(path: Path, size: int, *, compressed: bool, max_bytes: int = MAX_VOLUME_BYTES) -> None:
    """Judge the size that a header declares by the size of its file.

    Args:
        path: The file.
        size: Declared size in bytes, inflated.
        compressed: Whether the file is gzip.
        max_bytes: Largest declared size accepted.

    Raises:
        InputError: The claim is above the cap, or the file cannot hold that much.
    """
    with os_errors(path):
        present = path.stat().st_size
    if size > max_bytes:
        raise InputError(f"the header declares {size} bytes, more than the {max_bytes} that are accepted", where=path)
    if not compressed and size != present:
        raise InputError(
            f"expected {size} bytes as the header declares, the file has {present}",
            where=path,
            fix="copy or export it again",
        )
    if compressed and size > present * _DEFLATE_LIMIT:
        raise InputError(f"the header declares {size} bytes, {present} bytes of gzip cannot hold them", where=path)
    if compressed and size > max(_TRUSTED_BYTES, present * _TRUSTED_RATIO):
        raise InputError(
            f"the header declares {size} bytes, suspiciously many for {present} bytes of gzip",
            where=path,
            fix="if the file is honest, store it uncompressed or in a smaller voxel type",
        )


def sha256(path: Path, report: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file in hex, read in pieces.

    Args:
        path: A regular file.
        report: Called after each piece with the number of bytes read so far.

    Raises:
        InputError: See :func:`open_regular`.
        ResourceError: The system did not let us read.
    """
    with open_regular(path) as file:
        if report is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest, done = hashlib.sha256(), 0
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            report(done)
        return digest.hexdigest()


def _require_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a FIFO, socket or device"
        raise InputError(f"expected a regular file, got {kind}", where=path, fix="check the path")


def _chunks(file: BufferedReader, path: Path, compressed: bool) -> Iterator[bytes]:
    is_gzip = file.read(2) == _GZIP_MAGIC
    file.seek(0)
    if compressed and not is_gzip:
        raise InputError("the name says gzip (.gz) but the content is not", where=path, fix="rename it without .gz")
    if is_gzip and not compressed:
        raise InputError("the content is gzip but the name does not say so", where=path, fix="rename it to end in .gz")
    return _inflate(file, path) if compressed else iter(lambda: file.read(_CHUNK_BYTES), b"")


def _inflate(file: BufferedReader, path: Path) -> Iterator[bytes]:
    """Yield the content of the one gzip member, in pieces; the last step has checked its CRC and length."""
    member = zlib.decompressobj(16 + zlib.MAX_WBITS)
    while not member.eof:
        data = member.unconsumed_tail or file.read(_CHUNK_BYTES)
        if not data:
            raise InputError("the gzip data is cut off", where=path, fix="copy or export it again")
        try:
            chunk = member.decompress(data, _CHUNK_BYTES)
        except zlib.error as error:
            raise InputError(
                f"the gzip data is damaged ({error})", where=path, fix="copy or export it again"
            ) from error
        if chunk:
            yield chunk
    rest = member.unused_data or file.read(len(_GZIP_MAGIC))
    if rest:
        what = "a second gzip member" if rest.startswith(_GZIP_MAGIC) else "further bytes"
        raise InputError(f"{what} after the end of the gzip data", where=path, fix="compress it again with gzip")


def _take(chunks: Iterator[bytes], length: int) -> bytearray:
    head = bytearray()
    while len(head) < length and (chunk := next(chunks, b"")):
        head += chunk
    return head


def _too_long(path: Path, size: int) -> InputError:
    return InputError(f"the file holds more than the {size} bytes that its header declares", where=path)
