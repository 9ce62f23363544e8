"""What a data set folder holds, however much of it is wrong: every fault is noted, none ends the look.

``read_dataset`` (cases.py) is the strict reader; a folder without faults here is one that it accepts.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from masam.cases.case import Case
from masam.cases.folder import channel_names, read_dataset
from masam.cases.nnunet import (
    ANY_OF,
    FILE_ENDINGS,
    case_and_channel,
    has_ending,
    list_images,
    list_labels,
    name_of,
)
from masam.errors import InputError, MasamError
from masam.io import gate
from masam.io.dicom.file import DICOM_ENDING
from masam.labels import LabelScheme


@dataclass(frozen=True)
class Inventory:
    """What was found.

    Attributes:
        root: The folder.
        labels: The classes; None if ``dataset.json`` does not tell them.
        training: Cases to train on, those without fault in their names.
        test: Cases to test on.
        faults: What is wrong with the folder, one line each.
    """

    root: Path
    labels: LabelScheme | None
    training: tuple[Case, ...]
    test: tuple[Case, ...]
    faults: tuple[str, ...]


def take_inventory(root: Path) -> Inventory:
    """List the cases of a data set folder, and all that is wrong with their files.

    Args:
        root: Folder with a ``dataset.json`` of nnU-Net v2 or of MSD.

    Raises:
        InputError: There is no such folder, or no readable ``dataset.json`` in it.
        ResourceError: The system did not let us read.
    """
    file = root / "dataset.json"
    if not file.is_file():
        raise InputError("expected a data set folder with a dataset.json", where=root, fix="check the path")
    content = gate.read_json(file)
    try:
        dataset = read_dataset(root)
    except InputError as error:
        # MSD lists its files itself, so its faults are those of one file; nnU-Net's are spread over the folders.
        if not isinstance(content, dict) or "training" in content:
            return Inventory(root, _labels(content, file, []), (), (), (str(error),))
        return _of_folders(root, content, file, str(error))
    return Inventory(root, dataset.labels, dataset.training, dataset.test, ())


def _of_folders(root: Path, content: dict[str, Any], file: Path, first: str) -> Inventory:
    faults: list[str] = []
    labels = _labels(content, file, faults)
    channels: int | None = None
    try:
        channels = len(channel_names(content.get("channel_names"), file))
    except MasamError as error:
        faults.append(str(error))
    ending = content.get("file_ending")
    if ending not in FILE_ENDINGS:
        faults.append(f"{file}: file_ending: expected {ANY_OF}, got {ending!r}")
        ending = None
    training = _split(root, "Tr", channels, ending, labels, faults)
    wanted = content.get("numTraining", len(training))
    if wanted != len(training):
        faults.append(f"{file}: numTraining is {wanted!r}, found {len(training)} cases with image and label")
    test = _split(root, "Ts", channels, ending, labels, faults)
    # Whatever the strict reader stumbles over and this one does not is said in its words.
    return Inventory(root, labels, training, test, tuple(faults) or (first,))


def _split(
    root: Path,
    split: str,
    channels: int | None,
    ending: str | None,
    scheme: LabelScheme | None,
    faults: list[str],
) -> tuple[Case, ...]:
    folder = root / f"images{split}"
    images = _images(folder, channels, ending, faults)
    labels = _label_files(root / f"labels{split}", ending, faults)
    suffix = "" if ending == DICOM_ENDING else ending or ".nii.gz"
    for case in sorted(set(labels) - set(images)):
        faults.append(f"{labels[case]}: no image for this label, expected {folder / case}_0000{suffix}")
    cases = []
    for case in sorted(images):
        found = images[case]
        wanted = set(range(channels)) if channels else set(found)
        lacking, surplus = sorted(wanted - set(found)), sorted(set(found) - wanted)
        faults += [f"{folder}: case {case} has no channel {channel:04d}; add the file" for channel in lacking]
        faults += [f"{found[n]}: a channel {n:04d}, where dataset.json has {channels}; remove it" for n in surplus]
        if split == "Tr" and case not in labels:
            faults.append(f"{root / 'labelsTr'}: no label for image {case}; add it, or remove the image")
        elif not lacking:
            files = tuple(found[n] for n in sorted(wanted))
            cases.append(_labelled(Case(case, files), labels.get(case), scheme))
    return tuple(cases)


def _images(folder: Path, channels: int | None, ending: str | None, faults: list[str]) -> dict[str, dict[int, Path]]:
    """Return the images of a folder by case and channel."""
    images: dict[str, dict[int, Path]] = defaultdict(dict)
    spelling: dict[str, str] = {}
    paths = list_images(folder, ending)
    names = {name_of(path) for path in paths}
    for path in paths:
        try:
            case, channel = case_and_channel(path, names, ending, channels)
        except InputError as error:
            faults.append(str(error))
            continue
        _require_ending(path, ending, faults)
        if spelling.setdefault(case.casefold(), case) != case or channel in images[case]:
            faults.append(f"{path}: {case} is there twice, by another ending or spelling; remove one")
        images[case].setdefault(channel, path)
    return images


def _label_files(folder: Path, ending: str | None, faults: list[str]) -> dict[str, Path]:
    """Return the label files of a folder by case."""
    labels: dict[str, Path] = {}
    for path in list_labels(folder, ending):
        if ending != DICOM_ENDING:
            _require_ending(path, ending, faults)
        if name_of(path) in labels:
            faults.append(f"{path}: {name_of(path)} is there twice, by another ending; remove one")
        labels.setdefault(name_of(path), path)
    return labels


def _require_ending(path: Path, ending: str | None, faults: list[str]) -> None:
    if ending and not has_ending(path, ending):
        faults.append(f"{path}: expected the file_ending {ending} of dataset.json")


def _labelled(case: Case, label: Path | None, scheme: LabelScheme | None) -> Case:
    # Without classes the segments of a DICOM label go by their numbers; the missing classes are a fault of their own.
    return case.with_label(label, scheme) if scheme else replace(case, label=label)


def _labels(content: Any, file: Path, faults: list[str]) -> LabelScheme | None:
    mapping = content.get("labels") if isinstance(content, dict) else None
    try:
        return LabelScheme.from_mapping(mapping or {}, where=f"{file}: labels")
    except MasamError as error:
        faults.append(str(error))
        return None
