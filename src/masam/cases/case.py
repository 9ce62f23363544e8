"""What a case is: the files of one patient, scan or video."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from masam.io.dicom.file import DICOM_ENDING
from masam.labels import LabelScheme


@dataclass(frozen=True)
class Case:
    """The files of one patient or scan.

    Attributes:
        id: Name of the case, from its file's, in Unicode's NFC form.
        images: One file a channel, in channel order; of DICOM a folder.
        label: Label file, or None.
        series: Which DICOM series of the folder, where it holds several.
        scheme: Classes by whose names the segments of a DICOM label are known.
        file_channels: Channels that each image file holds along its fourth axis; 1 is a file of three axes.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    series: str | None = None
    scheme: LabelScheme | None = None
    file_channels: int = 1

    def with_label(self, label: Path | None, scheme: LabelScheme) -> Case:
        """Return the case with a label file, whose segments are known by the names of classes if it is DICOM."""
        is_seg = label is not None and label.name.lower().endswith(DICOM_ENDING)
        return replace(self, label=label, scheme=scheme if is_seg else None)

    def channel_name(self, channel: int) -> str:
        """Return how a channel is called in a message: by its file, of a file of several also by its number."""
        file, index = divmod(channel, self.file_channels)
        name = self.images[file].name
        return name if self.file_channels == 1 else f"channel {index} of {name}"
