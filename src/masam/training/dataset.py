"""Training samples: sample k of a run is a pure function of (seed, k)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from masam.augment import AugmentSettings, augment
from masam.errors import InputError
from masam.preprocess.cache import PreparedCase
from masam.preprocess.intensity import Rgb, minmax_per_window
from masam.prompts.simulation import draw_prompts
from masam.reproducibility import epoch_order, prompt_generator, sample_generator, window_depth
from masam.training.prefetch import prefetch
from masam.windows import SliceWindow, plan_windows


class Prompts(NamedTuple):
    """Prompts of some windows, in the format of ``Masam.decode_each``."""

    boxes: Tensor  # [B, S, 4] in pixels; NaN for a slice without a box
    points: Tensor  # [B, S, P, 2] in pixels
    point_labels: Tensor  # [B, S, P] 1 on the object, 0 off the object, -1 for padding
    masks: Tensor  # [B, S, 1, H / 4, W / 4] logits; NaN for a slice without a mask


class Batch(NamedTuple):
    """Some windows and their labels."""

    images: Tensor  # [B, S, C, H, W] in 0..1
    labels: Tensor  # [B, S, H, W] channel numbers in the cache's 8 or 16 bits; -100 where the label is unknown
    cases: tuple[str, ...]  # case of each window
    prompts: Prompts | None = None  # prompts of each window; None in a run without prompts


@dataclass(eq=False)
class WindowSamples:
    """All windows of all cases, in a new order in each epoch.

    Raises:
        InputError: There are no cases.
    """

    cases: Sequence[PreparedCase]
    window: int  # slices per window
    seed: int  # seed of order and augmentation
    window_minmax: bool  # scale each window to 0..1, as the paper does
    augmentation: AugmentSettings
    colours: Rgb | None = None  # scaling of the colours of video frames; None for volumes
    # smallest and largest number of slices per window, drawn for each optimiser step; None for ``window``
    depths: tuple[int, int] | None = None
    batch_windows: int = 1  # windows per optimiser step; with ``depths`` it determines the step of a sample
    prompt_rate: float = 0.0  # fraction of the windows that get prompts, 0 to 1

    def __post_init__(self) -> None:
        if not self.cases:
            raise InputError("expected at least one training case, got none")

    @cached_property
    def _windows(self) -> list[tuple[PreparedCase, SliceWindow]]:
        return [(case, window) for case in self.cases for window in plan_windows(case.depth, self.window)]

    @property
    def per_epoch(self) -> int:
        """Number of windows."""
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        """Return sample ``index`` of the run: images [S, C, H, W], labels [S, H, W] and the name of its case."""
        epoch, position = divmod(index, self.per_epoch)
        case, window = self._windows[epoch_order(self.seed, epoch, self.per_epoch)[position]]
        if self.depths is not None:
            window = window.resized(window_depth(self.seed, index // self.batch_windows, *self.depths))
        images, labels = case.read_window(window.slices)
        if self.window_minmax:
            images = minmax_per_window(images, jointly=self.colours is not None)
        images, labels = augment(images, labels, sample_generator(self.seed, index), self.augmentation)
        if self.colours is not None:
            images = self.colours.from_unit(images)
        return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels), case.case_id

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return some samples of the run, of the same depth, and their prompts."""
        images, labels, cases = zip(*(self[index] for index in indices), strict=True)
        if self.prompt_rate == 0:
            return Batch(_stack(images), _stack(labels), cases)
        drawn = [
            draw_prompts(window.numpy(), self.prompt_rate, prompt_generator(self.seed, index))
            for index, window in zip(indices, labels, strict=True)
        ]
        prompts = (_stack(tuple(map(torch.from_numpy, arrays))) for arrays in zip(*drawn, strict=True))
        return Batch(_stack(images), _stack(labels), cases, Prompts(*prompts))


def load_batches(
    samples: WindowSamples, start: int, stop: int, size: int, workers: int, rank: int = 0, processes: int = 1
) -> Generator[Batch, None, None]:
    """Yield samples ``start`` to ``stop - 1`` of the run in batches; the last one may be smaller.

    Samples have no state, so a resumed run starts directly at its sample. Of the batches, this process gets those with
    number ``rank + n * processes``; ``workers`` are the threads of :func:`prefetch`.
    """
    firsts = range(start + rank * size, stop, size * processes)
    yield from prefetch(lambda first: samples.batch(range(first, min(first + size, stop))), firsts, workers)


def _stack(tensors: tuple[Tensor, ...]) -> Tensor:
    # A single tensor needs no copy.
    stacked = tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)
    # The copy of pinned memory to a GPU overlaps with computation.
    return stacked.pin_memory() if torch.cuda.is_available() else stacked
