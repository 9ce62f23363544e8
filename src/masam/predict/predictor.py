"""Prediction from a volume to its labels: prepare, windows, model, aggregate, argmax, restore the original grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from masam.aggregate import WindowAggregator
from masam.cases.folder import Case, load_case
from masam.device import Precision
from masam.errors import ConfigError, ModelError
from masam.model.masam import Masam
from masam.predict.encoded import EncodedVolume, VolumeEncoder
from masam.predict.ensemble import Ensemble
from masam.predict.postprocess import Cleaning, channels_of_classes, clean, most_probable
from masam.predict.requirements import (
    common_plan,
    match_channels,
    require_channels,
    require_modality,
    require_promptable,
)
from masam.preprocess.plan import Plan
from masam.progress import Progress, Silent, warn_with
from masam.prompts import Prompt
from masam.prompts.projection import VolumePrompts, project
from masam.volume import Volume
from masam.weights.model_file import load_folds
from masam.windows import SliceWindow, plan_windows

Scan = Volume | str | Path | Sequence[str | Path]
"""A volume, a file, or one file per channel."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The result for one volume.

    Attributes:
        labels: Label values on the voxel grid of the input.
        cleanings: Voxels that each requested cleaning changed, by channel number.
    """

    labels: Volume
    cleanings: tuple[Cleaning, ...] = ()


class Predictor:
    """A model with all settings needed to segment volumes.

    Args:
        model_or_path: A model with a plan, a run folder, or a ``model.safetensors``; or several models, or a folder of
            folds, whose probabilities are averaged.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``.
        stride: Slices from one window to the next, from 1 (as in the paper, most votes per slice) to the window size of
            the model, which is that many times faster.
        batch: Windows per forward pass.
        plan: How volumes are prepared; needed only for a model without a plan.
        sam_checkpoint: SAM file that the model is based on, if the path requires one.
        keep_largest: Names of classes of which only the largest connected component is kept.
        fill_holes: Names of classes whose enclosed background is filled, after ``keep_largest``.

    Raises:
        ConfigError: A value is out of its range, or a class is unknown.
        ModelError: The model has no plan, or one for other classes.
        ResourceError: The device is not available.
    """

    def __init__(
        self,
        model_or_path: Masam | Sequence[Masam] | str | Path,
        device: str = "auto",
        precision: Precision = "auto",
        stride: int = 1,
        *,
        batch: int = 1,
        plan: Plan | None = None,
        sam_checkpoint: str | Path | None = None,
        keep_largest: Sequence[str] = (),
        fill_holes: Sequence[str] = (),
    ) -> None:
        if isinstance(model_or_path, str | Path):
            models = load_folds(model_or_path, sam_checkpoint)
        else:
            models = [model_or_path] if isinstance(model_or_path, Masam) else list(model_or_path)
        if not models:
            raise ModelError("expected at least one model, got none")
        self.plan = common_plan(models, plan)
        if batch < 1:
            raise ConfigError(f"expected 1 window or more, got {batch}", where="batch")
        plan_windows(1, self.plan.window, stride)  # checks the stride
        self.stride, self.batch = stride, batch
        self.keep_largest = channels_of_classes(self.plan.scheme, keep_largest)
        self.fill_holes = channels_of_classes(self.plan.scheme, fill_holes)
        self.ensemble = Ensemble(models, device, precision)

    def predict(
        self,
        volume_or_path: Scan | EncodedVolume,
        progress: Progress | None = None,
        prompts: Sequence[Prompt] | None = None,
    ) -> Volume:
        """Return the label values of one volume, as in ``dataset.json``; :meth:`segment` documents the arguments."""
        return self.segment(volume_or_path, progress, prompts).labels

    def segment(
        self,
        volume_or_path: Scan | EncodedVolume,
        progress: Progress | None = None,
        prompts: Sequence[Prompt] | None = None,
    ) -> Segmentation:
        """Segment one volume.

        Peak memory excluding the volume and its labels does not depend on the number of slices.

        Args:
            volume_or_path: Intensities in the units of the scanner: a volume, a NIfTI file (4-D for several channels),
                a folder of DICOM files, one file per channel, or the result of :meth:`encode`.
            progress: Receives each window.
            prompts: Boxes, clicks and masks of the user; None to segment automatically. A class with a box is
                background outside the slices of the box.

        Returns:
            Labels on the voxel grid of the input, and what the cleanings changed.

        Raises:
            ConfigError: A prompt is for a class that the model does not have.
            InputError: The file or its content is refused, or a prompt does not fit the volume.
            ModelError: The model is for videos, was trained without prompts and some are given, or predicts values
                that are not finite.
        """
        progress = progress or Silent()
        if prompts is not None:
            require_promptable(self.ensemble.models, self.plan, prompts)
        source = volume_or_path if isinstance(volume_or_path, EncodedVolume) else self._open(volume_or_path, progress)
        trace = source.prepared.trace
        projected = None if prompts is None else project(prompts, trace, self.plan.scheme)
        channels = self._channels(source, progress, projected)
        channels, cleanings = clean(channels, self.keep_largest, self.fill_holes)
        return Segmentation(trace.labels_to_volume(self.plan.scheme.to_values(channels)), cleanings)

    def encode(self, volume_or_path: Scan, progress: Progress | None = None) -> EncodedVolume:
        """Run the encoder once, so that :meth:`predict` and :meth:`segment` run only the decoder for each prompt.

        With prompts they decode only the slices that a prompt touches or a box excludes.

        Args:
            volume_or_path: As for :meth:`segment`.
            progress: Receives each window.

        Raises:
            InputError: The file or its content is refused.
            ModelError: The model is for videos.
        """
        progress = progress or Silent()
        source = self._open(volume_or_path, progress)
        windows = plan_windows(source.prepared.depth, self.plan.window, self.stride)
        progress.start("windows", len(windows))
        by_start: dict[int, Sequence[Tensor]] = {}
        for batch in self._batches(windows):
            # Kept in main memory: on a GPU they would take the memory that the decoder needs.
            parts = [of_model.cpu().split(self.plan.window) for of_model in source.embeddings(batch)]
            for window, *of_models in zip(batch, *parts, strict=True):
                by_start[window.start] = of_models
                progress.advance()
        encoded = EncodedVolume(source.prepared, by_start)
        return replace(encoded, automatic=self._channels(encoded, Silent()))

    def _open(self, scan: Scan, progress: Progress) -> VolumeEncoder:
        require_modality(self.plan, is_video=False, what="a volume")
        if not isinstance(scan, Volume):
            paths = tuple(Path(path) for path in ([scan] if isinstance(scan, str | Path) else scan))
            case = match_channels(self.plan, Case(paths[0].name, paths), where=paths[0])
            scan, _ = load_case(case, on_note=warn_with(progress))
        require_channels(self.plan, scan.channels)
        prepared = self.plan.preprocessing.prepare(scan)
        cached = self.plan.window + self.batch * self.stride
        return VolumeEncoder(prepared, self.ensemble, window_minmax=self.plan.window_minmax, cached_slices=cached)

    def _channels(
        self, source: VolumeEncoder | EncodedVolume, progress: Progress, prompts: VolumePrompts | None = None
    ) -> NDArray[np.integer]:
        """Return the channel numbers [D, H, W] of the slices at their original size."""
        depth = source.prepared.depth
        channels: NDArray[np.integer] = np.zeros((depth, *source.prepared.native_size), dtype=np.uint16)
        needed = range(depth) if prompts is None else prompts.needed(depth)
        runs = [needed]
        if source.automatic is not None:
            channels[needed.start : needed.stop] = source.automatic[needed.start : needed.stop]
            runs = [] if prompts is None else prompts.changed(depth)
        for run in runs:
            for index, probabilities in self.probabilities(source, progress, prompts, run):
                channels[index] = most_probable(source.prepared.trace.probabilities_to_native(probabilities))
        return channels

    def probabilities(
        self, source: VolumeEncoder | EncodedVolume, progress: Progress, prompts: VolumePrompts | None, within: range
    ) -> Iterator[tuple[int, Float[Tensor, "K H W"]]]:
        """Yield index and mean class probabilities [K, H, W] of each slice in ``within``, at the model's size."""
        depth, size = source.prepared.depth, (self.plan.image_size, self.plan.image_size)
        windows = [
            window
            for window in plan_windows(depth, self.plan.window, self.stride)
            if any(window.start + position in within for position in window.votes)
        ]
        classes, device = self.ensemble.num_channels, self.ensemble.device
        aggregator = WindowAggregator(depth, classes, size, self.plan.window, device=device, within=within)
        progress.start("windows", len(windows))
        for batch in self._batches(windows):
            slices = [index for window in batch for index in window.slices]
            votes = self.ensemble.decode(source.embeddings(batch), slices, prompts, within)
            for window, probabilities in zip(batch, votes.split(self.plan.window), strict=True):
                yield from aggregator.add(window, probabilities)
                progress.advance()
        yield from aggregator.flush()

    def _batches(self, windows: Sequence[SliceWindow]) -> Iterator[Sequence[SliceWindow]]:
        return (windows[first : first + self.batch] for first in range(0, len(windows), self.batch))
