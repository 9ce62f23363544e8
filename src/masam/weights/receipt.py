"""Small JSON records beside a file: the receipt of a verified download, and the source of a partial one."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from masam.atomic import write_text
from masam.config import Settings
from masam.errors import ConfigError, InputError
from masam.io.gate import os_errors, read_json

RecordT = TypeVar("RecordT", bound="JsonRecord")


class JsonRecord(Settings):
    """A record that is kept in a JSON file."""

    @classmethod
    def read(cls: type[RecordT], path: Path) -> RecordT | None:
        """Return the record in a file, None if the file is missing or not a complete record."""
        try:
            return cls.from_mapping(read_json(path), where=path)
        except (InputError, ConfigError):
            return None

    def write(self, path: Path) -> None:
        """Write the record to a file."""
        write_text(path, json.dumps(self.model_dump(), indent=2) + "\n")


class Receipt(JsonRecord):
    """Content and source of a verified file."""

    url: str = Field(description="Address of the file.")
    bytes: int = Field(description="Size in bytes.")
    sha256: str = Field(description="Verified SHA-256 in hex.")
    date: str = Field(description="Time of verification, UTC, such as 2026-01-31T12:00:00Z.")


def receipt_path(file: Path) -> Path:
    """Return the path of a file's receipt."""
    return file.with_name(f"{file.name}.json")


def read_receipt(file: Path) -> Receipt | None:
    """Return the readable receipt of a file that has the recorded size, or None; the content is not read."""
    receipt = Receipt.read(receipt_path(file))
    if receipt is None or not file.is_file():
        return None
    with os_errors(file):
        return receipt if file.stat().st_size == receipt.bytes else None


def write_receipt(file: Path, url: str, sha256: str) -> None:
    """Write the receipt of a file with a verified SHA-256."""
    with os_errors(file):
        size = file.stat().st_size
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    Receipt(url=url, bytes=size, sha256=sha256, date=date).write(receipt_path(file))
