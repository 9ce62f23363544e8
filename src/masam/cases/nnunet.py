"""Data sets in nnU-Net v2's layout, in which file names give case and channel.

::

    imagesTr/CASE_0000.nii.gz  labelsTr/CASE.nii.gz    file_ending .nii.gz or .nii
    imagesTr/CASE_0000/        labelsTr/CASE.nii.gz    file_ending .dcm: one folder of DICOM slices per channel, labels
    imagesTr/CASE/             labelsTr/CASE.dcm       as NIfTI or DICOM SEG; the number of a single channel is optional

Source: nnU-Net's documentation, documentation/dataset_format.md; ``.dcm`` is an extension of masam.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from masam.cases.case import Case
from masam.cases.grouping import Faults, check_num_training, group_cases, index_by_case, pair_with_labels
from masam.cases.names import CHANNEL, list_files, normal_name, split_channel, stem_of, visible_entries
from masam.errors import InputError
from masam.io.dicom.file import DICOM_ENDING
from masam.io.nifti.file import ENDINGS
from masam.labels import LabelScheme

FILE_ENDINGS = (*ENDINGS, DICOM_ENDING)
"""Supported values of ``file_ending``."""


def read_nnunet_cases(
    root: Path, content: Mapping[str, Any], channels: int | None, scheme: LabelScheme | None, faults: Faults
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """List the training and test cases of a data set; ``channels`` per case and ``scheme`` are None if unknown.

    Wrong names and endings, and images and labels that do not pair up, are faults.
    """
    ending = content.get("file_ending")
    if ending not in FILE_ENDINGS:
        faults.add(
            f"expected {', '.join(FILE_ENDINGS[:-1])} or {FILE_ENDINGS[-1]}, got {ending!r}",
            where=f"{root / 'dataset.json'}: file_ending",
        )
        ending = None
    if "dataset" in content:
        faults.add(
            "file lists under the key 'dataset' are not supported",
            where=root / "dataset.json",
            fix="store the files in imagesTr and labelsTr",
        )

    def expected_image(case_id: str) -> str:
        return f"{root / 'imagesTr' / case_id}_0000{'' if ending == DICOM_ENDING else ending or '.nii.gz'}"

    images = _images(root / "imagesTr", ending, channels, faults)
    labels = _labels(root / "labelsTr", ending, faults)
    labelled = pair_with_labels(images, labels, root / "labelsTr", expected_image, faults)
    training = [case for case in labelled if channels in (None, len(case.images))]
    check_num_training(content, len(training), root, faults)
    test_labels = _labels(root / "labelsTs", ending, faults)
    test = _images(root / "imagesTs", ending, channels, faults)
    return (
        tuple(case.with_label(case.label, scheme) for case in training),
        tuple(
            case.with_label(test_labels.get(case.id), scheme) for case in test if channels in (None, len(case.images))
        ),
    )


def _images(folder: Path, ending: str | None, channels: int | None, faults: Faults) -> tuple[Case, ...]:
    # Files with another ending are listed too, to report them instead of ignoring them.
    paths = list_files(folder, FILE_ENDINGS if ending == DICOM_ENDING else ENDINGS)
    if ending == DICOM_ENDING:
        paths = sorted([*paths, *(path for path in visible_entries(folder) if path.is_dir())])
    names = {_name(path) for path in paths}
    found = []
    for path in paths:
        with faults.collect():
            found.append((*_case_and_channel(path, names, ending, channels), path))
    cases = group_cases(found, where=folder, channels=channels, faults=faults)
    _check_endings((path for case in cases for path in case.images), ending, faults)
    return cases


def _labels(folder: Path, ending: str | None, faults: Faults) -> dict[str, Path]:
    paths = list_files(folder, FILE_ENDINGS if ending == DICOM_ENDING else ENDINGS)
    labels = index_by_case(paths, _name, folder, faults)
    if ending != DICOM_ENDING:
        _check_endings(labels.values(), ending, faults)
    return labels


def _name(path: Path) -> str:
    """Return the name of an image or label without its ending; folders have none."""
    return stem_of(path, FILE_ENDINGS) or normal_name(path)


def _case_and_channel(path: Path, names: set[str], ending: str | None, channels: int | None) -> tuple[str, int]:
    name = _name(path)
    if ending == DICOM_ENDING and channels == 1:
        return split_channel(name, names)
    match = CHANNEL.fullmatch(name)
    if not match:
        example = f"CASE_0000{'' if path.is_dir() else ending or '.nii.gz'}"
        raise InputError(f"expected a name such as {example}", where=path, fix="rename the file")
    return match["case"], int(match["channel"])


def _check_endings(paths: Iterable[Path], ending: str | None, faults: Faults) -> None:
    for path in paths:
        # Folders are DICOM series. Endings of DICOM files are matched in lower case, as their labels are.
        name = DICOM_ENDING if path.is_dir() else path.name.lower() if ending == DICOM_ENDING else path.name
        if ending and (not name.endswith(ending) or (ending == ".nii" and name.endswith(".nii.gz"))):
            faults.add(f"expected the file_ending {ending} of dataset.json", where=path, fix="convert or rename it")
