"""One process a run folder: a second one that would train into it is refused at once."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from masam.errors import ResourceError

LOCK_FILE = "run.lock"
"""Name of the lock in a run folder; it is there only while a process trains."""

_CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; it is made if need be, and removed again if nothing has been written to it.

    The lock is the system's (``flock``): it ends with its process, however that ends, so a stale file of a killed run
    holds nobody up. On a system without such locks (Windows, some network file systems) the folder is not held.

    Args:
        folder: Run folder.

    Raises:
        ResourceError: Another process holds the folder, or it cannot be written to.
    """
    made = _missing_folders(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(folder / LOCK_FILE)
    except OSError as error:
        _remove_empty(made)
        raise ResourceError(
            f"cannot write to the folder ({error.strerror})", where=folder, fix="choose a place you may write to"
        ) from error
    try:
        yield
    finally:
        # Removed while still held: a process that waits for this very file finds it gone and takes a new one.
        with contextlib.suppress(OSError):
            (folder / LOCK_FILE).unlink()
        os.close(descriptor)
        _remove_empty(made)


def _take(path: Path) -> int:
    """Open and lock the file and say in it who holds it; returns its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(descriptor):
                holder = os.pread(descriptor, 256, 0).decode("utf-8", "replace").strip()
                raise ResourceError(
                    f"another process trains into this folder ({holder or 'it has just begun'})",
                    where=path.parent,
                    fix="wait for it, stop it, or choose another --out",
                )
            # The holder before us may have removed the file between our opening and our locking it.
            if _is_same_file(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"pid {os.getpid()} on {platform.node()}\n".encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; returns whether it is ours, which it also is where the system has no locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in _CANNOT_LOCK:
            raise
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _missing_folders(folder: Path) -> list[Path]:
    """Return the folder and those above it that are not there yet, the deepest first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
