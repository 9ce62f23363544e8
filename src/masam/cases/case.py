"""The files of one case: a patient, scan or video."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from masam.io.dicom.file import DICOM_ENDING
from masam.io.dicom.series import Series, SeriesRule
from masam.io.nifti.transform import TransformOptions
from masam.labels import LabelScheme


class ReadOptions(TransformOptions, total=False):
    """How to read NIfTI files that are refused by default.

    Attributes:
        nan_fill: Value for image voxels that are not finite.
    """

    nan_fill: float | None


@dataclass(frozen=True)
class Case:
    """The files of one patient or scan.

    Attributes:
        id: Name of the case, from its file name, in Unicode NFC form.
        images: One file per channel, in channel order; for DICOM, folders.
        label: Label file, or None.
        series: DICOM series of each image, with headers read; None for NIfTI; empty before :func:`open_case`.
        scheme: Label scheme that maps the segment names of a DICOM SEG label to values.
        rule: Which series of a DICOM folder is the image; by default several are refused.
        reading: How to read NIfTI files with an ambiguous header or values that are not finite.
        file_channels: Channels that each image file holds along its fourth axis; 1 for files with three axes.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    series: tuple[Series | None, ...] = field(default=(), compare=False, repr=False)
    scheme: LabelScheme | None = None
    file_channels: int = 1
    rule: SeriesRule | None = field(default=None, compare=False, repr=False)
    reading: ReadOptions = field(default_factory=ReadOptions, compare=False, repr=False)

    def with_label(self, label: Path | None, scheme: LabelScheme | None) -> Case:
        """Return the case with a label file; ``scheme`` is used only if that file is a DICOM SEG."""
        is_seg = label is not None and label.name.lower().endswith(DICOM_ENDING)
        return replace(self, label=label, scheme=scheme if is_seg else None)

    def channel_name(self, channel: int) -> str:
        """Return the name of a channel for messages: its file, and its index if the file holds several."""
        file, index = divmod(channel, self.file_channels)
        name = self.images[file].name
        return name if self.file_channels == 1 else f"channel {index} of {name}"
