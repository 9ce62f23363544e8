"""What can go wrong, in five kinds, each with the exit code its command ends with.

Every message says what was expected, what came, where, and what to do. The command line prints it as one line,
``error[INPUT]: liver_07.nii.gz: ...``; a traceback is only ever our own bug (exit code 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

_MOST_CHARACTERS = 80


class MasamError(Exception):
    """A fault that masam understands and can explain in one line.

    Args:
        what: What was expected and what came instead.
        where: File, case, key or field the fault is in; it opens the line.
        fix: What the user can do; it closes the line.
    """

    kind: ClassVar[str] = "MASAM"
    exit_code: int = 1

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        parts = [f"{self.where}: {what}" if self.where else what]
        if fix:
            parts.append(fix)
        # A file name or a library's message may hold line breaks; the promise is one line.
        super().__init__(" ".join("; ".join(parts).split()))

    def line(self) -> str:
        """Return the one line that the command line prints."""
        return f"error[{self.kind}]: {self}"


class ConfigError(MasamError):
    """A wrong option, key or combination of settings."""

    kind = "CONFIG"
    exit_code = 2


class InputError(MasamError):
    """A file or folder whose content is refused."""

    kind = "INPUT"
    exit_code = 3


class BatchError(MasamError):
    """Some cases of a batch failed; the others are written."""

    kind = "BATCH"
    exit_code = 4


class ResourceError(MasamError):
    """Disk, memory, permission or device is not there or not enough."""

    kind = "RESOURCE"
    exit_code = 5


class ModelError(MasamError):
    """A checkpoint that is corrupt, or does not fit what is asked of it.

    Args:
        what: What was expected and what came instead.
        where: File the fault is in.
        fix: What the user can do.
        faults: Every single fault, where the line only has room for their sum.
    """

    kind = "MODEL"
    exit_code = 6

    def __init__(self, what: str, *, where: object = None, fix: str | None = None, faults: Sequence[str] = ()) -> None:
        super().__init__(what, where=where, fix=fix)
        self.faults = tuple(faults)


class DivergedError(MasamError):
    """Training produced numbers that are not finite."""

    kind = "DIVERGED"
    exit_code = 7


class StoppedError(MasamError):
    """The user or the system asked the work to stop, and it did so in good order.

    Args:
        signal_number: The signal, 2 for Ctrl-C, 15 for a cluster's notice.
        what: What is kept and where.
        fix: How to go on.
    """

    kind = "STOPPED"

    def __init__(self, signal_number: int, what: str, *, fix: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.exit_code = 128 + signal_number


def some_of(names: Iterable[str], most: int = 5) -> str:
    """List names for a message: the first, and how many more there are.

    Args:
        names: Names in the order to show.
        most: Names to show.
    """
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def brief(value: object) -> str:
    """Show a value that a file holds in a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."
