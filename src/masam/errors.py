"""Exceptions with the exit codes of the command line.

Every message states what was expected, what was found, where, and what to do. The command line prints it as one line,
``error[INPUT]: liver_07.nii.gz: ...``. A traceback (exit code 1) is always a bug in masam.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar


class MasamError(Exception):
    """Base class of expected errors, with a message of one line.

    Args:
        what: What was expected and what was found.
        where: File, case, key or field; first part of the message.
        fix: What the user can do; last part of the message.
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
        # File names and messages of libraries may contain line breaks.
        super().__init__(" ".join("; ".join(parts).split()))

    def line(self) -> str:
        """Return the line that the command line prints."""
        return f"error[{self.kind}]: {self}"


class ConfigError(MasamError):
    """Invalid options or settings."""

    kind = "CONFIG"
    exit_code = 2


class InputError(MasamError):
    """A file or folder with invalid content."""

    kind = "INPUT"
    exit_code = 3


class BatchError(MasamError):
    """Some cases of a batch failed; the results of the others are written."""

    kind = "BATCH"
    exit_code = 4


class ResourceError(MasamError):
    """Missing or insufficient disk space, memory, permission, device or package."""

    kind = "RESOURCE"
    exit_code = 5


class ModelError(MasamError):
    """A corrupt or incompatible model file.

    Args:
        what: What was expected and what was found.
        where: File.
        fix: What the user can do.
        faults: All individual faults, of which ``what`` is a summary.
    """

    kind = "MODEL"
    exit_code = 6

    def __init__(self, what: str, *, where: object = None, fix: str | None = None, faults: Sequence[str] = ()) -> None:
        super().__init__(what, where=where, fix=fix)
        self.faults = tuple(faults)


class DivergedError(MasamError):
    """Training produced non-finite numbers."""

    kind = "DIVERGED"
    exit_code = 7


class StoppedError(MasamError):
    """The work was stopped in an orderly way by a signal.

    Args:
        signal_number: Number of the signal, such as 2 for Ctrl-C and 15 from a cluster scheduler.
        what: What was saved, and where.
        fix: How to resume.
    """

    kind = "STOPPED"

    def __init__(self, signal_number: int, what: str, *, fix: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.exit_code = 128 + signal_number


def some_of(names: Iterable[str], most: int = 5) -> str:
    """Return the first ``most`` names and the number of the others, for a message."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def brief(value: object, most: int = 80) -> str:
    """Return the representation of a value for a message, truncated to ``most`` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
