"""The plan: how a data set is prepared and trained on, derived from its fingerprint."""

from __future__ import annotations

import difflib
import math
import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from masam.config import Settings
from masam.errors import ConfigError, InputError
from masam.labels import LabelScheme
from masam.preprocess.crop import CropRule
from masam.preprocess.fingerprint import Fingerprint
from masam.preprocess.intensity import IntensityRule, Percentiles, Rgb, Window
from masam.preprocess.orientation import CANONICAL_AXES, SliceAxis, SliceView

if TYPE_CHECKING:
    from masam.preprocess.frames import FramePreparation
    from masam.preprocess.pipeline import Preprocessing

Modality = Literal["CT", "MR", "video", "other"]

DEFAULT_MAX_IMAGE_SIZE = 512
"""The paper's size. The cost of global attention grows with its fourth power."""

# Slices are cropped if that enlarges them at least by this factor.
_WORTH_CROPPING = 1.15
_MR_NAMES = frozenset({"mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair", "adc", "dwi", "pd"})


class Suggestion(Settings):
    """Training settings for a given amount of memory."""

    size: str = Field(description="largest encoder size that fits")
    batch_windows: int = Field(ge=1, description="windows per optimiser step, as in the paper")
    micro_batch_windows: int = Field(
        ge=1, description="windows per forward pass; gradients are accumulated over a step"
    )
    checkpointing: bool = Field(
        default=False, description="whether encoder blocks must be recomputed in the backward pass to fit"
    )
    memory_gb: float = Field(gt=0, description="available memory in GB (1e9 bytes)")
    predicted_peak_gb: float = Field(gt=0, description="predicted peak memory of the training process in GB")
    how: str = Field(description="how the peak memory was predicted")


class Plan(Settings):
    """How a data set is prepared, trained on and predicted; stored as ``plan.yaml`` in the run folder."""

    name: str = Field(description="name of the data set")
    modality: Modality = Field(description="CT, MR, video or other")
    channels: tuple[str, ...] = Field(
        default=("image",), min_length=1, description="names of the image channels, in the order of the files"
    )
    slice_axis: SliceView = Field(
        description="anatomical direction across which volumes are cut into slices; 'stored' uses the third axis of "
        "each file, as models trained with the paper's code require"
    )
    intensity: IntensityRule = Field(description="how intensities are scaled to 0..1, per volume")
    window_minmax: bool = Field(
        default=False,
        description="also scale each window of slices to 0..1, as models trained with the paper's code require",
    )
    window: int = Field(default=5, ge=1, le=63, description="number of slices per window")
    image_size: int = Field(
        ge=16, le=2048, multiple_of=16, description="rows and columns of the model's input, in pixels"
    )
    crop: CropRule = Field(
        default="none",
        description="content removes the border that the intensity rule maps to 0, which enlarges the rest",
    )
    labels: dict[str, int] = Field(
        description="value in the label files by class name; 'ignore' marks voxels without a label"
    )
    suggestion: Suggestion | None = Field(
        default=None,
        description="suggestion of masam plan --memory; masam train uses its size, micro_batch_windows and "
        "checkpointing unless they are given",
    )

    @field_validator("labels")
    @classmethod
    def _known_scheme(cls, labels: dict[str, int]) -> dict[str, int]:
        try:
            LabelScheme.from_mapping(labels)
        except InputError as error:
            raise ValueError(error.what) from error
        return labels

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> Plan:
        is_rgb = isinstance(self.intensity, Rgb)
        if is_rgb != (self.modality == "video"):
            raise ValueError(
                f"expected modality video and intensity of kind rgb together, got {self.modality} and "
                f"{self.intensity.kind}"
            )
        if is_rgb and self.crop != "none":
            raise ValueError(f"expected crop none for video, got {self.crop}")
        if is_rgb and len(self.channels) != 3:
            raise ValueError(f"expected three channels for video, got {', '.join(self.channels)}")
        if isinstance(self.intensity, Rgb) and self.intensity.normalisation == "sam" and self.window_minmax:
            raise ValueError("window_minmax reverts the normalisation sam; use only one of them")
        return self

    @property
    def scheme(self) -> LabelScheme:
        """The label scheme."""
        return LabelScheme.from_mapping(self.labels)

    @property
    def preprocessing(self) -> Preprocessing:
        """How volumes are prepared."""
        # Imported here, as commands that do without torch read plans.
        from masam.preprocess.pipeline import Preprocessing

        return Preprocessing(self.slice_axis, self.intensity, self.image_size, self.crop)

    @property
    def colours(self) -> Rgb | None:
        """Scaling of colours; None for volumes."""
        return self.intensity if isinstance(self.intensity, Rgb) else None

    @property
    def frame_preparation(self) -> FramePreparation:
        """How the frames of a video are prepared; ConfigError if the plan is for volumes."""
        from masam.preprocess.frames import FramePreparation

        if not isinstance(self.intensity, Rgb):
            raise ConfigError(f"expected a plan for video, got one for {self.modality} volumes", where="plan")
        return FramePreparation(self.intensity, self.image_size)


