"""Downloads that resume after an interruption and are verified before the file gets its final name.

Why no library is used: docs/decisions/0011-model-files-and-downloads.md.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from masam.atomic import put_in_place, remove_stale
from masam.errors import InputError, ResourceError
from masam.progress import MB, Megabytes, Progress
from masam.weights import http
from masam.weights.http import BrokenTransferError, RefusedError
from masam.weights.part import Part, PartSource
from masam.weights.receipt import read_receipt, write_receipt

MAX_DOWNLOAD_BYTES = 16 * 2**30
"""Largest accepted file if its exact size is not known beforehand."""

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
# An attempt that transferred this much does not count as failed, even if the connection broke.
_PROGRESS_BYTES = MB
_OTHER_VERSION = "the host has another version of the file; see its page"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: Progress,
    by_hand: str | None = None,
    timeout_s: float = 30.0,
    attempts: int = 5,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Download a file and verify it; a file with a matching receipt is not downloaded again.

    The content is written to ``NAME.part`` beside the target. An interrupted call leaves this file, and the next call
    resumes it. A receipt (:mod:`masam.weights.receipt`) is written beside the finished file.

    Args:
        url: An http or https address.
        target: Final path; missing folders are created.
        sha256: Expected SHA-256 in lower-case hex; None uses the hash published by the host.
        size: Exact size in bytes, if known.
        progress: Receives the progress, and a message for each interruption.
        by_hand: Instructions for a manual download, appended to the error message.
        timeout_s: Seconds without data after which a connection counts as broken.
        attempts: Maximum number of consecutive attempts that transfer less than a megabyte.
        sleep: Called with the seconds to wait before the next attempt.

    Returns:
        The verified SHA-256 in hex.

    Raises:
        InputError: SHA-256 or size differ from the expected ones; the download is deleted.
        ResourceError: No network, refused by the server, no space, no permission, or no SHA-256 to verify.
    """
    with _locked(target, progress):
        receipt = read_receipt(target)
        if receipt and sha256 in (None, receipt.sha256):
            return receipt.sha256
        remove_stale(target.parent)
        part = Part(target, url)
        try:
            _Transfer(part, sha256, size, progress).run(timeout_s, attempts, sleep)
        except RefusedError as error:
            raise ResourceError(str(error), where=url, fix=by_hand) from error
        expected, actual = sha256 or part.source.sha256, part.sha256
        if actual != expected:
            part.clear()
            fix = "the download was deleted; run the command again"
            raise InputError(f"expected SHA-256 {expected}, got {actual}", where=url, fix=fix)
        put_in_place(part.path, target)
        write_receipt(target, url, actual)
        part.delete_record()
        return actual


def fetch_published_sha256(url: str, *, by_hand: str | None = None, timeout_s: float = 30.0) -> str:
    """Return the SHA-256 (hex) that the host publishes for a file, without downloading it.

    Raises ResourceError, whose message ends with ``by_hand``, if the host publishes none or cannot be reached.
    """
    try:
        with http.open_url(url, timeout_s=timeout_s) as response:
            return _require_sha256(response, url)
    except (RefusedError, BrokenTransferError) as error:
        raise ResourceError(str(error), where=url, fix=by_hand) from error


