"""The time limit of a run: how many steps fit into it."""

from __future__ import annotations

# Steps until the first forecast. The first steps of a process are slower and are not measured.
_FIRST_FORECAST = 20
_SLOW_STEPS = 3
# Distance of later forecasts as a fraction of the run: validations interrupt it, and the speed of a machine varies.
_FORECAST_INTERVAL = 0.05
# Fraction of the time for the last validation and for writing files.
_RESERVE = 0.03


class Budget:
    """Forecast of the number of steps that fit into the time limit of a run.

    Args:
        seconds: Time limit of the whole run, including earlier processes.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._start: tuple[int, float] | None = None
        self._steps = 0

    def affordable_steps(self, step: int, total_steps: int, spent: float) -> int:
        """Return the number of steps that the run should have.

        Args:
            step: Completed steps.
            total_steps: Planned steps.
            spent: Seconds spent so far, including validations.

        Returns:
            ``total_steps``, or fewer if time is short, but at least ``step``.
        """
        if spent >= self._seconds:
            return step
        self._steps += 1
        if self._steps == _SLOW_STEPS:
            self._start = (step, spent)
        interval = max(1, int(_FORECAST_INTERVAL * total_steps))
        is_due = self._steps == _FIRST_FORECAST or (self._steps > _FIRST_FORECAST and step % interval == 0)
        if self._start is None or not is_due:
            return total_steps
        pace = (spent - self._start[1]) / (step - self._start[0])
        if spent + pace * (total_steps - step) <= self._seconds:
            return total_steps
        left = self._seconds * (1 - _RESERVE) - spent
        return min(total_steps, step + max(0, int(left / pace)))
