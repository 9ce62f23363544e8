"""Orderly stop: a signal sets a flag, which the training loop checks after each step."""

from __future__ import annotations

import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType

from masam.errors import StoppedError


class StopFlag(ExitStack):
    """Context manager in which the first SIGINT or SIGTERM sets ``signal_number``; a second one acts immediately.

    It does nothing outside the main thread, where Python forbids handlers.
    """

    signal_number: int | None = None

    def __enter__(self) -> StopFlag:
        """Install the handlers; the stack holds the previous ones."""
        with suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                self.callback(signal.signal, number, signal.signal(number, self._set))
        return self

    @staticmethod
    def error(signal_number: int, step: int, total_steps: int, state: Path) -> StoppedError:
        """Return the error that ends a stopped run."""
        what = f"stopped after step {step} of {total_steps}, the state is in {state}"
        return StoppedError(signal_number, what, fix="continue with --resume")

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self.close()
