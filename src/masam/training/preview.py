"""Training samples of a data set, drawn before training starts."""

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
from masam.report.samples import sample_sheet
from masam.reproducibility import sample_generator
from masam.training.cases import labelled_loader, preparation_of
from masam.training.config import TrainConfig
from masam.windows import SliceWindow, plan_windows

# The middle slice of a window shows at least this fraction of the labelled pixels of the case's fullest slice.
_LEAST_SHARE = 0.5


class Sample(NamedTuple):
    """The middle slice, or frame, of a window."""

    image: NDArray[np.float32]  # [H, W], 0 to 1, the first channel; for video [H, W, 3], red, green and blue
    labels: NDArray[np.signedinteger]  # [H, W] channel numbers; -100 where the label is unknown
    caption: str  # the operations that were applied


class PreviewRow(NamedTuple):
    """One window without and with augmentation."""

    title: str  # its case and slice, or frame
    samples: list[Sample]  # the preprocessed window, then its augmented versions


def draw_preview(dataset: CaseFolder, plan: Plan, config: TrainConfig, progress: Progress) -> bytes:
    """Draw 16 augmented training samples with their labels and return a PNG file."""
    rows = preview_samples(dataset, plan, config.augmentation, config.seed, progress)
    title = f"{plan.name}: training samples, augmentation {config.augmentation.preset}, seed {config.seed}"
    return sample_sheet(rows, plan.scheme, title)


def preview_samples(
    dataset: CaseFolder,
    plan: Plan,
    settings: AugmentSettings,
    seed: int,
    progress: Progress,
    rows: int = 4,
    columns: int = 4,
) -> list[PreviewRow]:
    """Augment one window of each of the first training cases, which repeat if there are fewer than ``rows``.

    Each row shows the window without augmentation and ``columns`` augmented versions of it.
    """
    progress.start("creating samples", rows)
    preview: list[PreviewRow] = []
    is_video = plan.modality == "video"
    load = labelled_loader(plan, progress)
    for row, case in enumerate(itertools.islice(itertools.cycle(dataset.training[:rows]), rows)):
        image, reference = load(case)
        prepared = preparation_of(plan).prepare(image)
        labels = prepared.labels(reference)
        # Frames without a label have negative values.
        values = (labels.slice(index) for index in range(labels.depth))
        sizes = [np.count_nonzero((part > 0) & (part != plan.scheme.ignore_value)) for part in values]
        window = _choose_window(np.array(sizes), plan.window, sample_generator(seed, row))
        images = np.stack([prepared.slice(index) for index in window.slices])
        channels = np.stack([plan.scheme.to_channels(labels.slice(index), where=case.id) for index in window.slices])
        if plan.window_minmax:
            images = minmax_per_window(images, jointly=is_video)
        indices = range(row * columns, (row + 1) * columns)
        samples = list(_augmented(images, channels, settings, seed, indices, is_video))
        position = f"{'frame' if is_video else 'slice'} {window.slices[plan.window // 2] + 1} of {prepared.depth}"
        preview.append(PreviewRow(f"{case.id}\n{position}", samples))
        progress.advance(case.id)
    return preview


def _choose_window(sizes: NDArray[np.generic], window: int, generator: np.random.Generator) -> SliceWindow:
    """Choose a window whose middle slice has many labelled pixels."""
    middle = int(generator.choice(np.flatnonzero(sizes >= _LEAST_SHARE * sizes.max())))
    return min(plan_windows(len(sizes), window), key=lambda one: abs(one.slices[window // 2] - middle))


def _augmented(
    images: NDArray[np.float32],
    labels: NDArray[np.signedinteger],
    settings: AugmentSettings,
    seed: int,
    indices: range,
    is_video: bool,
) -> Iterator[Sample]:
    middle = len(images) // 2

    def shown(window: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.moveaxis(window[middle], 0, -1) if is_video else window[middle, 0]  # colours [H, W, 3]

    yield Sample(shown(images), labels[middle], "as prepared")
    for index in indices:
        augmented = augment_window(images, labels, sample_generator(seed, index), settings)
        # Non-breaking spaces: lines break only between two operations.
        operations = (text.replace(" ", "\u00a0") for text in augmented.variation.summary())
        yield Sample(shown(augmented.images), augmented.labels[middle], ", ".join(operations) or "unchanged")
