"""Training samples: window k of a run is a pure function of (seed, k)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from masam.augment import AugmentSettings, augment
from masam.errors import InputError
from masam.preprocess.cache import PreparedCase
from masam.preprocess.intensity import Rgb, minmax_per_window
from masam.prompts.simulation import draw_prompts
from masam.reproducibility import epoch_order, prompt_generator, sample_generator, window_depth
from masam.windows import SliceWindow, plan_windows

Made = TypeVar("Made")


class Prompts(NamedTuple):
    """Prompts of some windows, as ``Masam.decode_each`` takes them."""

    boxes: Tensor
    """[B, S, 4] in pixels, NaN where a slice has none."""
    points: Tensor
    """[B, S, P, 2] in pixels."""
    point_labels: Tensor
    """[B, S, P] 1 on the object, 0 beside it, -1 after a slice's own."""
    masks: Tensor
    """[B, S, 1, H / 4, W / 4] logits, NaN where a slice has none."""


class Batch(NamedTuple):
    """Some windows and their labels."""

    images: Tensor
    """[B, S, C, H, W] in 0..1."""
    labels: Tensor
    """[B, S, H, W] channel numbers in the cache's 8 or 16 bits, -100 where there is none."""
    cases: tuple[str, ...]
    """Case of each window."""
    prompts: Prompts | None = None
    """Prompts of each window; None where no window of the run gets any."""


class WindowSamples:
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
        prompt_rate: Share of the windows that get prompts, 0 to 1.

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
        prompt_rate: float = 0.0,
    ) -> None:
        if not cases:
            raise InputError("expected at least one training case, got none")
        self.seed = seed
        self.window_minmax = window_minmax
        self.augmentation = augmentation
        self.colours = colours
        self.depths, self.batch_windows = depths, batch_windows
        self.prompt_rate = prompt_rate
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

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return some samples of the run, of one depth, and their prompts."""
        made = [self[index] for index in indices]
        images, labels, cases = zip(*made, strict=True)
        if self.prompt_rate == 0:
            return Batch(_stack(images), _stack(labels), cases)
        drawn = [
            draw_prompts(window.numpy(), self.prompt_rate, prompt_generator(self.seed, index))
            for index, window in zip(indices, labels, strict=True)
        ]
        prompts = (_stack(tuple(map(torch.from_numpy, some))) for some in zip(*drawn, strict=True))
        return Batch(_stack(images), _stack(labels), cases, Prompts(*prompts))


def load_batches(
    samples: WindowSamples, start: int, stop: int, batch: int, workers: int, turn: tuple[int, int] = (0, 1)
) -> Generator[Batch, None, None]:
    """Yield samples ``start`` to ``stop`` of the run, ``batch`` at a time.

    A run that goes on in the middle starts at its sample; nothing is skipped, no worker holds a state.

    Args:
        samples: The run's samples.
        start: Number of the first one.
        stop: Number after the last one.
        batch: Samples a batch; the last batch has what is left.
        workers: Threads that make batches ahead, each up to two; 0: a batch is made when it is asked for.
        turn: Of several processes that take the batches in turn, the number of this one, and how many they are.

    Raises:
        InputError: A cached case is damaged; whichever thread finds it, the error comes in place of its batch.
    """

    def make(first: int) -> Batch:
        return samples.batch(range(first, min(first + batch, stop)))

    number, processes = turn
    firsts = range(start + number * batch, stop, batch * processes)
    yield from made_ahead(make, firsts, workers)


def made_ahead(make: Callable[[int], Made], numbers: Iterable[int], workers: int) -> Generator[Made, None, None]:
    """Yield what a function makes of each number, in order, while threads make the next ones.

    Args:
        make: Called with each number; what it makes depends on that alone.
        numbers: The numbers.
        workers: Threads, each of which is up to two ahead; 0: each is made when it is asked for.
    """
    if workers == 0:
        yield from map(make, numbers)
        return
    with _readers(workers) as pool:
        ahead: deque[Future[Made]] = deque()
        for number in numbers:
            ahead.append(pool.submit(make, number))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@contextmanager
def _readers(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads of one core each; what they have not begun by the end they drop."""
    cores = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "samples", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        # Torch keeps the number for each thread, but those that are new take the last one that any thread has set.
        torch.set_num_threads(cores)


def _stack(tensors: tuple[Tensor, ...]) -> Tensor:
    # One needs no copy.
    stacked = tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)
    # Pinned, it goes to a GPU while the GPU computes.
    return stacked.pin_memory() if torch.cuda.is_available() else stacked
