"""Data sets in the layout of the Medical Segmentation Decathlon, whose ``dataset.json`` lists the files.

A task with several sequences (``modality``) stores them in one file per case, along the fourth axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from masam.cases.case import Case
from masam.cases.grouping import group_cases
from masam.cases.names import stem_of
from masam.errors import InputError, brief
from masam.io.dicom.file import DICOM_ENDING
from masam.io.nifti.file import ENDINGS
from masam.labels import LabelScheme


def read_msd_cases(
    root: Path, content: Mapping[str, Any], channels: int, scheme: LabelScheme
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """List the training and test cases of a data set with ``channels`` channels per case."""
    training, test = (_read_list(root, content, key, channels, scheme) for key in ("training", "test"))
    return training, test


def _read_list(
    root: Path, content: Mapping[str, Any], key: str, channels: int, scheme: LabelScheme
) -> tuple[Case, ...]:
    file = root / "dataset.json"
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise InputError(f"expected a list, got {brief(entries)}", where=f"{file}: {key}")
    images, labels = [], {}
    for number, entry in enumerate(entries):
        where = f"{file}: {key}[{number}]"
        if key == "training" and not (isinstance(entry, dict) and {"image", "label"} <= set(entry)):
            raise InputError(f"expected a mapping with image and label, got {brief(entry)}", where=where)
        path = _path_inside(root, entry.get("image") if isinstance(entry, dict) else entry, where)
        if path.name.startswith("."):
            continue
        images.append(path)
        if isinstance(entry, dict) and "label" in entry:
            labels[path] = _path_inside(root, entry["label"], where)
    for path in (*images, *labels.values()):
        if not path.exists():
            raise InputError(
                "this file is listed in dataset.json but does not exist", where=path, fix="copy the data set again"
            )
    cases = group_cases([(stem_of(path) or path.name, 0, path) for path in images], where=f"{file}: {key}", channels=1)
    return tuple(replace(case.with_label(labels.get(case.images[0]), scheme), file_channels=channels) for case in cases)


def _path_inside(root: Path, name: Any, where: str) -> Path:
    """Return the path of a file named in a ``dataset.json``; it must be inside the data set folder."""
    if not isinstance(name, str) or not PurePosixPath(name).parts:
        raise InputError(f"expected the path of a .nii or .nii.gz file, got {brief(name)}", where=where)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in path.parts[0]:
        raise InputError(f"expected a path inside the data set folder, got {name!r}", where=where)
    # A folder is a DICOM series.
    if not name.endswith((*ENDINGS, DICOM_ENDING)) and not (root / path).is_dir():
        raise InputError(f"expected the path of a .nii or .nii.gz file, got {brief(name)}", where=where)
    return root / path
