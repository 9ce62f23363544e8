"""The plan: what a data set asks for, found by a look at its volumes (its fingerprint); all that follows obeys it."""

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
from masam.preprocess.orientation import CANONICAL_AXES, SliceView

if TYPE_CHECKING:
    from masam.preprocess.frames import FramePreparation
    from masam.preprocess.pipeline import Preprocessing

Modality = Literal["CT", "MR", "video", "other"]

DEFAULT_MAX_IMAGE_SIZE = 512
"""The paper's size. The cost of attention over the whole image grows with its fourth power."""


# A crop pays where it shows slices at least this many times larger; for less, scans keep their common frame.
_WORTH_CROPPING = 1.15
_MR_NAMES = frozenset({"mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair", "adc", "dwi", "pd"})


class Suggestion(Settings):
    """What a given memory trains."""

    size: str = Field(description="largest encoder size that fits")
    batch_windows: int = Field(ge=1, description="windows of an optimiser step, the paper's")
    micro_batch_windows: int = Field(
        ge=1, description="windows that go through the model at once; the step accumulates the others"
    )
    checkpointing: bool = Field(
        default=False, description="whether it fits only if each encoder block is run again for its gradients"
    )
    memory_gb: float = Field(gt=0, description="memory that was given, in GB (1e9 bytes)")
    predicted_peak_gb: float = Field(gt=0, description="predicted peak of the training process, in GB")
    how: str = Field(description="how the peak was predicted")


