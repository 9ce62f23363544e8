"""How long work tells what it does, without knowing who listens: a terminal, a log, a server, or nobody."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


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
