"""Read and write ``metrics.csv``, the metrics of a training run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from masam import atomic
from masam.errors import InputError
from masam.io import gate


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a ``metrics.csv``; empty if there is no such file."""
    if not path.exists():
        return []
    with gate.library_errors(path):
        rows = list(csv.DictReader(io.StringIO(gate.read_bytes(path).decode())))
    for number, row in enumerate(rows, start=1):
        if not (row.get("step") or "").isdecimal() or None in row:
            raise InputError(
                f"row {number} is damaged: expected the columns of the header, with an integer as step",
                where=path,
                fix="restore the file, or remove it",
            )
    return rows


def read_columns(path: Path) -> dict[str, list[float | None]]:
    """Return the columns of a ``metrics.csv`` as numbers; None for empty cells."""
    rows = read_rows(path)
    with gate.library_errors(path):
        return {key: [float(row[key]) if row[key] else None for row in rows] for key in (rows[0] if rows else {})}


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write all rows; a row may lack columns that others have."""
    text = io.StringIO()
    fields = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_text(path, text.getvalue())
