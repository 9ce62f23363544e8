"""Some training samples of a data set, made as training makes them, to be looked at before it starts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from masam.augment import AugmentSettings, augment_window
from masam.io.cases import CaseFolder, load_case
from masam.plan import Plan
from masam.preprocess.intensity import minmax_per_window
from masam.progress import Progress
from masam.reproducibility import sample_generator
from masam.windows import SliceWindow, plan_windows

# Share of a case's fullest slice that a window's middle must reach to be worth a look.
_TELLING = 0.5


class Sample(NamedTuple):
    """The middle slice of a window.

    Attributes:
        image: [H, W], 0 to 1; the first channel.
        labels: [H, W] channel numbers, -100 where there is none.
        words: What was done to it.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.signedinteger]
    words: str


class PreviewRow(NamedTuple):
    """One window, as prepared and then varied.

    Attributes:
        title: Its case and slice.
        samples: The window as prepared, then its variations.
    """

    title: str
    samples: list[Sample]


def preview_samples(
    dataset: CaseFolder,
    plan: Plan,
    settings: AugmentSettings,
    seed: int,
    progress: Progress,
    rows: int = 4,
    columns: int = 4,
) -> list[PreviewRow]:
    """Vary one window of each of the first cases.

    Args:
        dataset: The data set; its first training cases are read, one again where there are fewer than rows.
        plan: How they are prepared.
        settings: How they are varied.
        seed: Seed of the choice of windows and of all variations.
        progress: Told of each row.
        rows: Windows to show.
        columns: Variations of each.

    Raises:
        InputError: A case is refused.
    """
    progress.start("making samples", rows)
    found: list[PreviewRow] = []
    numbers = itertools.count()
    for case in itertools.islice(itertools.cycle(dataset.training[:rows]), rows):
        name = case.id
        image, reference = load_case(case)
        prepared = plan.preprocessing.prepare(image)
        labels = None if reference is None else prepared.labels(reference)
        sizes = np.ones(prepared.depth) if labels is None else _labelled(labels.array, plan)
        window = _choose(sizes, plan.window, sample_generator(seed, len(found)))
        images = np.stack([prepared.slice(index) for index in window.slices])
        channels = np.zeros(images.shape, np.int64)
        if labels is not None:
            slices = [plan.scheme.to_channels(labels.slice(index), where=name) for index in window.slices]
            channels = np.stack(slices).astype(np.int64)
        if plan.window_minmax:
            images = minmax_per_window(images)
        samples = list(_vary(images, channels, settings, seed, [next(numbers) for _ in range(columns)]))
        middle = window.slices[plan.window // 2]
        found.append(PreviewRow(f"{name}\nslice {middle + 1} of {prepared.depth}", samples))
        progress.advance(name)
    return found


def _labelled(labels: NDArray[np.integer], plan: Plan) -> NDArray[np.int64]:
    """Count the labelled pixels of each slice."""
    inside = (labels != 0) & (labels != plan.scheme.ignore_value)
    return np.count_nonzero(inside, axis=(1, 2)).astype(np.int64)


def _choose(sizes: NDArray[np.generic], window: int, generator: np.random.Generator) -> SliceWindow:
    """Choose a window whose middle shows much."""
    telling = np.flatnonzero(sizes >= _TELLING * sizes.max())
    middle = int(generator.choice(telling))
    windows = plan_windows(len(sizes), window)
    return min(windows, key=lambda one: abs(one.slices[window // 2] - middle))


def _vary(
    images: NDArray[np.float32],
    labels: NDArray[np.signedinteger],
    settings: AugmentSettings,
    seed: int,
    numbers: list[int],
) -> Iterator[Sample]:
    middle = len(images) // 2
    yield Sample(images[middle, 0], labels[middle], "as prepared")
    for number in numbers:
        done = augment_window(images, labels, sample_generator(seed, number), settings)
        # Spaces that do not break: a line ends between two operations.
        words = ", ".join(word.replace(" ", "\u00a0") for word in done.variation.words()) or "unchanged"
        yield Sample(done.images[middle, 0], done.labels[middle], words)
