"""What a data set folder holds, however much of it is wrong: every fault is noted, none ends the look.

``read_dataset`` (cases.py) is the strict reader; a folder without faults here is one that it accepts.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masam.errors import InputError, MasamError
from masam.io import gate
from masam.io.cases import CHANNEL, ENDINGS, Case, channel_names, list_nifti, read_dataset, stem_of
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
    if ending not in ENDINGS:
        faults.append(f"{file}: file_ending: expected {' or '.join(ENDINGS)}, got {ending!r}")
        ending = None
    training = _split(root, "Tr", channels, ending, faults)
    wanted = content.get("numTraining", len(training))
    if wanted != len(training):
        faults.append(f"{file}: numTraining is {wanted!r}, found {len(training)} cases with image and label")
    test = _split(root, "Ts", channels, ending, faults)
    # Whatever the strict reader stumbles over and this one does not is said in its words.
    return Inventory(root, labels, training, test, tuple(faults) or (first,))


def _split(root: Path, split: str, channels: int | None, ending: str | None, faults: list[str]) -> tuple[Case, ...]:
    images: dict[str, dict[int, Path]] = defaultdict(dict)
    folder = root / f"images{split}"
    spelling: dict[str, str] = {}
    for path in list_nifti(folder):
        match = CHANNEL.fullmatch(stem_of(path))
        if not match:
            faults.append(f"{path}: expected a name such as CASE_0000{ending or '.nii.gz'}; rename the file")
            continue
        _require_ending(path, ending, faults)
        case, channel = match["case"], int(match["channel"])
        if spelling.setdefault(case.casefold(), case) != case or channel in images[case]:
            faults.append(f"{path}: {case} is there twice, by another ending or spelling; remove one")
        images[case].setdefault(channel, path)
    labels: dict[str, Path] = {}
    for path in list_nifti(root / f"labels{split}"):
        _require_ending(path, ending, faults)
        if stem_of(path) in labels:
            faults.append(f"{path}: {stem_of(path)} is there twice, by another ending; remove one")
        labels.setdefault(stem_of(path), path)
    for case in sorted(set(labels) - set(images)):
        faults.append(f"{labels[case]}: no image for this label, expected {folder / case}_0000{ending or '.nii.gz'}")
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
            cases.append(Case(case, files, labels.get(case)))
    return tuple(cases)


def _require_ending(path: Path, ending: str | None, faults: list[str]) -> None:
    if ending and not (path.name.endswith(ending) and (ending == ".nii.gz") == path.name.endswith(".nii.gz")):
        faults.append(f"{path}: expected the file_ending {ending} of dataset.json")


def _labels(content: Any, file: Path, faults: list[str]) -> LabelScheme | None:
    mapping = content.get("labels") if isinstance(content, dict) else None
    try:
        return LabelScheme.from_mapping(mapping or {}, where=f"{file}: labels")
    except MasamError as error:
        faults.append(str(error))
        return None
