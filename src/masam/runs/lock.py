"""Lock a run folder, so that a second process that would write to it is refused at once."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from masam.errors import ResourceError

LOCK_FILE = "run.lock"
"""Name of the lock in a run folder; it exists only while a process works in the folder."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; it is created if necessary, and removed if nothing has been written to it.

    The operating system releases the lock when its process ends, however it ends, so the file of a killed run blocks no
    other run. On file systems without such locks (some network file systems) the folder is used unlocked.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]  # the deepest first
    file = folder / LOCK_FILE
    # No fallback to a marker file: after a kill it would stay and block the next run on another machine.
    lock = FileLock(file, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, file)
    except OSError as error:
        lock.release()
        _remove_empty(created)
        raise ResourceError(
            f"cannot write to the folder ({error.strerror})", where=folder, fix="choose a folder that you may write to"
        ) from error
    try:
        yield
    finally:
        # Removed while still held: a process that opened this file before finds it deleted and is refused.
        with contextlib.suppress(OSError):
            file.unlink()
        lock.release()
        _remove_empty(created)


def _acquire(lock: FileLock, file: Path) -> None:
    """Lock the file and write the process that holds it into the file."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = ""
        with contextlib.suppress(OSError):  # Windows does not let others read a locked file
            holder = file.read_text("utf-8", "replace").strip()
        raise ResourceError(
            f"another process is writing to this folder ({holder or 'it has just started'})",
            where=file.parent,
            fix="wait for it, stop it, or choose another --out",
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    with contextlib.suppress(PermissionError):
        file.write_text(f"pid {os.getpid()} on {platform.node()}\n", "utf-8")


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
