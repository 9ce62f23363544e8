"""Mean of the predictions of overlapping windows for each slice."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from masam.errors import ConfigError, ModelError
from masam.windows import SliceWindow


class WindowAggregator:
    """Running mean over windows in the order of ``plan_windows`` or ``stream_windows``.

    Memory is constant: float32 sums of as many slices as a window has. Predictions for repeated end slices are
    discarded, and sums are divided by the number of remaining ones (paper.md 1.8; the reference divides by one more,
    quirk 39, which does not change the argmax).

    Args:
        depth: Slices of the volume; None for a stream of unknown length.
        num_channels: Classes K including the background.
        size: Rows and columns (H, W) of a prediction.
        window: Slices S of a window.
        device: Device of the sums, preferably that of the predictions.
        within: Slices to return; predictions for others are discarded. None for all.

    Raises:
        ConfigError: A number is less than 1, or ``within`` is not a range of slices of the volume.
    """

    def __init__(
        self,
        depth: int | None,
        num_channels: int,
        size: tuple[int, int],
        window: int,
        device: torch.device | str = "cpu",
        within: range | None = None,
    ) -> None:
        if min(1 if depth is None else depth, num_channels, window, *size) < 1:
            raise ConfigError(
                f"expected depth, channels, rows, columns and window of 1 or more, "
                f"got {depth}, {num_channels}, {size[0]}, {size[1]} and {window}"
            )
        if within is not None and not (depth is not None and 0 <= within.start < within.stop <= depth):
            raise ConfigError(f"expected slices within a volume of {depth}, got {within.start} to {within.stop - 1}")
        self.depth = depth
        self.window = window
        self._within = within
        # Slice i uses slot i modulo the window, since no window contains two slices of one slot.
        self._sums = torch.empty((window, num_channels, *size), dtype=torch.float32, device=device)
        self._votes = [0] * window
        self._next = 0 if within is None else within.start
        self._voted = 0
        self._last_start: int | None = None

    @property
    def buffer_bytes(self) -> int:
        """Memory of the sums, in bytes."""
        return self._sums.numel() * self._sums.element_size()

    def add(
        self, window: SliceWindow, probabilities: Float[Tensor, "S K H W"]
    ) -> list[tuple[int, Float[Tensor, "K H W"]]]:
        """Add the prediction of one window.

        Args:
            window: The window, which must start after the previous one.
            probabilities: [S, K, H, W] of any floating type.

        Returns:
            Index and mean probabilities [K, H, W] (float32) of the slices that are complete, in order.

        Raises:
            ConfigError: The window does not match the volume, is out of order, or leaves a slice without a prediction.
            ModelError: The prediction has another shape or is not finite.
        """
        if self.depth is None:
            # The last windows of a stream contain its length.
            self.depth = window.depth
        self._check(window, probabilities)
        # Starts increase, so slices before this one are complete; returning them frees their slots.
        end = self._end(window)
        finished = self._finish(min(window.start, end))
        for position in window.votes:
            if self._within is not None and window.start + position not in self._within:
                continue
            slot = (window.start + position) % self.window
            votes = probabilities[position].to(self._sums.device)
            # The first vote overwrites the slot's previous slice.
            if self._votes[slot] == 0:
                self._sums[slot] = votes
            else:
                self._sums[slot] += votes
            self._votes[slot] += 1
        self._last_start = window.start
        if self.depth is None:
            self._voted = end
        return finished + self._finish(min(window.start + 1, end))

    def flush(self) -> list[tuple[int, Float[Tensor, "K H W"]]]:
        """Return the remaining slices after the last window; raises as :meth:`add` does."""
        return self._finish(self._voted if self.depth is None else self._stop(self.depth))

    def _end(self, window: SliceWindow) -> int:
        """Return the number of slices known so far; before the end of a stream, windows have no overhang."""
        return window.start + window.size if self.depth is None else self._stop(self.depth)

    def _stop(self, depth: int) -> int:
        return depth if self._within is None else self._within.stop

    def _check(self, window: SliceWindow, probabilities: Tensor) -> None:
        if (window.depth, window.size) != (self.depth, self.window):
            raise ConfigError(
                f"expected a window of {self.window} slices over a depth of {self.depth}, "
                f"got {window.size} slices over {window.depth}"
            )
        if len(window.votes) == 0:
            raise ConfigError(f"the window from slice {window.start} on is outside the volume of {self.depth} slices")
        if self._last_start is not None and window.start <= self._last_start:
            raise ConfigError(
                f"expected windows in order, got start {window.start} after {self._last_start}",
                fix="add them in the order of plan_windows",
            )
        if self.depth is not None and self._next >= self.depth:
            raise ConfigError("got a window after all slices were complete", fix="use a new aggregator for each volume")
        expected = (self.window, *self._sums.shape[1:])
        if tuple(probabilities.shape) != expected:
            raise ModelError(f"expected probabilities of shape {expected}, got {tuple(probabilities.shape)}")

    def _finish(self, end: int) -> list[tuple[int, Tensor]]:
        """Return the slices before ``end``."""
        finished = []
        for index in range(self._next, end):
            slot = index % self.window
            if self._votes[slot] == 0:
                raise ConfigError(
                    f"no window contains slice {index} of {'a stream' if self.depth is None else self.depth}",
                    fix="choose a stride of at most the size of the window",
                )
            mean = self._sums[slot] / self._votes[slot]
            # The sum is non-finite if any value is; probabilities cannot make it overflow.
            if not bool(mean.sum().isfinite()):
                raise ModelError(f"the prediction of slice {index} is not finite", fix="predict with precision float32")
            finished.append((index, mean))
            self._votes[slot] = 0
            self._next = index + 1
        return finished
