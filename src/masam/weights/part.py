"""The partial file of an interrupted download, which a later call resumes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import Field

from masam.atomic import NO_SPACE
from masam.errors import InputError, ResourceError
from masam.io.gate import open_regular
from masam.weights.receipt import JsonRecord

_CHUNK_BYTES = 2**20


class PartSource(JsonRecord):
    """Source and version of a partial file, in ``NAME.part.json`` beside it."""

    url: str = Field(description="Address of the file.")
    etag: str | None = Field(default=None, description="The server's strong ETag of this version.")
    size: int | None = Field(default=None, description="Size of the complete file in bytes, as announced.")
    sha256: str | None = Field(default=None, description="SHA-256 of the complete file, as published by the host.")


def part_path(target: Path) -> Path:
    """Return the path of a file's partial download."""
    return target.with_name(f"{target.name}.part")


class Part:
    """The partial download of one file. Only one process may use it at a time.

    Every method raises ResourceError if the system refuses to read, write or delete a file.

    Args:
        target: Final path of the file; the partial file is beside it.
        url: Address of the file. A partial file from another address is deleted.
    """

    def __init__(self, target: Path, url: str) -> None:
        self.path = part_path(target)
        self.source = PartSource(url=url)
        self.length = 0
        self._source_path = target.with_name(f"{target.name}.part.json")
        self._hasher = hashlib.sha256()
        if not self._restore():
            self.clear()

    @property
    def is_complete(self) -> bool:
        """Whether all announced bytes are present."""
        return self.source.size is not None and self.length == self.source.size

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, in hex."""
        return self._hasher.hexdigest()

    def clear(self) -> None:
        """Delete the partial file and its record."""
        self.length, self._hasher = 0, hashlib.sha256()
        self.source = PartSource(url=self.source.url)
        try:
            # The partial file first: without its record it is never resumed.
            self.path.unlink(missing_ok=True)
            self._source_path.unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(f"cannot delete the file ({error.strerror})", where=self.path) from error

    def start(self, source: PartSource) -> None:
        """Start a new partial file."""
        self.clear()
        self.source = source
        source.write(self._source_path)

    def append(self, chunks: Iterable[bytes], report: Callable[[int], None]) -> None:
        """Append bytes as they arrive, and report the length so far; the bytes are kept if an error follows.

        The iterable must not raise OSError, which would be mistaken for an error of the disk.
        """
        try:
            with self.path.open("ab") as file:
                for chunk in chunks:
                    file.write(chunk)
                    self._hasher.update(chunk)
                    self.length += len(chunk)
                    report(self.length)
        except OSError as error:
            fix = "choose a writable folder"
            if error.errno in NO_SPACE:
                fix = "the partial download is kept: free space and run the command again"
            raise ResourceError(f"cannot write the file ({error.strerror})", where=self.path, fix=fix) from error

    def delete_record(self) -> None:
        """Delete the record after the file has been moved to its final path."""
        with contextlib.suppress(OSError):
            self._source_path.unlink()

    def _restore(self) -> bool:
        """Read and hash the partial file of an earlier call; return whether it can be resumed."""
        source = PartSource.read(self._source_path)
        if source is None or source.url != self.source.url:
            return False
        try:
            with open_regular(self.path) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    self._hasher.update(chunk)
                    self.length += len(chunk)
        except InputError:
            return False
        self.source = source
        return source.size is None or self.length <= source.size
