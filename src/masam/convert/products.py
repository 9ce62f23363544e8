"""The files of a converted data set: copied, linked or rewritten, and recorded when they are finished.

``conversion.jsonl`` in the new folder has one line per finished file, so that an interrupted conversion can be resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from masam import atomic
from masam.errors import InputError
from masam.io import gate
from masam.runs.finished import is_finished

RECORD = "conversion.jsonl"
"""Record of the finished files, one JSON object per line."""

_CHUNK_BYTES = 2**20


class Rule(NamedTuple):
    """How a file is made."""

    description: str  # description for the record; a finished file with another description is made again
    rewrite: Callable[[Path, Path], None] | None = None  # called with source and target; None copies


COPY = Rule("copy")


@dataclass(frozen=True)
class Product:
    """One file to make."""

    source: Path  # file of the download
    target: str  # path in the new folder, with forward slashes
    rule: Rule = COPY


def finished(products: Sequence[Product], root: Path, link: bool) -> dict[str, dict[str, Any]]:
    """Return the entries of the record, by target, for files in ``root`` that would become the same again."""
    entries = _read_record(root / RECORD)
    return {
        p.target: entries[p.target]
        for p in products
        if p.target in entries and _is_finished(p, root / p.target, link, entries[p.target])
    }


def begin_record(root: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Rewrite the record with the finished files; its last line may have been cut off."""
    atomic.write_text(root / RECORD, "".join(json.dumps(entry) + "\n" for entry in entries))


def add_to_record(root: Path, entry: Mapping[str, Any]) -> None:
    """Add a finished file to the record."""
    with atomic.os_errors(root / RECORD), (root / RECORD).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def make(product: Product, root: Path, link: bool) -> dict[str, Any]:
    """Make one file, as a link if requested and its bytes are not changed, and return its entry of the record."""
    target, sha256 = root / product.target, None
    if product.rule.rewrite is not None:
        product.rule.rewrite(product.source, target)
        sha256 = gate.sha256(target)
    elif link:
        _link(product.source, target)
    else:
        sha256 = _copy(product.source, target)
    return _sources(product, link) | {"sha256": sha256}


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a record by target; empty if there is no record."""
    entries: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return entries
    with gate.os_errors(path):
        lines = path.read_text("utf-8", errors="replace").splitlines()
    for line in lines:
        # A damaged line is skipped; its file is made again.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            entries[str(entry["target"])] = entry
    return entries


def _is_finished(product: Product, target: Path, link: bool, entry: Mapping[str, Any]) -> bool:
    if _is_linked(product, link):
        sources = _sources(product, link) | {"sha256": None}
        return is_finished(entry, sources, {}) and target.is_file() and target.samefile(product.source)
    return is_finished(entry, _sources(product, link), {"sha256": target})


def _is_linked(product: Product, link: bool) -> bool:
    return link and product.rule.rewrite is None


def _sources(product: Product, link: bool) -> dict[str, Any]:
    """Return what decides a file: its source, identified by size and time, and the rule."""
    with gate.os_errors(product.source):
        status = product.source.stat()
    return {
        "target": product.target,
        "rule": "link" if _is_linked(product, link) else product.rule.description,
        "source_bytes": status.st_size,
        "source_mtime_ns": status.st_mtime_ns,
    }


def _copy(source: Path, target: Path) -> str:
    """Copy a file, verify the copy, and return the SHA-256 of both."""
    digest = hashlib.sha256()

    def write(temporary: Path) -> None:
        with gate.open_regular(source) as reader, temporary.open("wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                digest.update(chunk)
                writer.write(chunk)

    def verify(temporary: Path) -> None:
        if gate.sha256(temporary) != digest.hexdigest():
            raise InputError("the copy's bytes differ", where=target)

    atomic.write_with(target, write, verify)
    return digest.hexdigest()


def _link(source: Path, target: Path) -> None:
    """Link to a file, with a hard link if the file system allows it."""
    with gate.open_regular(source):
        pass  # refuses an empty file or a folder, as a copy would
    with atomic.os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:  # another disk, or a file system without hard links
            target.symlink_to(source.resolve())
