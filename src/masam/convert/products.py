"""The files of a converted data set, one by one: copied, linked or rewritten, and noted when they are finished.

``conversion.jsonl`` in the new folder has a line for each finished file, so that a killed conversion goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masam import atomic
from masam.errors import InputError, ResourceError

RECORD = "conversion.jsonl"
"""Which files are finished, one JSON a line."""

COPY, LINK = "copy", "link"
"""Rules for files whose bytes stay as they are."""

Rewrite = Callable[[Path, Path], None]

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Product:
    """One file to make.

    Attributes:
        source: File of the download.
        target: Its place in the new folder, with forward slashes.
        rule: What becomes of the content, in words; a finished file of another rule is made again.
        rewrite: Called with source and a path to write; None copies the bytes as they are.
    """

    source: Path
    target: str
    rule: str = COPY
    rewrite: Rewrite | None = None


def finished(products: Sequence[Product], root: Path, link: bool) -> dict[str, dict[str, Any]]:
    """Return the lines of the record, by target, of files that are what they would become now.

    Args:
        products: Files to make.
        root: Folder that they are made in.
        link: Whether files that stay as they are shall be links.

    Raises:
        ResourceError: The system did not let us read.
    """
    noted = _read_record(root / RECORD)
    return {
        product.target: noted[product.target]
        for product in products
        if product.target in noted and _is_finished(product, root / product.target, link, noted[product.target])
    }


def begin_record(root: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write the record anew, with what is finished; its last line may have been half of one.

    Raises:
        ResourceError: It cannot be written.
    """
    atomic.write_text(root / RECORD, "".join(_line(entry) for entry in entries))


def note(root: Path, entry: Mapping[str, Any]) -> None:
    """Add a finished file to the record.

    Raises:
        ResourceError: It cannot be written.
    """
    with writing(root / RECORD), (root / RECORD).open("a", encoding="utf-8") as file:
        file.write(_line(entry))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system raises while we write beside ``atomic`` into masam's error.

    Args:
        path: File to name in the error.

    Raises:
        ResourceError: The system does not let us.
    """
    try:
        yield
    except OSError as error:
        fix = "free space or choose another place" if error.errno in atomic.NO_SPACE else "name another folder"
        raise ResourceError(
            f"cannot write the file ({error.strerror or type(error).__name__})", where=path, fix=fix
        ) from error


def make(product: Product, root: Path, link: bool) -> dict[str, Any]:
    """Make one file.

    Args:
        product: The file.
        root: Folder that it is made in.
        link: Link it instead of copying, if its bytes stay as they are.

    Returns:
        Its line of the record.

    Raises:
        InputError: The source is refused.
        ResourceError: A file cannot be read or written.
    """
    target = root / product.target
    if product.rewrite is not None:
        product.rewrite(product.source, target)
        return _entry(product, link, _sha256(target))
    if link:
        _link(product.source, target)
        return _entry(product, link, None)
    return _entry(product, link, _copy(product.source, target))


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    """Return the lines of a record by target; nothing where there is none."""
    from masam.io.gate import os_errors

    entries: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return entries
    with os_errors(path):
        lines = path.read_text("utf-8", errors="replace").splitlines()
    for line in lines:
        # A line that was cut off by a kill is no entry; its file is made again.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            entries[str(entry["target"])] = entry
    return entries


def _is_finished(product: Product, target: Path, link: bool, entry: Mapping[str, Any]) -> bool:
    """Say whether a file is what it would become now; its source is known by size and time, itself by its bytes."""
    if not target.is_file() or entry != _entry(product, link, entry.get("sha256")):
        return False
    if _is_linked(product, link):
        return target.samefile(product.source)
    return _sha256(target) == entry["sha256"]


def _is_linked(product: Product, link: bool) -> bool:
    return link and product.rewrite is None


def _entry(product: Product, link: bool, sha256: str | None) -> dict[str, Any]:
    """Return the record's line of a file: what it was made of, how, and its own hash."""
    from masam.io.gate import os_errors

    with os_errors(product.source):
        status = product.source.stat()
    return {
        "target": product.target,
        "rule": LINK if _is_linked(product, link) else product.rule,
        "source_bytes": status.st_size,
        "source_mtime_ns": status.st_mtime_ns,
        "sha256": sha256,
    }


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _sha256(path: Path) -> str:
    from masam.io.gate import sha256

    return sha256(path)


def _copy(source: Path, target: Path) -> str:
    """Copy a file, read the copy back, and return the SHA-256 of both."""
    from masam.io.gate import open_regular

    digest = hashlib.sha256()

    def write(temporary: Path) -> None:
        with open_regular(source) as reader, temporary.open("wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                digest.update(chunk)
                writer.write(chunk)

    def verify(temporary: Path) -> None:
        if _sha256(temporary) != digest.hexdigest():
            raise InputError("the copy's bytes differ", where=target)

    atomic.write_with(target, write, verify)
    return digest.hexdigest()


def _link(source: Path, target: Path) -> None:
    """Link to a file, with a hard link where the disk allows it."""
    from masam.io.gate import open_regular

    with open_regular(source):
        pass  # an empty file or a folder is refused as a copy would refuse it
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:
            # Another disk, or a file system without hard links.
            target.symlink_to(source.resolve())
