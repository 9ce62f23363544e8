"""What is known of a file that was downloaded and verified: a small note beside it."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from pydantic import Field

from masam.atomic import write_text
from masam.config import Settings
from masam.errors import ConfigError, InputError
from masam.io.gate import read_json, system_border


class Receipt(Settings):
    """The note: which bytes were verified, and where they come from."""

    url: str = Field(description="Where the file comes from.")
    bytes: int = Field(description="Its size in bytes.")
    sha256: str = Field(description="Its SHA-256 in hex, as it was verified.")
    date: str = Field(description="When it was verified, UTC, as in 2026-01-31T12:00:00Z.")


def receipt_path(file: Path) -> Path:
    """Return where the note of a file lies."""
    return file.with_name(f"{file.name}.json")


def read_receipt(file: Path) -> Receipt | None:
    """Return the note of a file; the file's size is compared, its content is not.

    Args:
        file: The file itself, not its note.

    Returns:
        The note, None if there is no such file, no readable note, or one of another size.

    Raises:
        ResourceError: The system did not let us read.
    """
    try:
        receipt = Receipt.from_mapping(read_json(receipt_path(file)), where=receipt_path(file))
        with system_border(file):
            return receipt if file.is_file() and file.stat().st_size == receipt.bytes else None
    except (InputError, ConfigError):
        return None


def write_receipt(file: Path, url: str, sha256: str) -> None:
    """Write the note of a file that is verified.

    Args:
        file: The file itself.
        url: Where it comes from.
        sha256: Its SHA-256 in hex.

    Raises:
        InputError: There is no such file.
        ResourceError: The system did not let us read or write.
    """
    with system_border(file):
        size = file.stat().st_size
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    receipt = Receipt(url=url, bytes=size, sha256=sha256, date=date)
    write_text(receipt_path(file), json.dumps(receipt.model_dump(), indent=2) + "\n")