class Plan(Settings):
    """How a data set is prepared, trained on and predicted; stored as ``plan.yaml`` in the run folder."""

    name: str = Field(description="name of the data set")
    modality: Modality = Field(description="CT, MR, video or other")
    channels: tuple[str, ...] = Field(
        default=("image",), min_length=1, description="what each image channel shows, in the order of the files"
    )
    slice_axis: SliceView = Field(
        description="anatomical direction along which volumes are cut into slices; 'stored' takes each file's third "
        "axis whatever its direction, which models trained by the paper's code need"
    )
    intensity: IntensityRule = Field(description="from the scanner's numbers to 0..1, per volume")
    window_minmax: bool = Field(
        default=False,
        description="also stretch each window of slices to 0..1; models trained by the paper's code need it",
    )
    window: int = Field(default=5, ge=1, le=63, description="slices that the model sees at once")
    image_size: int = Field(
        ge=16, le=2048, multiple_of=16, description="rows and columns of the model's input, in pixels"
    )
    crop: CropRule = Field(
        default="none",
        description="content cuts away the border that the intensity rule makes 0, so that what is left is seen larger",
    )
    labels: dict[str, int] = Field(
        description="value in the label files by class name; 'ignore' marks voxels without label"
    )
    suggestion: Suggestion | None = Field(
        default=None,
        description="what masam plan --memory suggests; masam train takes size, micro_batch_windows and "
        "checkpointing from it where they are not given",
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
            raise ValueError("window_minmax undoes the normalisation sam; take one of them")
        return self

    @property
    def scheme(self) -> LabelScheme:
        """Which label value is which channel of the model."""
        return LabelScheme.from_mapping(self.labels)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a volume becomes slices for the model."""
        # Imported late: a plan is read by commands that start without torch.
        from masam.preprocess.pipeline import Preprocessing

        return Preprocessing(self.slice_axis, self.intensity, self.image_size, self.crop)

    @property
    def colours(self) -> Rgb | None:
        """How colours are scaled; None of volumes."""
        return self.intensity if isinstance(self.intensity, Rgb) else None

    @property
    def frame_preparation(self) -> FramePreparation:
        """How a video's frames become images for the model.

        Raises:
            ConfigError: The plan is for volumes.
        """
        from masam.preprocess.frames import FramePreparation

        if not isinstance(self.intensity, Rgb):
            raise ConfigError(f"expected a plan for video, got one for {self.modality} volumes", where="plan")
        return FramePreparation(self.intensity, self.image_size)


class Preset(Settings):
    """The part of a plan that the paper fixes for a kind of data (paper.md 1.5)."""

    modality: Modality = Field(description="CT, MR, video or other")
    intensity: IntensityRule = Field(description="from the scanner's numbers to 0..1, per volume")
    window_minmax: bool = Field(default=True, description="stretch each window of slices to 0..1")
    window: int = Field(default=5, description="slices that the model sees at once")
    image_size: int = Field(default=512, description="rows and columns of the model's input, in pixels")


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "paper-ct": Preset(modality="CT", intensity=Window(low=-200, high=250)),
        "paper-mr": Preset(modality="MR", intensity=Percentiles(low=0, high=99)),
        "paper-tumor": Preset(modality="CT", intensity=Window(low=-50, high=200)),
        # What the paper's own loader did for video was not released: docs/decisions/0013-video.md.
        "paper-video": Preset(modality="video", intensity=Rgb(normalisation="unit")),
    }
)
"""Abdominal organs (BTCV), prostate (six sites), pancreas tumour (MSD), scenes of surgery (EndoVis 2018)."""


def modality_of(channel_names: Sequence[str]) -> Modality:
    """Read the modality off the channel names of ``dataset.json``; nnU-Net, too, treats "CT" as such by its name."""
    names = {name.strip().casefold() for name in channel_names}
    if names == {"ct"}:
        return "CT"
    return "MR" if names <= _MR_NAMES else "other"


def make_plan(
    found: Fingerprint,
    *,
    name: str,
    channel_names: tuple[str, ...],
    labels: LabelScheme,
    preset: str | None = None,
    **overrides: Any,
) -> Plan:
    """Derive a plan from a data set's fingerprint.

    Args:
        found: The fingerprint.
        name: Name of the data set.
        channel_names: Names of the image channels in ``dataset.json``; "CT" alone chooses a fixed window.
        labels: The label scheme.
        preset: Key of ``PRESETS``, whose values take the place of derived ones.
        **overrides: Fields of ``Plan`` that the user decides; they take the place of both.

    Raises:
        ConfigError: The preset is unknown, or an override is not a field of the plan or not what the field expects.
    """
    derived: dict[str, Any] = {
        "name": name,
        "modality": modality_of(channel_names),
        "channels": channel_names,
        "slice_axis": found.slice_axis,
        "labels": labels.to_mapping(),
    }
    if preset is not None:
        derived |= dict(_preset(preset))
        if derived["modality"] == "video":
            raise ConfigError(f"{preset!r} is for videos, the data set holds volumes", where="preset")
    derived |= overrides
    views = (*CANONICAL_AXES, "stored")
    if derived["slice_axis"] not in views:
        raise ConfigError(f"expected one of {', '.join(views)}, got {derived['slice_axis']!r}", where="slice_axis")
    # How files are stored is no part of the fingerprint; they are mostly stored as they were sliced.
    axis = found.slice_axis if derived["slice_axis"] == "stored" else derived["slice_axis"]
    if "intensity" not in derived:
        rule = _intensity(found, is_ct=derived["modality"] == "CT")
        derived["intensity"] = rule
        derived.setdefault("crop", "content" if _zoom(found, axis, rule) >= _WORTH_CROPPING else "none")
    if "image_size" not in derived:
        is_cropped = derived.get("crop") == "content"
        derived["image_size"] = _image_size(found, axis, derived["intensity"] if is_cropped else None)
    plain = {
        key: value.model_dump(mode="json") if isinstance(value, Settings) else value for key, value in derived.items()
    }
    return Plan.from_mapping(plain, where="plan")


def make_video_plan(*, name: str, labels: LabelScheme, preset: str | None = None, **overrides: Any) -> Plan:
    """Return a plan for a data set of videos, which asks for no fingerprint: colours mean the same in all of them.

    Args:
        name: Name of the data set.
        labels: The label scheme.
        preset: ``paper-video``, which is also what is taken without.
        **overrides: Fields of ``Plan`` that the user decides.

    Raises:
        ConfigError: The preset is unknown or for volumes, or an override is not what its field expects.
    """
    chosen = _preset(preset or "paper-video")
    if chosen.modality != "video":
        raise ConfigError(f"{preset!r} is for volumes, the data set holds videos", where="preset")
    values = chosen.model_dump(mode="json") | {
        "name": name, "channels": ["R", "G", "B"], "slice_axis": "stored", "labels": labels.to_mapping()
    }  # fmt: skip
    plain = {
        key: value.model_dump(mode="json") if isinstance(value, Settings) else value
        for key, value in (values | overrides).items()
    }
    return Plan.from_mapping(plain, where="plan")


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        fix = f"did you mean {near[0]!r}?" if near else None
        raise ConfigError(f"expected one of {', '.join(PRESETS)}, got {name!r}", where="preset", fix=fix)
    return PRESETS[name]


def _zoom(found: Fingerprint, slice_axis: SliceAxis, rule: Window | Percentiles) -> float:
    """Return how many times larger a crop to the content shows the slices of the median case."""
    return statistics.median(
        case.in_plane_size(slice_axis) / case.in_plane_size(slice_axis, rule) for case in found.cases
    )


def _image_size(found: Fingerprint, slice_axis: SliceAxis, cropped_by: Window | Percentiles | None) -> int:
    """Return the median in-plane size, after the crop if there is one, rounded up to a multiple of 32, at most 512."""
    median = statistics.median(case.in_plane_size(slice_axis, cropped_by) for case in found.cases)
    return min(math.ceil(median / 32) * 32, DEFAULT_MAX_IMAGE_SIZE)


def _intensity(found: Fingerprint, is_ct: bool) -> Window | Percentiles:
    """Return a fixed window for CT, whose unit is absolute, and each volume's own percentiles for all others."""
    if not is_ct:
        return Percentiles()
    low, high = (round(value) for value in found.foreground_percentiles or found.intensity_percentiles)
    # A CT without contrast still needs a window that is one.
    return Window(low=low, high=max(high, low + 1))
