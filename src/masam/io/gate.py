"""Checked reading of untrusted files: regular files only, bounded memory, checksums verified.

Readers receive complete, verified bytes. Neither nibabel nor SimpleITK guarantees that: nibabel stops before the
checksum of a gzip file, SimpleITK fills missing voxels with zeros.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
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
"""Maximum size of files that are read at once, such as ``dataset.json``."""

MAX_VOLUME_BYTES = 16 * 2**30
"""Maximum declared size of a volume."""

# Deflate compresses by at most 1032 to 1 (zlib's "Maximum Compression Factor"), so a larger declared size is wrong.
# Above 2 GiB the ratio must be that of a real scan; empty label maps, which reach 1000 to 1, are smaller.
_DEFLATE_LIMIT = 1032
_TRUSTED_BYTES = 2 * 2**30
_TRUSTED_RATIO = 100

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 2**18
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_COPY = "copy or export it again"


@contextmanager
def library_errors(where: object) -> Iterator[None]:
    """Translate exceptions of a library that reads the file ``where`` into InputError, or as :func:`os_errors` does.

    Use it around the call of the library only, so that bugs of masam are not hidden.
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
    """Translate OSError and MemoryError while reading the file ``where`` into masam's errors.

    Raises:
        InputError: The file does not exist.
        ResourceError: There is not enough memory, or the file cannot be read.
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
    """Open a regular file that is not empty; never blocks on a FIFO."""
    if "\0" in str(path):
        raise InputError("the name contains a null byte", where=repr(str(path)), fix="check the path")
    with os_errors(path):
        # Checked before opening, as that may act on a device, and after it, as the path may have been replaced.
        _require_regular(path.stat(), path)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            _require_regular(status, path)
            if status.st_size == 0:
                raise InputError("the file is empty", where=path, fix=_COPY)
            yield file


def read_bytes(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Read a regular file of at most ``max_bytes`` bytes; InputError if it is larger."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise InputError(f"expected at most {max_bytes} bytes, the file has {size}", where=path)
        data = file.read(size + 1)
        if len(data) != size:
            raise InputError(f"the file changed while it was read ({size} bytes, then {len(data)})", where=path)
        return data


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8; InputError with the line of the fault if it is not valid or repeats a key."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # The json module silently keeps the last of two equal keys, which may lose a class.
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
            raise InputError(f"expected UTF-8 text, byte {error.start} is not valid", where=path) from error


def read_head(path: Path, length: int, *, compressed: bool) -> bytes:
    """Read the first ``length`` bytes of a file, or of its uncompressed content, without verifying its checksum."""
    with open_regular(path) as file:
        return bytes(_take(_chunks(file, path, compressed), length)[:length])


def read_sized(
    path: Path, head_bytes: int, size_of: Callable[[bytes], int], *, compressed: bool, max_bytes: int = MAX_VOLUME_BYTES
) -> NDArray[np.uint8]:
    """Read a file whose header declares its size.

    The declared size is checked before memory is allocated; then the file is read to its end into one buffer.

    Args:
        path: A regular file.
        head_bytes: Number of bytes passed to ``size_of``; fewer if the file is shorter.
        size_of: Returns the declared uncompressed size in bytes; raises InputError if the header is not valid.
        compressed: Whether the file is gzip: exactly one member with nothing after it, checksum verified.
        max_bytes: Maximum declared size.

    Returns:
        [N] uint8, the uncompressed file.
    """
    with open_regular(path) as file:
        chunks = _chunks(file, path, compressed)
        head = _take(chunks, head_bytes)
        size = size_of(bytes(head[:head_bytes]))
        check_declared_size(path, size, compressed=compressed, max_bytes=max_bytes)
        # Not zeroed: if the declared size is wrong, its pages are never touched and cost nothing.
        buffer = np.empty(size, np.uint8)
        filled = 0
        for chunk in itertools.chain([bytes(head)], chunks):
            if filled + len(chunk) > size:
                raise InputError(f"the file holds more than the {size} bytes that its header declares", where=path)
            buffer.data[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        if filled < size:
            raise InputError(f"expected {size} bytes as the header declares, got {filled}", where=path, fix=_COPY)
        return buffer


def check_declared_size(path: Path, size: int, *, compressed: bool, max_bytes: int = MAX_VOLUME_BYTES) -> None:
    """Raise an InputError if a file cannot contain the uncompressed bytes that its header declares."""
    with os_errors(path):
        present = path.stat().st_size
    if size > max_bytes:
        raise InputError(f"the header declares {size} bytes, the limit is {max_bytes}", where=path)
    if not compressed and size != present:
        raise InputError(f"expected {size} bytes as the header declares, the file has {present}", where=path, fix=_COPY)
    if compressed and size > present * _DEFLATE_LIMIT:
        raise InputError(f"the header declares {size} bytes, {present} bytes of gzip cannot contain them", where=path)
    if compressed and size > max(_TRUSTED_BYTES, present * _TRUSTED_RATIO):
        raise InputError(
            f"the header declares {size} bytes, which is not plausible for {present} bytes of gzip",
            where=path,
            fix="if the file is valid, store it uncompressed or with a smaller voxel type",
        )


def sha256(path: Path, report: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a regular file in hex; ``report`` receives the number of bytes read after each chunk."""
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
        raise InputError("the name ends in .gz but the content is not gzip", where=path, fix="rename it without .gz")
    if is_gzip and not compressed:
        raise InputError("the content is gzip but the name does not end in .gz", where=path, fix="add .gz to the name")
    return _inflate(file, path) if compressed else iter(lambda: file.read(_CHUNK_BYTES), b"")


def _inflate(file: BufferedReader, path: Path) -> Iterator[bytes]:
    """Yield the content of the single gzip member in chunks; CRC and length are verified by the last step."""
    member = zlib.decompressobj(16 + zlib.MAX_WBITS)
    while not member.eof:
        data = member.unconsumed_tail or file.read(_CHUNK_BYTES)
        if not data:
            raise InputError("the gzip data is cut off", where=path, fix=_COPY)
        try:
            chunk = member.decompress(data, _CHUNK_BYTES)
        except zlib.error as error:
            raise InputError(f"the gzip data is damaged ({error})", where=path, fix=_COPY) from error
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
