"""Data sets in nnU-Net v2's layout: names say which file is which channel of which case.

::

    imagesTr/CASE_0000.nii.gz  labelsTr/CASE.nii.gz    file_ending .nii.gz or .nii
    imagesTr/CASE_0000/        labelsTr/CASE.nii.gz    file_ending .dcm: a folder of DICOM slices a channel, labels in
    imagesTr/CASE/             labelsTr/CASE.dcm       NIfTI or as DICOM SEG; a lone channel may do without its number

Source: nnU-Net's documentation, documentation/dataset_format.md; ``.dcm`` is ours.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from masam.cases.case import Case
from masam.cases.names import CHANNEL, group_cases, list_files, split_channel, stem_of
from masam.errors import InputError, some_of
from masam.io import gate
from masam.io.dicom.file import DICOM_ENDING
from masam.io.nifti.file import ENDINGS
from masam.labels import LabelScheme

FILE_ENDINGS = (*ENDINGS, DICOM_ENDING)
"""What ``file_ending`` may be."""

ANY_OF = f"{', '.join(FILE_ENDINGS[:-1])} or {FILE_ENDINGS[-1]}"
"""The same in words."""


def read_nnunet_cases(
    root: Path, content: Mapping[str, Any], channels: int, scheme: LabelScheme, ending: Any
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """List the training and the test cases of a data set.

    Args:
        root: Its folder.
        content: Its ``dataset.json``.
        channels: Channels of a case.
        scheme: Its classes.
        ending: The ``file_ending`` of the content.

    Raises:
        InputError: Files do not pair up or have other names than they should, or ids repeat.
        ResourceError: The system did not let us read.
    """
    file = root / "dataset.json"
    if ending not in FILE_ENDINGS:
        raise InputError(f"expected {ANY_OF}, got {ending!r}", where=f"{file}: file_ending")
    if "dataset" in content:
        raise InputError(
            "lists of files under 'dataset' are not supported", where=file, fix="use imagesTr and labelsTr"
        )
    images = _images(root / "imagesTr", ending, channels)
    labels = _labels(root / "labelsTr", ending)
    ids = {case.id for case in images}
    if alone := ids - set(labels):
        raise InputError(f"no label for image {some_of(sorted(alone))}", where=root / "labelsTr")
    if alone := set(labels) - ids:
        raise InputError(f"no image for label {some_of(sorted(alone))}", where=root / "imagesTr")
    expected = content.get("numTraining", len(images))
    if expected != len(images):
        raise InputError(f"dataset.json says {expected!r} training cases, found {len(images)}", where=root / "imagesTr")
    test_labels = _labels(root / "labelsTs", ending)
    test = _images(root / "imagesTs", ending, channels)
    return (
        tuple(case.with_label(labels[case.id], scheme) for case in images),
        tuple(case.with_label(test_labels.get(case.id), scheme) for case in test),
    )


def list_images(folder: Path, ending: str | None) -> list[Path]:
    """Return what lies in a folder as an image, sorted; none if there is no such folder.

    Args:
        folder: Where to look.
        ending: The data set's ``file_ending``; with ``.dcm`` folders count as well.

    Returns:
        Files of any ending that an image may have, as one of a wrong ending is better named than passed over.

    Raises:
        ResourceError: The system did not let us read.
    """
    if ending != DICOM_ENDING:
        return list_files(folder)
    if not folder.is_dir():
        return []
    with gate.os_errors(folder):
        folders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted([*folders, *list_files(folder, FILE_ENDINGS)])


def list_labels(folder: Path, ending: str | None) -> list[Path]:
    """Return the label files of a folder, sorted; none if there is no such folder.

    Args:
        folder: Where to look.
        ending: The data set's ``file_ending``; with ``.dcm`` labels may be NIfTI files or DICOM SEG.

    Raises:
        ResourceError: The system did not let us read.
    """
    return list_files(folder, FILE_ENDINGS if ending == DICOM_ENDING else ENDINGS)


def name_of(path: Path) -> str:
    """Return the name of an image or a label without its ending; folders have none."""
    return stem_of(path, FILE_ENDINGS) or unicodedata.normalize("NFC", path.name)


def case_and_channel(path: Path, names: Iterable[str], ending: str | None, channels: int | None) -> tuple[str, int]:
    """Return which case an image belongs to, and its channel.

    Args:
        path: The image.
        names: ``name_of`` all images of the folder.
        ending: The data set's ``file_ending``.
        channels: Channels of a case, None if that is unknown.

    Raises:
        InputError: The name does not say so.
    """
    name = name_of(path)
    if ending == DICOM_ENDING and channels == 1:
        return split_channel(name, set(names))
    match = CHANNEL.fullmatch(name)
    if not match:
        example = f"CASE_0000{'' if path.is_dir() else ending or '.nii.gz'}"
        raise InputError(f"expected a name such as {example}", where=path, fix="rename the file")
    return match["case"], int(match["channel"])


def has_ending(path: Path, ending: str) -> bool:
    """Say whether an image, or a label of a data set that is no DICOM, has the data set's ``file_ending``."""
    if path.is_dir():
        return ending == DICOM_ENDING
    if ending == DICOM_ENDING:
        return path.name.lower().endswith(ending)
    return path.name.endswith(ending) and not (ending == ".nii" and path.name.endswith(".nii.gz"))


def _images(folder: Path, ending: str, channels: int) -> tuple[Case, ...]:
    paths = list_images(folder, ending)
    names = {name_of(path) for path in paths}
    found = [(*case_and_channel(path, names, ending, channels), path) for path in paths]
    cases = group_cases(found, where=folder, channels=channels)
    _check_endings((file for case in cases for file in case.images), ending)
    return cases


def _labels(folder: Path, ending: str) -> dict[str, Path]:
    paths = list_labels(folder, ending)
    cases = group_cases([(name_of(path), 0, path) for path in paths], where=folder, channels=1)
    if ending != DICOM_ENDING:
        _check_endings((case.images[0] for case in cases), ending)
    return {case.id: case.images[0] for case in cases}


def _check_endings(files: Iterable[Path], ending: str) -> None:
    for file in files:
        if not has_ending(file, ending):
            raise InputError(f"expected the file_ending {ending} of dataset.json", where=file)
