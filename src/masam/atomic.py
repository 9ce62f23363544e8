"""The one way a file is written: aside, verified, flushed to the disk, renamed.

At the final name there is the old file or the whole new one, never a part: a full disk, a kill or a power cut in
between leaves at most a hidden temporary file, which :func:`remove_stale` clears away.
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
"""Age from which a temporary file counts as left over, even if a process of its number may still run."""

# The longest endings that say something (".nii.gz", ".safetensors"); beyond it the "suffix" is the name itself, and the
# temporary name would not fit into the 255 bytes of a file name.
_MAX_SUFFIX_BYTES = 32

_REPLACED = ".replaced"


def write_bytes(path: Path, data: bytes | bytearray | memoryview, verify: Callable[[Path], None] | None = None) -> None:
    """Write bytes to a file; see :func:`write_with`."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_with(path, write, verify)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, line ends as they are, on every system and locale; see :func:`write_with`."""
    write_bytes(path, text.encode())


def write_with(path: Path, write: Callable[[Path], None], verify: Callable[[Path], None] | None = None) -> None:
    """Let a function write a file aside, then put the file in place.

    Missing folders are created. If ``path`` is a symbolic link, the link is replaced, not what it points to.

    Args:
        path: Final name.
        write: Called with a hidden name in the same folder, with the same suffixes; writes the file there.
        verify: Called with the same name after writing; re-opens the file and raises a MasamError if it is not right.

    Raises:
        ResourceError: The file cannot be written (no space, no permission, a folder of that name, ...), or it does not
            read back; nothing has changed at ``path``.
    """
    _refuse_zero_byte(path)
    temporary = path.with_name(_temporary_name(path))
    try:
        with _border(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _require_file_name(path)
            write(temporary)
            _verify(temporary, path, verify)
        put_in_place(temporary, path)
    finally:
        # After the rename there is nothing left to remove; after anything else, KeyboardInterrupt included, there is.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Flush a file that was written aside, and give it its final name.

    Args:
        temporary: The whole, verified file, in the folder of ``path``. It stays where it is if this fails.
        path: Final name.

    Raises:
        ResourceError: The system does not let us; nothing has changed at ``path``.
    """
    with _border(path):
        _require_file_name(path)
        _flush(temporary, os.O_RDWR)
        temporary.replace(path)
        _flush_folder(path.parent)


def write_aside(path: Path, write: Callable[[Path], Result], *, replace: bool = False) -> Result:
    """Let a function write a folder, or a file with others that belong to it, aside, then put all of it in place.

    For what is more than one file, and for files that hold each other's names. Missing folders are created.

    Args:
        path: Final name; nothing of that name may be there.
        write: Called with the same name in a hidden folder; writes a file or a folder there, and beside it whatever
            else shall lie beside ``path``. It also checks what it has written, and raises if that is not right.
        replace: Let what was written take the place of what is there, once it is whole. A kill between the two leaves
            neither.

    Returns:
        What the function returned.

    Raises:
        ResourceError: Something of that name is there, or it cannot be written; nothing has come to its place.
    """
    _refuse_zero_byte(path)
    aside = path.with_name(_temporary_name(Path()))
    try:
        with _border(path):
            if not replace:
                _refuse_existing(path)
            aside.mkdir(parents=True)
            result = write(aside / path.name)
            for written in aside.rglob("*"):
                _flush_folder(written) if written.is_dir() else _flush(written, os.O_RDWR)
            # The one that is asked for comes last: when it is there, so is all that belongs to it.
            written_all = sorted(aside.iterdir(), key=lambda written: written.name == path.name)
            _exchange(written_all, path.parent, aside / _REPLACED) if replace else _move_all(written_all, path.parent)
            _flush_folder(path.parent)
    except ResourceError as error:
        if error.where != str(aside / path.name):
            raise
        # The hidden name means nothing to anybody.
        raise ResourceError(error.what, where=path, fix=error.fix) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return result


def _exchange(sources: list[Path], folder: Path, old: Path) -> None:
    """Rename files and folders into a folder; what has their names there goes into ``old``, back if that fails."""
    old.mkdir()
    # Renamed, not removed: a kill while a folder is emptied would leave a part of it that looks whole.
    there = [folder / source.name for source in sources]
    _move_all([path for path in there if path.exists() or path.is_symlink()], old)
    try:
        _move_all(sources, folder)
    except BaseException:
        _move_all(list(old.iterdir()), folder)
        raise


def _move_all(sources: list[Path], folder: Path) -> None:
    """Rename files and folders into a folder; all of them or, if one cannot be, none."""
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
        raise ResourceError("there is something of that name already", where=path, fix="choose another name")


def _refuse_zero_byte(path: Path) -> None:
    if "\0" in str(path):
        raise ResourceError("the name holds a zero byte", where=repr(str(path)), fix="choose another name")


@contextlib.contextmanager
def _border(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        fix = "free space or choose another place" if error.errno in NO_SPACE else "choose a place you may write to"
        raise ResourceError(f"cannot write the file ({reason})", where=path, fix=fix) from error


def _require_file_name(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ResourceError("there is a folder or a device of that name", where=path, fix="choose another name")


NO_SPACE = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
"""What the system says when a disk, a quota or a limit on files is full."""


def remove_stale(folder: Path) -> list[Path]:
    """Remove the temporary files and folders that killed runs of masam left in a folder.

    One is left over if its process on this machine has ended, or if it is older than a day. Others are in use.

    Args:
        folder: Folder to clear, not those below it; it need not exist.

    Returns:
        What was removed, sorted.
    """
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _TEMPORARY.fullmatch(path.name)
        # Another run may tidy the same folder, or finish its file, between our looking and our removing.
        with contextlib.suppress(OSError):
            if match and _is_stale(match, path):
                # Of a link only the link goes: what it points to is somebody's.
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                removed.append(path)
    return removed


def _temporary_name(path: Path) -> str:
    suffix = "".join(path.suffixes[-2:])
    if len(os.fsencode(suffix)) > _MAX_SUFFIX_BYTES:
        suffix = ""
    return f".masam-tmp-{_host()}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"


def _host() -> str:
    # A process number means something on one machine only, and a cluster's machines share their folders.
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_stale(match: re.Match[str], path: Path) -> bool:
    if time.time() - path.stat().st_mtime > STALE_AFTER_S:
        return True
    return match["host"] == _host() and not is_running(int(match["pid"]))


def is_running(pid: int) -> bool:
    """Say whether a process of this machine still runs, whoever it belongs to."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # it runs, under another user
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
        return  # Windows has no such call; its rename is journalled
    try:
        _flush(folder, os.O_RDONLY)
    except OSError as error:
        # Some network file systems cannot flush a folder; the file itself is whole and in place.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
