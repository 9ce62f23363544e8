"""Progress of long tasks, independent of its display (terminal, log, server or none)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

MB = 1_000_000
"""Bytes per megabyte."""


@runtime_checkable
class Progress(Protocol):
    """Receiver of the progress of consecutive tasks."""

    def start(self, task: str, total: int) -> None:
        """Begin a task of ``total`` steps and end the previous one."""

    def advance(self, note: str = "") -> None:
        """Complete a step; ``note`` replaces the text shown beside the task."""

    def log(self, line: str) -> None:
        """Show a line."""


class Silent:
    """A receiver that does nothing."""

    def start(self, task: str, total: int) -> None:
        """Do nothing."""

    def advance(self, note: str = "") -> None:
        """Do nothing."""

    def log(self, line: str) -> None:
        """Do nothing."""


def warn_with(progress: Progress) -> Callable[[str], None]:
    """Return a function that shows a note on unusual input as a warning."""
    return lambda note: progress.log(f"warning: {note}")


class Megabytes:
    """Progress of a transfer in steps of a megabyte, with its speed.

    Args:
        progress: Receiver.
        task: Name of the task.
        size: Total bytes, or None if unknown.
        done: Bytes transferred earlier, which do not count for the speed.
    """

    def __init__(self, progress: Progress, task: str, size: int | None, done: int = 0) -> None:
        self._progress, self._size, self._done_before = progress, size, done
        self._total = max(1, size // MB) if size else 0
        self._steps = 0
        self._start_s = time.monotonic()
        progress.start(task, self._total)
        self.reach(done)

    def reach(self, done: int) -> None:
        """Report the total number of bytes transferred."""
        # Proportional, so that the last byte completes the last step although sizes are not multiples of a megabyte.
        steps = done * self._total // self._size if self._size else done // MB
        if steps > self._steps:
            seconds = time.monotonic() - self._start_s
            speed = (done - self._done_before) / MB / seconds if seconds else 0.0
            for _ in range(steps - self._steps):
                self._progress.advance(f"MB, {speed:.1f} MB/s" if speed else "MB")
            self._steps = steps