class _Transfer:
    """The transfer of one file, over as many attempts as it needs."""

    def __init__(self, part: Part, sha256: str | None, size: int | None, progress: Progress) -> None:
        self._part, self._progress = part, progress
        self._sha256, self._size = sha256, size

    def run(self, timeout_s: float, attempts: int, sleep: Callable[[float], None]) -> None:
        """Attempt the transfer until it is complete, or until too many consecutive attempts fail."""
        part, failures, was_reached = self._part, 0, False
        while not part.is_complete:
            before = part.length
            try:
                self._attempt(timeout_s)
                return
            except BrokenTransferError as error:
                if isinstance(error, http.OutdatedPartError):
                    part.clear()
                was_reached |= not isinstance(error, http.UnreachableError)
                failures = 0 if part.length - before >= _PROGRESS_BYTES else failures + 1
                if not was_reached:
                    # Without a network, fail at once instead of waiting.
                    raise RefusedError(str(error)) from error
                if failures >= attempts:
                    raise RefusedError(f"{error}, after {attempts} attempts in a row") from error
                pause_s = min(_LONGEST_PAUSE_S, max(error.wait_s, _FIRST_PAUSE_S * 2.0 ** max(0, failures - 1)))
                self._progress.log(f"{error}; resuming at {part.length / MB:.1f} MB in {pause_s:.0f} s")
                sleep(pause_s)

    def _attempt(self, timeout_s: float) -> None:
        """Request the missing bytes and append them to the partial file."""
        part = self._part
        with http.open_url(
            part.source.url, first_byte=part.length, etag=part.source.etag, timeout_s=timeout_s
        ) as response:
            if response.first_byte:
                self._require_same_version(response)
            else:
                self._start(response)
            self._require_space(response)
            name = part.path.name.removesuffix(".part")
            meter = Megabytes(self._progress, name, response.size or self._size, part.length)
            try:
                part.append(response.chunks(self._size or MAX_DOWNLOAD_BYTES), meter.reach)
            except RefusedError:
                part.clear()
                raise
        if self._size and part.length < self._size:
            raise BrokenTransferError(f"the connection ended {self._size - part.length} bytes early")

    def _start(self, response: http.Response) -> None:
        """Check what the server announces, and start a new partial file."""
        url = self._part.source.url
        if self._size and response.size not in (None, self._size):
            raise InputError(
                f"expected {self._size} bytes, the server announces {response.size}", where=url, fix=_OTHER_VERSION
            )
        if response.size is not None and response.size > MAX_DOWNLOAD_BYTES:
            raise InputError(
                f"expected at most {MAX_DOWNLOAD_BYTES} bytes, the server announces {response.size}", where=url
            )
        if not self._sha256:
            _require_sha256(response, url)
        elif response.sha256 not in (None, self._sha256):
            raise InputError(
                f"expected SHA-256 {self._sha256}, the host publishes {response.sha256}", where=url, fix=_OTHER_VERSION
            )
        self._part.start(PartSource(url=url, etag=response.etag, size=response.size, sha256=response.sha256))

    def _require_same_version(self, response: http.Response) -> None:
        """Refuse a response that belongs to another version of the file than the partial file."""
        source = self._part.source
        pairs = ((source.etag, response.etag), (source.size, response.size), (source.sha256, response.sha256))
        if any(before and now and before != now for before, now in pairs):
            raise http.OutdatedPartError("the server's file has changed")

    def _require_space(self, response: http.Response) -> None:
        missing = 0 if response.size is None else response.size - self._part.length
        free = shutil.disk_usage(self._part.path.parent).free
        if missing > free:
            raise ResourceError(
                f"the download requires {missing / MB:.0f} MB more, the disk has {free / MB:.0f} MB free",
                where=self._part.path.parent,
                fix="free space, or set MASAM_HOME to a folder on another disk",
            )


def _require_sha256(response: http.Response, url: str) -> str:
    if not response.sha256:
        raise ResourceError(
            "the host publishes no SHA-256 for the file", where=url, fix="give one from a trusted source with --sha256"
        )
    return response.sha256


@contextmanager
def _locked(target: Path, progress: Progress) -> Iterator[None]:
    """Lock a target for this process; other processes wait."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.log(f"another masam process is downloading {target.name}; waiting for it")
            lock.acquire()
    except OSError as error:
        # Some network file systems do not support locks; the download then runs without one, as training does.
        if error.errno not in _NO_LOCKS:
            raise ResourceError(
                f"cannot write to the folder ({error.strerror})",
                where=target.parent,
                fix="set MASAM_HOME to a writable folder",
            ) from error
    try:
        yield
    finally:
        lock.release()
