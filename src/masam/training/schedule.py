"""The learning rate as a function of the step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupPolynomial:
    """Linear warm-up, then polynomial decay.

    Source:
        paper.md 1.6: base * (1 - (step - 250) / max_steps) ** 7 after 250 steps of warm-up.
    """

    base: float  # largest learning rate
    warmup_steps: int  # steps until the largest learning rate
    decay_steps: int  # steps from there to zero
    power: float  # exponent of the decay

    def rate(self, step: int) -> float:
        """Return the learning rate of a step; steps start at 0."""
        if step < self.warmup_steps:
            return self.base * (step + 1) / self.warmup_steps
        left = 1 - (step - self.warmup_steps) / max(self.decay_steps, 1)
        return self.base * max(left, 0.0) ** self.power
