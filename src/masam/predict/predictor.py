"""From a volume to its labels, on one page: prepare, windows, model, aggregate, argmax, back to the own grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from masam.aggregate import WindowAggregator
from masam.cases.folder import Case, load_case
from masam.device import Precision, autocast, choose_device
from masam.errors import ConfigError, InputError, ModelError
from masam.io.images import count_channels
from masam.model.masam import Masam
from masam.predict.postprocess import Cleaning, fill_holes, keep_largest_component, most_probable
from masam.predict.prompted import EncodedVolume, Encodings, prompted_probabilities
from masam.preprocess.intensity import minmax_per_window
from masam.preprocess.pipeline import PreparedVolume
from masam.preprocess.plan import Plan
from masam.progress import Progress, Silent
from masam.prompts import Prompt
from masam.prompts.projection import VolumePrompts, channels_of, project
from masam.volume import Volume
from masam.weights.card import require_fitting
from masam.weights.model_file import load_folds
from masam.windows import SliceWindow, plan_windows

Scan = Volume | str | Path | Sequence[str | Path]
"""A volume, a file, or one file a channel."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What came of one volume.

    Attributes:
        labels: Label values on the input's own grid.
        cleanings: What each cleaning that was asked for changed, by channel number.
    """

    labels: Volume
    cleanings: tuple[Cleaning, ...] = ()


class Predictor:
    """A model with all that it takes to segment volumes.

    Args:
        model_or_path: A model with a plan, a run folder, or a ``model.safetensors``; or several models, or a folder of
            folds, whose probabilities are averaged.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``.
        stride: Slices from one window to the next, 1 to the model's window. 1 is the paper's and gives most votes a
            slice; the window's size is as many times faster.
        batch: Windows that go through the model at once.
        plan: How volumes are prepared; needed only for a model that carries no plan.
        sam_checkpoint: SAM file that the model stands on, if the path needs one.
        keep_largest: Names of classes of which only the largest connected part is kept; none by default.
        fill_holes: Names of classes whose enclosed background is filled, after that; none by default.

    Raises:
        ConfigError: A value is out of its range, or a class is unknown.
        ModelError: The model has no plan, or one for other classes.
        ResourceError: The device is not there.
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
        models = _models(model_or_path, sam_checkpoint)
        plans = [plan] if plan else [model.card.plan if model.card else None for model in models]
        plan = plans[0]
        if plan is None:
            raise ModelError(
                "the model carries no plan, so it is unknown how to prepare a volume for it", fix="give one with plan="
            )
        if any(other != plan for other in plans):
            raise ModelError(
                "the models were trained with different plans, so their answers cannot be averaged",
                fix="take the folds of one data set, trained with one plan",
            )
        for model in models:
            require_fitting(plan, model.spec)
        if batch < 1:
            raise ConfigError(f"expected 1 window or more, got {batch}", where="batch")
        plan_windows(1, plan.window, stride)
        self.plan = plan
        self.keep_largest = _channels(plan, keep_largest)
        self.fill_holes = _channels(plan, fill_holes)
        self.stride = stride
        self.batch = batch
        self.precision: Precision = precision
        self.device = choose_device(device)
        self.models = [model.to(self.device) for model in models]

    def predict(
        self,
        volume_or_path: Scan | EncodedVolume,
        progress: Progress | None = None,
        prompts: Sequence[Prompt] | None = None,
    ) -> Volume:
        """Segment one volume; ``segment`` without its record.

        Args:
            volume_or_path: As of ``segment``, and so are the others.
            progress: Told of each window.
            prompts: What the user points at.

        Returns:
            Label values (as in ``dataset.json``) on the input's own grid, voxel for voxel.
        """
        return self.segment(volume_or_path, progress, prompts).labels

    def segment(
        self,
        volume_or_path: Scan | EncodedVolume,
        progress: Progress | None = None,
        prompts: Sequence[Prompt] | None = None,
    ) -> Segmentation:
        """Segment one volume.

        Memory beside the volume and its labels does not depend on the number of slices.

        Args:
            volume_or_path: Scanner intensities: a volume, a NIfTI file (of several channels with four axes), a
                folder of DICOM files, or one file a channel; or what ``encode`` made of one.
            progress: Told of each window.
            prompts: What the user points at; None to segment automatically. A class with a box is background outside
                the slices of its box.

        Returns:
            Labels on the input's own grid, voxel for voxel, and what cleanings did.

        Raises:
            ConfigError: A prompt is for no class of the model.
            InputError: The file or its content is refused, or a prompt does not fit the volume.
            ModelError: The model is for videos, was trained without the prompts that are given, or predicts numbers
                that are not finite.
        """
        if prompts is not None:
            self.require_promptable(prompts)
        if isinstance(volume_or_path, EncodedVolume):
            known, prepared = volume_or_path, volume_or_path.prepared
        else:
            known, prepared = None, self._prepare(volume_or_path)
        projected = None if prompts is None else project(prompts, prepared.trace, self.plan.scheme)
        channels = self._channels(prepared, progress or Silent(), projected, known)
        cleanings = []
        for clean, classes in ((keep_largest_component, self.keep_largest), (fill_holes, self.fill_holes)):
            if classes:
                channels, cleaning = clean(channels, classes)
                cleanings.append(cleaning)
        labels = prepared.trace.labels_to_volume(self.plan.scheme.to_values(channels))
        return Segmentation(labels, tuple(cleanings))

    def encode(self, volume_or_path: Scan, progress: Progress | None = None) -> EncodedVolume:
        """Run the model over a volume, so that ``predict`` and ``segment`` need only the decoder, prompt by prompt.

        With prompts they decode the slices that a prompt touches, or where a box ends a class, and no other.

        Args:
            volume_or_path: As of ``segment``.
            progress: Told of each window.

        Raises:
            InputError: The file or its content is refused.
            ModelError: The model is for videos.
        """
        prepared = self._prepare(volume_or_path)
        windows = plan_windows(prepared.depth, self.plan.window, self.stride)
        progress, read = progress or Silent(), self._reader(prepared)
        progress.start("windows", len(windows))
        encodings: dict[int, Sequence[Tensor]] = {}
        for first in range(0, len(windows), self.batch):
            some = windows[first : first + self.batch]
            made = self._encode(np.stack([self._read_window(window, read) for window in some]))
            # On a GPU they would take the memory that the decoder needs.
            parts = [embeddings.cpu().split(self.plan.window) for embeddings in made]
            for number, window in enumerate(some):
                encodings[window.start] = [of_model[number] for of_model in parts]
                progress.advance()
        automatic = self._background(prepared)
        self._fill(automatic, self.probabilities(prepared, Silent(), encodings=encodings), prepared)
        return EncodedVolume(prepared, encodings, automatic)

    def _channels(
        self, prepared: PreparedVolume, progress: Progress, prompts: VolumePrompts | None, known: EncodedVolume | None
    ) -> NDArray[np.integer]:
        """Return the channel numbers of a volume's slices at their own size."""
        channels = self._background(prepared)
        if known is None:
            self._fill(channels, self.probabilities(prepared, progress, prompts), prepared)
            return channels
        needed = slice(None)
        runs: Sequence[range] = []
        if prompts is not None:
            within = prompts.needed(prepared.depth)
            needed, runs = slice(within.start, within.stop), prompts.changed(prepared.depth)
        channels[needed] = known.automatic[needed]
        for run in runs:
            self._fill(channels, self.probabilities(prepared, progress, prompts, known.encodings, run), prepared)
        return channels

    def _background(self, prepared: PreparedVolume) -> NDArray[np.integer]:
        return np.zeros((prepared.depth, *prepared.native_size), dtype=np.uint16)

    def _fill(
        self,
        channels: NDArray[np.integer],
        probabilities: Iterable[tuple[int, Float[Tensor, "K H W"]]],
        prepared: PreparedVolume,
    ) -> None:
        for index, of_slice in probabilities:
            channels[index] = most_probable(prepared.trace.probabilities_to_native(of_slice))

    def _prepare(self, volume_or_path: Scan) -> PreparedVolume:
        self.require_modality(is_video=False, what="a volume")
        volume = volume_or_path if isinstance(volume_or_path, Volume) else self._read(volume_or_path)
        self.require_channels(volume.channels)
        return self.plan.preprocessing.prepare(volume)

    def _read(self, paths: str | Path | Sequence[str | Path]) -> Volume:
        files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        return load_case(self.fitting(Case(files[0].name, tuple(files)), where=files[0]))[0]

    def fitting(self, case: Case, where: object = None) -> Case:
        """Return a case as the model reads it: one file, where the model wants several channels, holds them all.

        Args:
            case: What to segment.
            where: Scan to name in the error, the case's id by default.

        Raises:
            InputError: It has another number of channels than the model, or its file is refused.
            ResourceError: The system did not let us read.
        """
        count = len(case.images)
        if count == 1 < len(self.plan.channels):
            count = count_channels(case.images[0])
            case = replace(case, file_channels=count)
        self.require_channels(count, where=where or case.id)
        return case

    def require_channels(self, count: int, where: object = None) -> None:
        """Refuse a scan of another number of channels than the model's.

        Args:
            count: Its number.
            where: Scan to name in the error.

        Raises:
            InputError: The numbers differ.
        """
        wanted = self.plan.channels
        if count != len(wanted):
            raise InputError(
                f"expected {len(wanted)} channel{'s' * (len(wanted) > 1)} ({', '.join(wanted)}), got {count}",
                where=where,
                fix="give one file a channel, CASE_0000.nii.gz, CASE_0001.nii.gz and so on, or one 4-D file",
            )

    def require_modality(self, *, is_video: bool, what: object) -> None:
        """Refuse to predict volumes with a model of videos, and the other way round.

        Args:
            is_video: Whether the input is a video.
            what: The input, to be named.

        Raises:
            ModelError: The model is for the other kind.
        """
        if is_video != (self.plan.modality == "video"):
            kind = "video" if self.plan.modality == "video" else f"{self.plan.modality} volumes"
            raise ModelError(
                f"the model is for {kind} ({self.plan.name}), the input is {'video' if is_video else 'a volume'}",
                where=what,
                fix="take a model that was trained on such data",
            )

    def require_promptable(self, prompts: Sequence[Prompt], where: object = None) -> None:
        """Refuse prompts that no scan could make good.

        Args:
            prompts: What the user points at.
            where: Scan to name in the error.

        Raises:
            ConfigError: There is none, or one is for no class of the model.
            ModelError: The model was trained without prompts.
        """
        channels_of(prompts, self.plan.scheme, where)
        self.require_trained_with_prompts(where)

    def require_trained_with_prompts(self, where: object = None) -> None:
        """Refuse a model that has never seen a prompt.

        Args:
            where: Scan to name in the error.

        Raises:
            ModelError: The model was trained without prompts.
        """
        for model in self.models:
            # Models of others, and untrained ones, say nothing of how they were trained.
            training = model.card.training if model.card else {}
            if "steps" in training and not training.get("prompt_rate"):
                raise ModelError(
                    "the model was trained without prompts, so its answer to them means nothing",
                    where=where,
                    fix="leave the prompts out, or train with prompt_rate above 0",
                )

    def probabilities(
        self,
        prepared: PreparedVolume,
        progress: Progress,
        prompts: VolumePrompts | None = None,
        encodings: Encodings | None = None,
        within: range | None = None,
    ) -> Iterator[tuple[int, Float[Tensor, "K H W"]]]:
        """Yield slice after slice: its index and the mean class probabilities [K, H, W] at the model's size.

        With prompts, slices outside the boxes of all classes are left out: they are background. With encodings, the
        encoder does not run. ``within`` asks for some slices only.
        """
        side, size = self.plan.image_size, self.plan.window
        if within is None:
            within = range(prepared.depth) if prompts is None else prompts.needed(prepared.depth)
        windows = [
            window
            for window in plan_windows(prepared.depth, size, self.stride)
            if any(window.start + position in within for position in window.votes)
        ]
        aggregator = WindowAggregator(
            prepared.depth, self.models[0].spec.num_channels, (side, side), size, device=self.device, within=within
        )
        read = self._reader(prepared)
        progress.start("windows", len(windows))
        for first in range(0, len(windows), self.batch):
            some = windows[first : first + self.batch]
            if encodings is not None:
                parts = zip(*(encodings[window.start] for window in some), strict=True)
                votes = self._decode([torch.cat(of_model).to(self.device) for of_model in parts], some, prompts, within)
            else:
                images = np.stack([self._read_window(window, read) for window in some])
                if prompts is None:
                    votes = self.class_probabilities(torch.from_numpy(images))
                else:
                    votes = self._decode(self._encode(images), some, prompts, within)
            for window, probabilities in zip(some, votes, strict=True):
                yield from aggregator.add(window, probabilities)
                progress.advance()
        yield from aggregator.flush()

    def _reader(self, prepared: PreparedVolume) -> Callable[[int], NDArray[np.float32]]:
        # Neighbouring windows share slices; a slice is prepared once.
        return lru_cache(maxsize=self.plan.window + self.batch * self.stride)(prepared.slice)

    def _read_window(self, window: SliceWindow, read: Callable[[int], NDArray[np.float32]]) -> NDArray[np.float32]:
        images = np.stack([read(index) for index in window.slices])
        return minmax_per_window(images) if self.plan.window_minmax else images

    @torch.inference_mode()
    def class_probabilities(self, windows: Float[Tensor, "B S C H W"]) -> Float[Tensor, "B S K H W"]:
        """Run the model on prepared windows [B, S, C, H, W]; returns class probabilities in float32.

        Those of several models are averaged.
        """
        # Each model's are added as they come, so that there are never more than two.
        return reduce(Tensor.add_, (self._share(model, windows.to(self.device)) for model in self.models))

    @torch.inference_mode()
    def _encode(self, images: NDArray[np.float32]) -> list[Tensor]:
        """Run the encoder of each model on prepared windows; returns [B * S, D, h, w] of each."""
        windows = torch.from_numpy(images).to(self.device)
        with autocast(self.device, self.precision):
            return [model.eval().encode(model.as_input(windows)) for model in self.models]

    @torch.inference_mode()
    def _decode(
        self, embeddings: Sequence[Tensor], windows: Sequence[SliceWindow], prompts: VolumePrompts | None, within: range
    ) -> Float[Tensor, "B S K H W"]:
        """Run the decoder of each model on its embeddings of some windows, with the prompts of their slices."""
        slices = [index for window in windows for index in window.slices]

        def share(model: Masam, encoded: Tensor) -> Tensor:
            with autocast(self.device, self.precision):
                if prompts is None:
                    found = model.eval().decode(encoded)[0].float().softmax(dim=1)
                else:
                    found = prompted_probabilities(model.eval(), encoded, slices, prompts, within)
            return found.div_(len(self.models))

        return reduce(Tensor.add_, map(share, self.models, embeddings)).unflatten(0, (len(windows), -1))

    def _share(self, model: Masam, windows: Float[Tensor, "B S C H W"]) -> Float[Tensor, "B S K H W"]:
        model.eval()
        with autocast(self.device, self.precision):
            logits = model(model.as_input(windows)).logits
        return logits.float().softmax(dim=2).div_(len(self.models))


def _models(model_or_path: Masam | Sequence[Masam] | str | Path, sam_checkpoint: str | Path | None) -> list[Masam]:
    if isinstance(model_or_path, str | Path):
        return load_folds(model_or_path, sam_checkpoint)
    models = [model_or_path] if isinstance(model_or_path, Masam) else list(model_or_path)
    if not models:
        raise ModelError("expected at least one model, got none")
    return models


def _channels(plan: Plan, names: Sequence[str]) -> tuple[int, ...]:
    known = {label.name: channel for channel, label in enumerate(plan.scheme.labels) if channel > 0}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"expected classes out of {', '.join(known)}, got {', '.join(unknown)}", where="postprocess")
    return tuple(known[name] for name in dict.fromkeys(names))
