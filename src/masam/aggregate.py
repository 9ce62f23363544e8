"""Put the predictions of overlapping windows together: each slice gets the mean of the votes cast for it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from masam.errors import ConfigError, ModelError
from masam.windows import SliceWindow


class WindowAggregator:
    """A running mean over windows, in the order of ``plan_windows`` or of ``stream_windows``.

    It holds the sums of as many slices as a window has, whatever the depth of the volume, in float32 whatever the type
    of the predictions. Votes for repeated end slices are discarded, and a mean is divided by its true number of votes
    (paper.md 1.8; the reference divides by one vote more, quirk 39, which no argmax notices).

    Args:
        depth: Slices of the volume; None for a stream whose end is not known yet.
        num_channels: Classes with background K.
        size: Rows and columns (H, W) of a prediction.
        window: Slices of a window S.
        device: Where the sums are kept; best where the predictions are made.
        within: Slices that are asked for; votes for others are discarded, and they need none. None for all.

    Raises:
        ConfigError: A number is less than 1, or no slice of the volume is asked for.
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
        # Slot of slice i: i modulo the window, as no window touches two slices that far apart.
        self._sums = torch.empty((window, num_channels, *size), dtype=torch.float32, device=device)
        self._votes = [0] * window
        self._next = 0 if within is None else within.start
        self._voted = 0
        self._last_start: int | None = None

    @property
    def buffer_bytes(self) -> int:
        """Memory held between two windows, in bytes; it does not depend on the depth."""
        return self._sums.numel() * self._sums.element_size()

    def add(
        self, window: SliceWindow, probabilities: Float[Tensor, "S K H W"]
    ) -> list[tuple[int, Float[Tensor, "K H W"]]]:
        """Count one window's votes.

        Args:
            window: Where the window lies; it must start after the one before.
            probabilities: [S, K, H, W] of any floating type.

        Returns:
            Slices that no later window touches, in order: index and mean probabilities [K, H, W] in float32.

        Raises:
            ConfigError: The window does not fit the volume, comes out of order, or leaves a slice without a vote.
            ModelError: The prediction has another shape or is not finite.
        """
        if self.depth is None:
            # The windows over a stream's end know where it is.
            self.depth = window.depth
        self._check(window, probabilities)
        # Windows start ever later, so slices before this start are finished, and make room for the new ones.
        end = self._end(window)
        finished = self._finish(min(window.start, end))
        for position in window.votes:
            if self._within is not None and window.start + position not in self._within:
                continue
            slot = (window.start + position) % self.window
            votes = probabilities[position].to(self._sums.device)
            # The first vote overwrites what the slot's former slice left.
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
        """Return the remaining slices after the last window.

        Raises:
            ConfigError: A slice got no vote.
            ModelError: A prediction is not finite.
        """
        return self._finish(self._voted if self.depth is None else self._stop(self.depth))

    def _end(self, window: SliceWindow) -> int:
        """Return the depth, or, while it is not known, what is known to be there: a window without overhang."""
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
            raise ConfigError(
                f"the window that starts at {window.start} lies outside the volume of {self.depth} slices"
            )
        if self._last_start is not None and window.start <= self._last_start:
            raise ConfigError(
                f"windows must come in order: one that starts at {window.start} came after one at {self._last_start}",
                fix="add them in the order of plan_windows",
            )
        if self.depth is not None and self._next >= self.depth:
            raise ConfigError(
                "a window came after all slices were finished", fix="use a new aggregator for each volume"
            )
        expected = (self.window, *self._sums.shape[1:])
        if tuple(probabilities.shape) != expected:
            raise ModelError(f"expected probabilities of shape {expected}, got {tuple(probabilities.shape)}")

    def _finish(self, end: int) -> list[tuple[int, Tensor]]:
        """Take out the slices before ``end``."""
        finished = []
        for index in range(self._next, end):
            slot = index % self.window
            if self._votes[slot] == 0:
                raise ConfigError(
                    f"slice {index} of {'a stream' if self.depth is None else self.depth} is in no window",
                    fix="choose a stride of at most the window's slices",
                )
            mean = self._sums[slot] / self._votes[slot]
            # One NaN or infinity makes the sum so; probabilities cannot make it overflow.
            if not bool(mean.sum().isfinite()):
                raise ModelError(f"the prediction of slice {index} is not finite", fix="predict with precision float32")
            finished.append((index, mean))
            self._votes[slot] = 0
            self._next = index + 1
        return finished