class Preset(Settings):
    """Plan settings from the paper for one kind of data (paper.md 1.5)."""

    modality: Modality = Field(description="CT, MR, video or other")
    intensity: IntensityRule = Field(description="how intensities are scaled to 0..1, per volume")
    window_minmax: bool = Field(default=True, description="scale each window of slices to 0..1")
    window: int = Field(default=5, description="number of slices per window")
    image_size: int = Field(default=512, description="rows and columns of the model's input, in pixels")


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "paper-ct": Preset(modality="CT", intensity=Window(low=-200, high=250)),
        "paper-mr": Preset(modality="MR", intensity=Percentiles(low=0, high=99)),
        "paper-tumor": Preset(modality="CT", intensity=Window(low=-50, high=200)),
        # The paper's loader for video was not released: docs/decisions/0013-video.md.
        "paper-video": Preset(modality="video", intensity=Rgb(normalisation="unit")),
    }
)
"""Abdominal organs (BTCV), prostate (six sites), pancreas tumour (MSD), surgical video (EndoVis 2018)."""


def modality_of(channel_names: Sequence[str]) -> Modality:
    """Return the modality that the channel names of ``dataset.json`` denote; nnU-Net recognises "CT" likewise."""
    names = {name.strip().casefold() for name in channel_names}
    if names == {"ct"}:
        return "CT"
    return "MR" if names <= _MR_NAMES else "other"


def make_plan(
    fingerprint: Fingerprint,
    *,
    name: str,
    channel_names: tuple[str, ...],
    labels: LabelScheme,
    preset: str | None = None,
    **overrides: Any,
) -> Plan:
    """Derive a plan from a data set's fingerprint.

    Args:
        fingerprint: The fingerprint.
        name: Name of the data set.
        channel_names: Channel names of ``dataset.json``; a single "CT" selects a fixed window.
        labels: The label scheme.
        preset: Key of ``PRESETS``, whose values replace derived ones.
        **overrides: Fields of ``Plan``, which replace values of both.

    Raises:
        ConfigError: The preset is unknown or for videos, or an override is not valid.
    """
    derived: dict[str, Any] = {
        "name": name,
        "modality": modality_of(channel_names),
        "channels": channel_names,
        "slice_axis": fingerprint.slice_axis,
        "labels": labels.to_mapping(),
    }
    if preset is not None:
        derived |= dict(_preset(preset))
        if derived["modality"] == "video":
            raise ConfigError(f"{preset!r} is for videos, the data set contains volumes", where="preset")
    derived |= overrides
    views = (*CANONICAL_AXES, "stored")
    if derived["slice_axis"] not in views:
        raise ConfigError(f"expected one of {', '.join(views)}, got {derived['slice_axis']!r}", where="slice_axis")
    # The stored order is not part of the fingerprint; most files are stored in the order of acquisition.
    axis = fingerprint.slice_axis if derived["slice_axis"] == "stored" else derived["slice_axis"]
    if "intensity" not in derived:
        rule = _intensity(fingerprint, is_ct=derived["modality"] == "CT")
        derived["intensity"] = rule
        derived.setdefault("crop", "content" if _zoom(fingerprint, axis, rule) >= _WORTH_CROPPING else "none")
    if "image_size" not in derived:
        is_cropped = derived.get("crop") == "content"
        derived["image_size"] = _image_size(fingerprint, axis, derived["intensity"] if is_cropped else None)
    return _validated(derived)


def make_video_plan(*, name: str, labels: LabelScheme, preset: str | None = None, **overrides: Any) -> Plan:
    """Return a plan for a video data set, which requires no fingerprint; arguments as for :func:`make_plan`.

    Raises:
        ConfigError: The preset is unknown or for volumes, or an override is not valid.
    """
    chosen = _preset(preset or "paper-video")
    if chosen.modality != "video":
        raise ConfigError(f"{preset!r} is for volumes, the data set contains videos", where="preset")
    values = chosen.model_dump(mode="json") | {
        "name": name, "channels": ["R", "G", "B"], "slice_axis": "stored", "labels": labels.to_mapping()
    }  # fmt: skip
    return _validated(values | overrides)


def _validated(values: Mapping[str, Any]) -> Plan:
    plain = {key: one.model_dump(mode="json") if isinstance(one, Settings) else one for key, one in values.items()}
    return Plan.from_mapping(plain, where="plan")


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        fix = f"did you mean {near[0]!r}?" if near else None
        raise ConfigError(f"expected one of {', '.join(PRESETS)}, got {name!r}", where="preset", fix=fix)
    return PRESETS[name]


def _zoom(fingerprint: Fingerprint, slice_axis: SliceAxis, rule: Window | Percentiles) -> float:
    """Return the factor by which a crop to the content enlarges the slices of the median case."""
    return statistics.median(
        case.in_plane_size(slice_axis) / case.in_plane_size(slice_axis, rule) for case in fingerprint.cases
    )


def _image_size(fingerprint: Fingerprint, slice_axis: SliceAxis, cropped_by: Window | Percentiles | None) -> int:
    """Return the median in-plane size after the crop, rounded up to a multiple of 32, at most 512."""
    median = statistics.median(case.in_plane_size(slice_axis, cropped_by) for case in fingerprint.cases)
    return min(math.ceil(median / 32) * 32, DEFAULT_MAX_IMAGE_SIZE)


def _intensity(fingerprint: Fingerprint, is_ct: bool) -> Window | Percentiles:
    """Return a fixed window for CT, whose unit is absolute, and percentiles per volume otherwise."""
    if not is_ct:
        return Percentiles()
    low, high = (round(value) for value in fingerprint.foreground_percentiles or fingerprint.intensity_percentiles)
    # At least 1 HU wide, also for a CT without contrast.
    return Window(low=low, high=max(high, low + 1))
