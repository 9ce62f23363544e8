"""Orderly stop: a signal sets a flag, which the training loop checks after each step."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from masam.errors import StoppedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Context manager in which the first SIGINT or SIGTERM sets ``signal_number``; a second one acts immediately."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopFlag:
        """Install the handlers; does nothing outside the main thread, where Python forbids it."""
        try:
            self._previous = {number: signal.signal(number, self._set) for number in _SIGNALS}
        except ValueError:
            self._previous = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous handlers."""
        self._restore()

    @staticmethod
    def error(signal_number: int, step: int, total_steps: int, state: Path) -> StoppedError:
        """Return the error that ends a stopped run."""
        what = f"stopped after step {step} of {total_steps}, the state is in {state}"
        return StoppedError(signal_number, what, fix="continue with --resume")

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
