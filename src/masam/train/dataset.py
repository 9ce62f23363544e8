"""Training samples: window k of a run is a pure function of (seed, k)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from masam.augment import AugmentSettings, augment
from masam.errors import InputError
from masam.preprocess.cache import PreparedCase
from masam.preprocess.intensity import Rgb, minmax_per_window
from masam.reproducibility import epoch_order, sample_generator, window_depth
from masam.windows import SliceWindow, plan_windows


class Batch(NamedTuple):
    """Some windows and their labels."""

    images: Tensor
    """[B, S, C, H, W] in 0..1."""
    labels: Tensor
    """[B, S, H, W] channel numbers in 8 or 16 bits, -100 where there is none."""
    cases: tuple[str, ...]
    """Case of each window."""


class WindowSamples(Dataset[tuple[Tensor, Tensor, str]]):
    """All windows of all cases, epoch after epoch, each epoch in its own order.

    Args:
        cases: Cached training cases.
        window: Slices of a window.
        seed: Seed of order and augmentation.
        window_minmax: Stretch each window to 0..1, as the paper does.
        augmentation: How the samples are varied.
        colours: How the colours of video frames are scaled; None for volumes.
        depths: Fewest and most slices of a window, which each optimiser step draws anew; None for ``window`` always.
        batch_windows: Windows of an optimiser step; with ``depths`` it says which sample is of which step.

    Raises:
        InputError: There is no case.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        window: int,
        seed: int,
        window_minmax: bool,
        augmentation: AugmentSettings,
        colours: Rgb | None = None,
        depths: tuple[int, int] | None = None,
        batch_windows: int = 1,
    ) -> None:
        if not cases:
            raise InputError("expected at least one training case, got none")
        self.seed = seed
        self.window_minmax = window_minmax
        self.augmentation = augmentation
        self.colours = colours
        self.depths, self.batch_windows = depths, batch_windows
        self._windows: list[tuple[PreparedCase, SliceWindow]] = [
            (case, one) for case in cases for one in plan_windows(case.depth, window)
        ]

    @property
    def per_epoch(self) -> int:
        """Number of windows."""
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        """Return sample ``index`` of the run: images [S, C, H, W], labels [S, H, W] and the case's name."""
        epoch, position = divmod(index, self.per_epoch)
        case, window = self._windows[epoch_order(self.seed, epoch, self.per_epoch)[position]]
        if self.depths is not None:
            window = window.resized(window_depth(self.seed, index // self.batch_windows, *self.depths))
        images, labels = case.read_window(window.slices)
        if self.window_minmax:
            images = minmax_per_window(images, jointly=self.colours is not None)
        generator = sample_generator(self.seed, index)
        images, labels = augment(images, labels, generator, self.augmentation)
        if self.colours is not None:
            images = self.colours.from_unit(images)
        return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels), case.case_id


class _Consecutive(Sampler[int]):
    def __init__(self, start: int, stop: int) -> None:
        self._range = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self._range)

    def __len__(self) -> int:
        return len(self._range)


def _collate(samples: list[tuple[Tensor, Tensor, str]]) -> Batch:
    images, labels, cases = zip(*samples, strict=True)
    return Batch(_stack(images), _narrow(_stack(labels)), cases)


def _narrow(labels: Tensor) -> Tensor:
    # Channel numbers fit 16 bits, mostly 8, as in the cache. A window of 5 x 512 x 512 is read in 1 ms; it took a
    # worker 10 to send it with labels of 64 bits, and 5 with 16.
    narrow = labels.to(torch.int16)
    return narrow.to(torch.int8) if int(narrow.max()) <= 127 else narrow


def _stack(tensors: tuple[Tensor, ...]) -> Tensor:
    # One needs no copy.
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


def load_batches(samples: WindowSamples, start: int, stop: int, batch: int, workers: int) -> Iterable[Batch]:
    """Return a loader of samples ``start`` to ``stop`` of the run, ``batch`` at a time.

    A run that goes on in the middle starts at its sample; nothing is skipped, no worker holds a state.
    """
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_size=batch,
        sampler=_Consecutive(start, stop),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
    )
    return loader
