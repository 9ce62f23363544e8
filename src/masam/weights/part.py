"""The part of a file that has come so far: kept when a transfer breaks, and gone on with hours or days later."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import Field

from masam.atomic import NO_SPACE, write_text
from masam.config import Settings
from masam.errors import ConfigError, InputError, ResourceError
from masam.io.gate import open_regular, read_json

_CHUNK_BYTES = 2**20


class PartNote(Settings):
    """What the part is a part of; a note beside it, ``NAME.part.json``."""

    url: str = Field(description="Where the file comes from.")
    etag: str | None = Field(description="The server's mark of the version, if it stands for the very bytes.")
    size: int | None = Field(description="Bytes of the whole file, as the server announced.")
    sha256: str | None = Field(description="SHA-256 of the whole file, as the host states it.")


def part_path(target: Path) -> Path:
    """Return where the part of a file lies."""
    return target.with_name(f"{target.name}.part")


class Part:
    """The part of one file. Only one process may have it at a time.

    Args:
        target: Final name of the file; the part lies beside it.
        url: Where the file comes from. A part of something else is not gone on with.

    Raises:
        ResourceError: The system did not let us read or remove an old part.
    """

    def __init__(self, target: Path, url: str) -> None:
        self.path = part_path(target)
        self.note = PartNote(url=url, etag=None, size=None, sha256=None)
        self.length = 0
        self._note_path = target.with_name(f"{target.name}.part.json")
        self._hasher = hashlib.sha256()
        if not self._take_up(url):
            self.clear()

    @property
    def is_complete(self) -> bool:
        """Whether all announced bytes are there."""
        return self.note.size is not None and self.length == self.note.size

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, in hex."""
        return self._hasher.hexdigest()

    def clear(self) -> None:
        """Remove the part and its note.

        Raises:
            ResourceError: The system did not let us.
        """
        self.length, self._hasher = 0, hashlib.sha256()
        self.note = PartNote(url=self.note.url, etag=None, size=None, sha256=None)
        try:
            # The part first: alone, it is not gone on with.
            self.path.unlink(missing_ok=True)
            self._note_path.unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(f"cannot remove the file ({error.strerror})", where=self.path) from error

    def begin(self, note: PartNote) -> None:
        """Start anew, as a part of what the note says.

        Raises:
            ResourceError: The system did not let us.
        """
        self.clear()
        self.note = note
        write_text(self._note_path, json.dumps(note.model_dump(), indent=2) + "\n")

    def append(self, chunks: Iterable[bytes], report: Callable[[int], None]) -> None:
        """Add bytes as they come; those that came stay, whatever ends it.

        Args:
            chunks: The bytes; OSErrors of theirs must have been explained before.
            report: Called with the length so far.

        Raises:
            ResourceError: The disk is full, or the system did not let us write.
        """
        try:
            with self.path.open("ab") as file:
                for chunk in chunks:
                    file.write(chunk)
                    self._hasher.update(chunk)
                    self.length += len(chunk)
                    report(self.length)
        except OSError as error:
            fix = "choose a place you may write to"
            if error.errno in NO_SPACE:
                fix = "what has come is kept: free space and run the command again"
            raise ResourceError(f"cannot write the file ({error.strerror})", where=self.path, fix=fix) from error

    def forget(self) -> None:
        """Remove the note, once the file has its final name."""
        with contextlib.suppress(OSError):
            self._note_path.unlink()

    def _take_up(self, url: str) -> bool:
        """Read and hash what an earlier call left; returns whether it can be gone on with."""
        try:
            note = PartNote.from_mapping(read_json(self._note_path), where=self._note_path)
            if note.url != url:
                return False
            with open_regular(self.path) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    self._hasher.update(chunk)
                    self.length += len(chunk)
        except (InputError, ConfigError):
            return False  # nothing is there, or nothing that we wrote whole
        self.note = note
        return note.size is None or self.length <= note.size
