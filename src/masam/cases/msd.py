"""Data sets in the layout of the Medical Segmentation Decathlon: ``dataset.json`` lists the files itself.

A task of several sequences (``modality``) keeps them in one file a case, along its fourth axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from masam.cases.case import Case
from masam.cases.names import group_cases, stem_of
from masam.errors import InputError, brief
from masam.io.dicom.file import DICOM_ENDING
from masam.io.nifti.file import ENDINGS
from masam.labels import LabelScheme


def read_msd_cases(
    root: Path, content: Mapping[str, Any], channels: int, scheme: LabelScheme
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """List the training and the test cases of a data set.

    Args:
        root: Its folder.
        content: Its ``dataset.json``.
        channels: Channels of a case.
        scheme: Its classes.

    Raises:
        InputError: An entry is no file or folder of the data set, or is not there; or ids repeat.
    """
    training, test = (_listed(root, content, key, channels, scheme) for key in ("training", "test"))
    return training, test


def _listed(root: Path, content: Mapping[str, Any], key: str, channels: int, scheme: LabelScheme) -> tuple[Case, ...]:
    file = root / "dataset.json"
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise InputError(f"expected a list, got {brief(entries)}", where=f"{file}: {key}")
    found, labels = [], {}
    for number, entry in enumerate(entries):
        where = f"{file}: {key}[{number}]"
        if key == "training" and not (isinstance(entry, dict) and {"image", "label"} <= set(entry)):
            raise InputError(f"expected a mapping with image and label, got {brief(entry)}", where=where)
        path = _inside(root, entry.get("image") if isinstance(entry, dict) else entry, where)
        if path.name.startswith("."):
            continue
        found.append((stem_of(path) or path.name, 0, path))
        if isinstance(entry, dict) and "label" in entry:
            labels[path] = _inside(root, entry["label"], where)
    for path in [path for _, _, path in found] + list(labels.values()):
        if not path.exists():
            raise InputError("dataset.json lists a file that is not there", where=path, fix="copy the data set again")
    cases = group_cases(found, where=f"{file}: {key}", channels=1)
    return tuple(replace(case.with_label(labels.get(case.images[0]), scheme), file_channels=channels) for case in cases)


def _inside(root: Path, name: Any, where: str) -> Path:
    """Return the path of a file that a ``dataset.json`` names, which may lie nowhere but in its folder."""
    if not isinstance(name, str) or not PurePosixPath(name).parts:
        raise InputError(f"expected the path of a .nii or .nii.gz file, got {brief(name)}", where=where)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in path.parts[0]:
        raise InputError(f"expected a path inside the data set folder, got {name!r}", where=where)
    # A folder is a DICOM series.
    if not name.endswith((*ENDINGS, DICOM_ENDING)) and not (root / path).is_dir():
        raise InputError(f"expected the path of a .nii or .nii.gz file, got {brief(name)}", where=where)
    return root / path
