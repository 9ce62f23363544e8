"""Write labels as a DICOM segmentation object that refers to its source images."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam import __version__, atomic
from masam.errors import InputError
from masam.io.dicom.file import pydicom_errors
from masam.io.dicom.seg_read import read_seg
from masam.io.dicom.series import Stack
from masam.io.packages import require_package
from masam.labels import Label, LabelScheme
from masam.volume import Volume

# highdicom copies these into the SEG, where they may be empty but must be present.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime",
)  # fmt: skip
_SERIES_NUMBER = 9000
"""SeriesNumber of a SEG; scanners count from 1."""

Code = tuple[str, str]
"""Value and meaning of a SNOMED CT code."""

_TISSUE: Code = ("85756007", "Tissue")
_ANATOMY: Code = ("91723000", "Anatomical Structure")
_ABNORMAL: Code = ("49755003", "Morphologically Abnormal Structure")

_ORGANS: dict[str, Code] = {
    "adrenal gland": ("23451007", "Adrenal gland"), "aorta": ("15825003", "Aorta"), "bladder": ("89837001", "Bladder"),
    "brain": ("12738006", "Brain"), "colon": ("71854001", "Colon"), "duodenum": ("38848004", "Duodenum"),
    "esophagus": ("32849002", "Esophagus"), "gallbladder": ("28231008", "Gallbladder"), "heart": ("80891009", "Heart"),
    "kidney": ("64033007", "Kidney"), "liver": ("10200004", "Liver"), "lung": ("39607008", "Lung"),
    "pancreas": ("15776009", "Pancreas"), "portal vein": ("32764006", "Portal vein"),
    "prostate": ("41216001", "Prostate"), "rectum": ("34402009", "Rectum"), "spleen": ("78961009", "Spleen"),
    "splenic vein": ("35819009", "Splenic vein"), "stomach": ("69695003", "Stomach"), "uterus": ("35039007", "Uterus"),
    "vena cava": ("64131007", "Inferior vena cava"),
}  # fmt: skip
_LESIONS: dict[str, Code] = {
    "cancer": ("108369006", "Neoplasm"), "lesion": ("52988006", "Lesion"), "tumor": ("108369006", "Neoplasm"),
}  # fmt: skip
_SPELLINGS = {
    "adrenal": "adrenal gland", "gall bladder": "gallbladder", "inferior vena cava": "vena cava", "ivc": "vena cava",
    "oesophagus": "esophagus", "postcava": "vena cava", "tumour": "tumor", "urinary bladder": "bladder",
}  # fmt: skip


def write_seg(path: Path, labels: Volume, stack: Stack, scheme: LabelScheme) -> tuple[str, ...]:
    """Write labels as a DICOM segmentation object with one binary segment per class of the scheme.

    Patient and study are copied from the source, as the standard requires: the file is as confidential as the source.

    Returns:
        Names of the classes without voxels. They have no segment, unless no class has voxels.

    Raises:
        InputError: The labels have another grid, or the series lacks an identifier that a SEG requires.
        ResourceError: highdicom is not installed, or the file cannot be written or differs when it is read back.
    """
    require_package("highdicom")
    if labels.shape != stack.shape or not labels.geometry.matches(stack.geometry, stack.shape):
        raise InputError("the labels are not on the grid of the series", where=stack.series.root)
    sources = _sources(stack)
    present = [label for label in scheme.foreground if (labels.array == label.value).any()]
    dataset = _segmentation(sources, _segment_numbers(labels, stack, present), present or scheme.foreground, stack)

    def verify(temporary: Path) -> None:
        written = read_seg(temporary, stack, scheme)
        known = np.isin(labels.array, [label.value for label in scheme.foreground])
        if not np.array_equal(written.array, np.where(known, labels.array, 0)):
            raise InputError("voxels differ", where=temporary)

    atomic.write_with(path, dataset.save_as, verify)
    return tuple(label.name for label in scheme.foreground if label not in present)


def _segmentation(sources: list[Any], numbered: NDArray[np.uint16], labels: Any, stack: Stack) -> Any:
    """Return the highdicom object of segment numbers [slices, rows, columns]."""
    with pydicom_errors(stack.series.root):
        import highdicom
        from pydicom.sr.codedict import codes
        from pydicom.uid import generate_uid

        algorithm = highdicom.AlgorithmIdentificationSequence(
            name="masam", version=__version__, family=codes.DCM.ArtificialIntelligence
        )
        return highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=numbered,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_description(n, label, algorithm) for n, label in enumerate(labels, start=1)],
            series_instance_uid=generate_uid(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="masam",
            manufacturer_model_name="masam",
            software_versions=__version__,
            device_serial_number="0",
            content_label="MASAM",
            series_description="masam segmentation, research use only",
        )


def _description(number: int, label: Label, algorithm: Any) -> Any:
    import highdicom

    category, kind = property_codes(label.name)
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label.name[:64],
        segmented_property_category=highdicom.sr.CodedConcept(category[0], "SCT", category[1]),
        segmented_property_type=highdicom.sr.CodedConcept(kind[0], "SCT", kind[1]),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=highdicom.color.CIELabColor.from_rgb(*label.colour),
    )


def _sources(stack: Stack) -> list[Any]:
    """Return the source data sets: one per slice, or one for a multi-frame file."""
    files = list(dict.fromkeys(frame.file for frame in stack.frames))
    if len(files) > 1 and len(files) != len(stack.frames):
        raise InputError(
            "a SEG for several multi-frame files is not supported", where=stack.series.root, fix="write NIfTI"
        )
    sources = []
    for file in files:
        dataset = copy.copy(file.dataset)
        with pydicom_errors(file.path):
            for key in _MAY_BE_EMPTY:
                if key not in dataset:
                    setattr(dataset, key, "")
            missing = [key for key in ("SOPInstanceUID", "StudyInstanceUID") if not dataset.get(key)]
        if missing:
            raise InputError(f"{missing[0]} is missing, which a SEG must refer to", where=file.path, fix="write NIfTI")
        sources.append(dataset)
    return sources


def _segment_numbers(labels: Volume, stack: Stack, present: list[Label]) -> NDArray[np.uint16]:
    """Return segment numbers [slices, rows, columns], slices in the order of the sources."""
    numbered = np.zeros(labels.shape, np.uint16)
    for number, label in enumerate(present, start=1):
        numbered[labels.array == label.value] = number
    slices = numbered.transpose(2, 1, 0)  # slices, rows, columns
    if stack.frames[0].layout.frames > 1:
        slices = slices[np.argsort([frame.index for frame in stack.frames])]
    return np.ascontiguousarray(slices)


def property_codes(name: str) -> tuple[Code, Code]:
    """Return the SNOMED CT codes of a class such as ``left kidney`` for SEG: property category and property type.

    Unknown names are tissue. The side of a paired organ is not coded; it remains in the segment label.
    """
    words = re.sub(r"[^a-z]+", " ", name.casefold()).split()
    plain = " ".join(word for word in words if word not in ("left", "right", "l", "r"))
    plain = _SPELLINGS.get(plain, plain)
    if plain.removesuffix("s") in _ORGANS:  # kidneys
        plain = plain.removesuffix("s")
    if plain in _ORGANS:
        return _ANATOMY, _ORGANS[plain]
    for word in words:
        if (lesion := _LESIONS.get(_SPELLINGS.get(word, word))) is not None:
            return _ABNORMAL, lesion
    return _TISSUE, _TISSUE
