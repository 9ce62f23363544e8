"""Get published weights onto this machine, and verify those that are there."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from masam.errors import ConfigError, InputError, MasamError, ModelError, ResourceError
from masam.io.gate import os_errors
from masam.io.gate import sha256 as hash_file
from masam.progress import Megabytes, Progress, Silent
from masam.weights.download import download, fetch_published_sha256
from masam.weights.published import PUBLISHED, PublishedWeights, damaged_package, find_published, require_cached, state
from masam.weights.receipt import write_receipt


def get(name: str, *, progress: Progress | None = None, offline: bool = False, sha256: str | None = None) -> Path:
    """Return the verified file of published weights, after downloading it if necessary.

    A file that was put into the cache folder by hand is verified and accepted.

    Args:
        name: A name of ``PUBLISHED``.
        progress: Receives the progress of the download.
        offline: Do not use the network. ``MASAM_OFFLINE=1`` in the environment has the same effect.
        sha256: Expected SHA-256 in hex, if none is pinned and the host publishes none.

    Raises:
        ConfigError: The name is unknown, or ``sha256`` is not a SHA-256 or differs from the pinned one.
        InputError: The file is not the expected one.
        ModelError: The package's own file is missing or incomplete.
        ResourceError: The file cannot be downloaded or written; the message describes the download by hand.
    """
    entry = find_published(name)
    progress = progress or Silent()
    offline = offline or os.environ.get("MASAM_OFFLINE", "0") not in ("", "0")
    expected = _expected(entry, sha256)
    target = entry.path
    if verified := entry.verified():
        if expected not in (None, verified):
            raise _unexpected(target, str(expected), verified)
    elif entry.url is None:
        raise damaged_package(entry)
    elif target.exists():
        if expected is None and offline:
            raise _unknown(entry, target)
        expected = expected or fetch_published_sha256(entry.url, by_hand=_by_hand(entry, target))
        if (actual := _hash(target, progress)) != expected:
            raise _unexpected(target, expected, actual)
        write_receipt(target, entry.url, actual)
    elif offline:
        raise ResourceError(f"{name} is not on this machine, and downloads are disabled", fix=_by_hand(entry, target))
    else:
        size = entry.bytes if entry.sha256 else None
        by_hand = f"see {entry.page}, or {_by_hand(entry, target)}"
        download(entry.url, target, sha256=expected, size=size, progress=progress, by_hand=by_hand)
    return target


@dataclass
class Verification:
    """Result of verifying files of published weights: the SHA-256, or the error, by name."""

    verified: dict[str, str] = field(default_factory=dict)
    failed: dict[str, MasamError] = field(default_factory=dict)

    def raise_failures(self) -> None:
        """Raise the error for the failed files; damaged files come first, and the message names all of them."""
        damaged = [error for error in self.failed.values() if isinstance(error, ModelError)]
        if len(damaged) > 1:
            raise ModelError("; ".join(map(str, damaged)))
        for error in [*damaged, *self.failed.values()]:
            raise error


def verify(names: Sequence[str] = (), *, progress: Progress | None = None) -> Verification:
    """Hash files of published weights and compare with the pinned or recorded SHA-256.

    A file that was put there by hand is accepted from then on if its SHA-256 is the pinned one.

    Args:
        names: Names of ``PUBLISHED``, whose files must be on this machine; empty for all weights on this machine.
        progress: Receives the progress.
    """
    present = [name for name in PUBLISHED if state(name) in ("yes", "unchecked")]
    for name in names:
        if find_published(name).name not in present:
            require_cached(name)
    result = Verification()
    for name in dict.fromkeys(names) or present:
        entry = PUBLISHED[name]
        path, verified = entry.path, entry.verified()
        expected = entry.sha256 or verified
        if not expected:
            result.failed[name] = _unknown(entry, path)
            continue
        sha256 = _hash(path, progress or Silent())
        if sha256 != expected:
            result.failed[name] = ModelError(
                f"{name} is damaged: expected SHA-256 {expected}, got {sha256}",
                where=path,
                fix=f"delete the file and run masam weights get {name}" if entry.url else "install masam again",
            )
            continue
        if verified is None and entry.url:
            write_receipt(path, entry.url, sha256)
        result.verified[name] = sha256
    return result


def _expected(entry: PublishedWeights, sha256: str | None) -> str | None:
    if sha256 is None:
        return entry.sha256
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"expected 64 hexadecimal digits, got {sha256!r}", where="sha256")
    if entry.sha256 not in (None, sha256.lower()):
        raise ConfigError(f"{entry.name} has SHA-256 {entry.sha256}, got {sha256}", where="sha256", fix="leave it out")
    return sha256.lower()


def _hash(path: Path, progress: Progress) -> str:
    with os_errors(path):
        meter = Megabytes(progress, path.name, path.stat().st_size)
    return hash_file(path, meter.reach)


def _unexpected(path: Path, expected: str, actual: str) -> InputError:
    fix = "delete the file and run the command again"
    return InputError(f"expected SHA-256 {expected}, got {actual}", where=path, fix=fix)


def _unknown(entry: PublishedWeights, path: Path) -> InputError:
    fix = f"run masam weights get {entry.name}, which asks the host, or give it with --sha256"
    return InputError("no SHA-256 is known for the file", where=path, fix=fix)


def _by_hand(entry: PublishedWeights, target: Path) -> str:
    then = f"masam weights verify {entry.name}" if entry.sha256 else f"masam weights get {entry.name} --sha256 HASH"
    return f"download {entry.url} on another machine, put it at {target} and run {then}"
