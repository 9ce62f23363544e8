"""What a case is: the files of one patient, scan or video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from masam.labels import LabelScheme

ENDINGS = (".nii.gz", ".nii")
"""Endings of NIfTI files."""


@dataclass(frozen=True)
class Case:
    """The files of one patient or scan.

    Attributes:
        id: Name of the case, from its file's, in Unicode's NFC form.
        images: One file a channel, in channel order; of DICOM a folder.
        label: Label file, or None.
        series: Which DICOM series of the folder, where it holds several.
        scheme: Classes by whose names the segments of a DICOM label are known.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    series: str | None = None
    scheme: LabelScheme | None = None
