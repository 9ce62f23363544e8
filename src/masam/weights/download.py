"""Downloads that survive: resumed after a break, verified before the file has its name, one process at a time.

Why there is one of our own: docs/decisions/0011-model-files-and-downloads.md.
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
from masam.weights.http import Answer, BrokenTransferError, RefusedError, UnfitPartError, UnreachableError, opened
from masam.weights.part import Part, PartNote
from masam.weights.receipt import read_receipt, write_receipt

MAX_DOWNLOAD_BYTES = 16 * 2**30
"""Cap for one file, where its exact size is not known beforehand."""

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
# A connection that brought this much is a poor one, not a dead one; it does not use up the attempts.
_WORTH_GOING_ON_BYTES = MB
_ANOTHER_VERSION = "the host has another version of the file; see its page"
_CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


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
    """Download a file and verify it; a file with a fitting receipt is not downloaded again.

    Bytes go to ``NAME.part`` beside the target, which stays when this call is broken off, and which the next one goes
    on with. A receipt (:mod:`masam.weights.receipt`) is written beside the finished file.

    Args:
        url: An http or https address.
        target: Final name; folders are made.
        sha256: Expected SHA-256 in lower-case hex; without one, what the host states for the file.
        size: Exact size in bytes, if known.
        progress: Is told of the bytes, and of what went wrong on the way.
        by_hand: What to do where the download cannot work; it closes the error.
        timeout_s: Seconds without a byte after which a connection counts as broken.
        attempts: Attempts in a row that may bring less than a megabyte.
        sleep: Called with the seconds to wait before the next attempt.

    Returns:
        The verified SHA-256 in hex.

    Raises:
        InputError: The file's SHA-256 or size is not the expected one; nothing of it is kept.
        ResourceError: No network, an answer that is not the file, no space, no permission, or no SHA-256 to check by.
    """
    with _alone(target, progress):
        receipt = read_receipt(target)
        if receipt and sha256 in (None, receipt.sha256):
            return receipt.sha256
        remove_stale(target.parent)
        part = Part(target, url)
        transfer = _Transfer(part, sha256, size, progress)
        try:
            _repeat(transfer, timeout_s, attempts, sleep)
        except RefusedError as error:
            raise ResourceError(str(error), where=url, fix=by_hand) from error
        expected = sha256 or part.note.sha256
        if part.sha256 != expected:
            got = part.sha256
            part.clear()
            raise InputError(
                f"expected SHA-256 {expected}, got {got}", where=url, fix="nothing was kept; run the command again"
            )
        put_in_place(part.path, target)
        write_receipt(target, url, part.sha256)
        part.forget()
        return part.sha256


def stated_sha256(url: str, *, by_hand: str | None = None, timeout_s: float = 30.0) -> str:
    """Return the SHA-256 that the host states for a file, without downloading it.

    Args:
        url: An http or https address.
        by_hand: What to do where the host cannot be asked; it closes the error.
        timeout_s: Seconds without a byte after which a connection counts as broken.

    Returns:
        The SHA-256 in hex.

    Raises:
        ResourceError: The host states none, or cannot be asked.
    """
    try:
        with opened(url, timeout_s=timeout_s) as answer:
            stated = answer.stated_sha256
    except (RefusedError, BrokenTransferError) as error:
        raise ResourceError(str(error), where=url, fix=by_hand) from error
    if not stated:
        raise _no_sha256(url)
    return stated


class _Transfer:
    """What comes of a file, attempt after attempt."""

    def __init__(self, part: Part, sha256: str | None, size: int | None, progress: Progress) -> None:
        self.part, self.progress = part, progress
        self._sha256, self._size = sha256, size

    def attempt(self, timeout_s: float) -> None:
        """Ask for what is missing, and take it."""
        part = self.part
        with opened(part.note.url, first_byte=part.length, etag=part.note.etag, timeout_s=timeout_s) as answer:
            if answer.first_byte:
                self._require_continuation(answer)
            else:
                self._begin(answer)
            self._require_space(answer)
            size = answer.size or self._size
            meter = Megabytes(self.progress, part.path.name.removesuffix(".part"), size, part.length)
            try:
                part.append(answer.chunks(self._size or MAX_DOWNLOAD_BYTES), meter.reach)
            except RefusedError:
                part.clear()
                raise
        if self._size and part.length < self._size:
            raise BrokenTransferError(f"the connection ended {self._size - part.length} bytes early")

    def _begin(self, answer: Answer) -> None:
        """Judge what the server announces, and start anew with it."""
        url = self.part.note.url
        if self._size and answer.size not in (None, self._size):
            raise InputError(
                f"expected {self._size} bytes, the server announces {answer.size}", where=url, fix=_ANOTHER_VERSION
            )
        if answer.size is not None and answer.size > MAX_DOWNLOAD_BYTES:
            raise InputError(
                f"expected at most {MAX_DOWNLOAD_BYTES} bytes, the server announces {answer.size}", where=url
            )
        stated = answer.stated_sha256
        if not self._sha256 and not stated:
            raise _no_sha256(url)
        if self._sha256 and stated and stated != self._sha256:
            raise InputError(
                f"expected SHA-256 {self._sha256}, the host states {stated}",
                where=url,
                fix=_ANOTHER_VERSION,
            )
        self.part.begin(PartNote(url=url, etag=answer.etag, size=answer.size, sha256=stated))

    def _require_continuation(self, answer: Answer) -> None:
        """Refuse an answer that belongs to another version of the file than the part."""
        note = self.part.note
        pairs = ((note.etag, answer.etag), (note.size, answer.size), (note.sha256, answer.stated_sha256))
        if any(before and now and before != now for before, now in pairs):
            raise UnfitPartError("the server's file has changed")

    def _require_space(self, answer: Answer) -> None:
        missing = 0 if answer.size is None else answer.size - self.part.length
        free = shutil.disk_usage(self.part.path.parent).free
        if missing > free:
            raise ResourceError(
                f"the download takes {missing / MB:.0f} MB more, the disk has {free / MB:.0f} MB free",
                where=self.part.path.parent,
                fix="free space, or choose a folder on another disk by MASAM_HOME",
            )


def _repeat(transfer: _Transfer, timeout_s: float, attempts: int, sleep: Callable[[float], None]) -> None:
    """Attempt the transfer until it is complete, or attempts in a row brought nothing."""
    part, in_vain, is_reached = transfer.part, 0, False
    while not part.is_complete:
        before = part.length
        try:
            transfer.attempt(timeout_s)
            return
        except BrokenTransferError as error:
            if isinstance(error, UnfitPartError):
                part.clear()
            is_reached |= not isinstance(error, UnreachableError)
            in_vain = 0 if part.length - before >= _WORTH_GOING_ON_BYTES else in_vain + 1
            if not is_reached:
                # Someone without a network should not wait for what will not come.
                raise RefusedError(str(error)) from error
            if in_vain >= attempts:
                raise RefusedError(f"{error}, after {attempts} attempts in a row") from error
            pause_s = min(_LONGEST_PAUSE_S, max(error.wait_s, _FIRST_PAUSE_S * 2.0 ** max(0, in_vain - 1)))
            transfer.progress.say(f"{error}; going on at {part.length / MB:.1f} MB in {pause_s:.0f} s")
            sleep(pause_s)


def _no_sha256(url: str) -> ResourceError:
    return ResourceError(
        "the host states no SHA-256 for the file", where=url, fix="give one from a source you trust by --sha256"
    )


@contextmanager
def _alone(target: Path, progress: Progress) -> Iterator[None]:
    """Hold a target for this process; another one that wants it waits."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.say(f"another masam process downloads {target.name}, waiting for it")
            lock.acquire()
    except OSError as error:
        # Some network file systems have no locks; there the download goes on without one, as training does.
        if error.errno not in _CANNOT_LOCK:
            raise ResourceError(
                f"cannot write to the folder ({error.strerror})",
                where=target.parent,
                fix="choose a place you may write to by MASAM_HOME",
            ) from error
    try:
        yield
    finally:
        lock.release()
