"""How long work tells what it does, without knowing who listens: a terminal, a log, a server, or nobody."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

MB = 1_000_000
"""Bytes of a megabyte, as hosts state the size of a file."""


@runtime_checkable
class Progress(Protocol):
    """A listener to one piece of long work after another."""

    def start(self, task: str, total: int) -> None:
        """A task of ``total`` steps begins; one that was running before has ended."""

    def advance(self, note: str = "") -> None:
        """A step is done; ``note`` replaces the figures shown beside the task."""

    def say(self, line: str) -> None:
        """Something worth a line of its own."""


class Silent:
    """Listens to nothing."""

    def start(self, task: str, total: int) -> None:
        """Ignore it."""

    def advance(self, note: str = "") -> None:
        """Ignore it."""

    def say(self, line: str) -> None:
        """Ignore it."""


class Megabytes:
    """Tells a listener of bytes, in steps of a megabyte with the speed beside them.

    Args:
        progress: The listener.
        task: What the bytes are of.
        size: Bytes in all, None if nobody knows.
        done: Bytes that were there before; they do not count for the speed.
    """

    def __init__(self, progress: Progress, task: str, size: int | None, done: int = 0) -> None:
        self._progress, self._size, self._done_before = progress, size, done
        self._total = max(1, size // MB) if size else 0
        self._steps = 0
        self._begun = time.monotonic()
        progress.start(task, self._total)
        self.reach(done)

    def reach(self, done: int) -> None:
        """Tell that so many bytes are done in all."""
        # In proportion, so that the last byte is the last step although sizes are no whole megabytes.
        steps = done * self._total // self._size if self._size else done // MB
        if steps > self._steps:
            seconds = time.monotonic() - self._begun
            speed = (done - self._done_before) / MB / seconds if seconds else 0.0
            for _ in range(steps - self._steps):
                self._progress.advance(f"MB, {speed:.1f} MB/s" if speed else "MB")
            self._steps = steps
