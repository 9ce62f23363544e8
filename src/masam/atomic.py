"""Atomic writes: to a temporary file, which is verified, flushed to disk and renamed.

The final name always refers to the complete old or new file. A full disk, a kill or a power failure leaves at most a
hidden temporary file, which :func:`remove_stale` removes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from masam.errors import MasamError, ResourceError

Result = TypeVar("Result")

_TEMPORARY = re.compile(r"\.masam-tmp-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}(\..*)?", re.DOTALL)

STALE_AFTER_S = 24 * 3600.0
"""Age from which a temporary file is removed even if its process may still be running."""

# Longer "suffixes" are part of the name rather than an extension, and could exceed the limit of 255 bytes.
_MAX_SUFFIX_BYTES = 32

_REPLACED = ".replaced"


def write_bytes(path: Path, data: bytes | bytearray | memoryview, verify: Callable[[Path], None] | None = None) -> None:
    """Write bytes to a file, see :func:`write_with`."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_with(path, write, verify)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 without conversion of line ends, see :func:`write_with`."""
    write_bytes(path, text.encode())


def write_with(path: Path, write: Callable[[Path], None], verify: Callable[[Path], None] | None = None) -> None:
    """Write a file atomically with a function.

    Missing folders are created. If ``path`` is a symbolic link, the link itself is replaced.

    Args:
        path: Final path.
        write: Function that writes the file to a given temporary path in the same folder, with the same suffixes.
        verify: Function that reads the file at the temporary path and raises a MasamError if it is wrong.

    Raises:
        ResourceError: The file cannot be written or verified; ``path`` is unchanged.
    """
    _refuse_zero_byte(path)
    temporary = path.with_name(_temporary_name(path))
    try:
        with os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _require_file_name(path)
            write(temporary)
            _verify(temporary, path, verify)
        put_in_place(temporary, path)
    finally:
        # Nothing remains after the rename; after any exception, including KeyboardInterrupt, a temporary file may.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Flush a temporary file and rename it.

    Args:
        temporary: The complete file, in the folder of ``path``; remains if this fails.
        path: Final path.

    Raises:
        ResourceError: The operating system refuses; ``path`` is unchanged.
    """
    with os_errors(path):
        _require_file_name(path)
        _flush(temporary, os.O_RDWR)
        temporary.replace(path)
        _flush_folder(path.parent)


def write_aside(path: Path, write: Callable[[Path], Result], *, replace: bool = False) -> Result:
    """Write a folder, or several files that refer to each other by name, atomically with a function.

    Missing folders are created.

    Args:
        path: Final path, which must not exist unless ``replace``.
        write: Function that writes and verifies a file or folder at a path of the same name in a hidden folder, and
            beside it any other files that belong beside ``path``.
        replace: Replace existing files once the new ones are complete. A kill in between leaves neither.

    Returns:
        The result of the function.

    Raises:
        ResourceError: The path exists, or cannot be written; nothing has been moved to its final name.
    """
    _refuse_zero_byte(path)
    aside = path.with_name(_temporary_name(Path()))
    try:
        with os_errors(path):
            if not replace:
                _refuse_existing(path)
            aside.mkdir(parents=True)
            result = write(aside / path.name)
            for written in aside.rglob("*"):
                _flush_folder(written) if written.is_dir() else _flush(written, os.O_RDWR)
            # ``path`` itself comes last: when it exists, so do the files that belong to it.
            written_all = sorted(aside.iterdir(), key=lambda written: written.name == path.name)
            _exchange(written_all, path.parent, aside / _REPLACED) if replace else _move_all(written_all, path.parent)
            _flush_folder(path.parent)
    except ResourceError as error:
        if error.where != str(aside / path.name):
            raise
        # The hidden path means nothing to the user.
        raise ResourceError(error.what, where=path, fix=error.fix) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return result


def _exchange(sources: list[Path], folder: Path, old: Path) -> None:
    """Move files and folders into a folder and existing ones of their names into ``old``; undo both on failure."""
    old.mkdir()
    # Renamed, not removed: a kill during removal would leave an incomplete folder that looks complete.
    targets = [folder / source.name for source in sources]
    _move_all([path for path in targets if path.exists() or path.is_symlink()], old)
    try:
        _move_all(sources, folder)
    except BaseException:
        _move_all(list(old.iterdir()), folder)
        raise


def _move_all(sources: list[Path], folder: Path) -> None:
    """Move files and folders into a folder; all of them, or none on failure."""
    for source in sources:
        _refuse_existing(folder / source.name)
    moved: list[tuple[Path, Path]] = []
    try:
        for source in sources:
            moved.append((source, source.rename(folder / source.name)))
    except BaseException:
        for source, target in moved:
            target.rename(source)
        raise


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise ResourceError("the path already exists", where=path, fix="choose another name")


def _refuse_zero_byte(path: Path) -> None:
    if "\0" in str(path):
        raise ResourceError("the name contains a null character", where=repr(str(path)), fix="choose another name")


@contextlib.contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Convert system errors of writes to a ResourceError that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        fix = "free disk space or choose another location" if error.errno in NO_SPACE else "choose a writable location"
        raise ResourceError(f"cannot write the file ({reason})", where=path, fix=fix) from error


def _require_file_name(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ResourceError("the path is a folder or a device", where=path, fix="choose another name")


NO_SPACE = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Error numbers of a full disk, an exceeded quota or a file size limit."""


def remove_stale(folder: Path) -> list[Path]:
    """Remove temporary files and folders of terminated processes.

    They are removed if their process on this machine has ended, or if they are older than a day.

    Args:
        folder: Folder to clean, without its subfolders; it need not exist.

    Returns:
        The removed paths, sorted.
    """
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _TEMPORARY.fullmatch(path.name)
        # Another process may clean the same folder or finish its file at the same time.
        with contextlib.suppress(OSError):
            if match and _is_stale(match, path):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                removed.append(path)
    return removed


def _temporary_name(path: Path) -> str:
    suffix = "".join(path.suffixes[-2:])
    if len(os.fsencode(suffix)) > _MAX_SUFFIX_BYTES:
        suffix = ""
    return f".masam-tmp-{_host()}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"


def _host() -> str:
    # Process ids are only valid on one machine, and the machines of a cluster share folders.
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_stale(match: re.Match[str], path: Path) -> bool:
    if time.time() - path.stat().st_mtime > STALE_AFTER_S:
        return True
    return match["host"] == _host() and not is_running(int(match["pid"]))


def is_running(pid: int) -> bool:
    """Return whether a process of any user is running on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # of another user
    return True


def _verify(temporary: Path, path: Path, verify: Callable[[Path], None] | None) -> None:
    if verify is None:
        return
    try:
        verify(temporary)
    except MasamError as error:
        raise ResourceError(
            f"the file did not read back as it was written ({error.what})", where=path, fix="check the disk"
        ) from error


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows cannot flush a folder; its rename is journalled
    try:
        _flush(folder, os.O_RDONLY)
    except OSError as error:
        # Some network file systems cannot flush a folder; the file itself is complete.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
