"""The time that a run may take, and how many steps fit into it."""

from __future__ import annotations

# Steps whose pace is measured before the first forecast; the first ones of a process are slower.
_FIRST = 20
_UNTYPICAL = 3
# Forecasts after that, in shares of the run: validations come in between, and a machine's pace changes.
_SHARE = 0.05
# Kept for the end: the last validation, and files.
_RESERVE = 0.03


class Budget:
    """Forecasts how many steps of a run fit into the time that it has.

    Args:
        seconds: What it may take in all, earlier processes of the run included.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._mark: tuple[int, float] | None = None
        self._steps = 0

    def fitting(self, step: int, total_steps: int, spent: float) -> int:
        """Return how many steps the run shall have.

        Args:
            step: Steps done.
            total_steps: Steps planned.
            spent: Seconds spent so far, validations included.

        Returns:
            ``total_steps``, or fewer if time does not suffice; never fewer than ``step``.
        """
        if spent >= self._seconds:
            return step
        self._steps += 1
        if self._steps == _UNTYPICAL:
            self._mark = (step, spent)
        is_due = self._steps == _FIRST or (self._steps > _FIRST and step % max(1, int(_SHARE * total_steps)) == 0)
        if self._mark is None or not is_due:
            return total_steps
        pace = (spent - self._mark[1]) / (step - self._mark[0])
        left = self._seconds * (1 - _RESERVE) - spent
        if spent + pace * (total_steps - step) <= self._seconds:
            return total_steps
        return min(total_steps, step + max(0, int(left / pace)))
