"""Some training samples of a data set, made as training makes them, to be looked at before it starts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from masam.augment import AugmentSettings, augment_window
from masam.cases.folder import CaseFolder
from masam.preprocess.intensity import minmax_per_window
from masam.preprocess.plan import Plan
from masam.progress import Progress
from masam.reproducibility import sample_generator
from masam.training.cases import labelled_loader, preparation_of
from masam.windows import SliceWindow, plan_windows

# Share of a case's fullest slice that a window's middle must reach to be worth a look.
_TELLING = 0.5


class Sample(NamedTuple):
    """The middle slice, or frame, of a window.

    Attributes:
        image: [H, W], 0 to 1, the first channel; of video [H, W, 3], red, green and blue.
        labels: [H, W] channel numbers, -100 where there is none.
        words: What was done to it.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.signedinteger]
    words: str


class PreviewRow(NamedTuple):
    """One window, as prepared and then varied.

    Attributes:
        title: Its case and slice, or frame.
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
    is_video = plan.modality == "video"
    load = labelled_loader(plan, progress)
    for case in itertools.islice(itertools.cycle(dataset.training[:rows]), rows):
        name = case.id
        image, reference = load(case)
        prepared = preparation_of(plan).prepare(image)
        labels = prepared.labels(reference)
        sizes = [_labelled(labels.slice(index), plan) for index in range(labels.depth)]
        window = _choose(np.array(sizes), plan.window, sample_generator(seed, len(found)))
        images = np.stack([prepared.slice(index) for index in window.slices])
        channels = np.stack([plan.scheme.to_channels(labels.slice(index), where=name) for index in window.slices])
        if plan.window_minmax:
            images = minmax_per_window(images, jointly=is_video)
        samples = list(_vary(images, channels, settings, seed, [next(numbers) for _ in range(columns)], is_video))
        middle = window.slices[plan.window // 2]
        place = f"{'frame' if is_video else 'slice'} {middle + 1} of {prepared.depth}"
        found.append(PreviewRow(f"{name}\n{place}", samples))
        progress.advance(name)
    return found


def _labelled(labels: NDArray[np.integer], plan: Plan) -> int:
    """Count the labelled pixels of a slice."""
    # Below 0 are frames without a label.
    return int(np.count_nonzero((labels > 0) & (labels != plan.scheme.ignore_value)))


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
    is_video: bool,
) -> Iterator[Sample]:
    middle = len(images) // 2

    def shown(window: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.moveaxis(window[middle], 0, -1) if is_video else window[middle, 0]  # colours [H, W, 3]

    yield Sample(shown(images), labels[middle], "as prepared")
    for number in numbers:
        done = augment_window(images, labels, sample_generator(seed, number), settings)
        # Spaces that do not break: a line ends between two operations.
        words = ", ".join(word.replace(" ", "\u00a0") for word in done.variation.words()) or "unchanged"
        yield Sample(shown(done.images), done.labels[middle], words)
