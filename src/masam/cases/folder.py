"""Data set folders and folders of scans: which cases there are, and the reading of one.

A data set folder has a ``dataset.json``, in the layout of nnU-Net v2 (:mod:`masam.cases.nnunet`), of MSD
(:mod:`masam.cases.msd`) or of videos (:mod:`masam.cases.video`). Hidden files (macOS's ``._*`` among them) are
never data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from masam.cases.case import Case
from masam.cases.msd import read_msd_cases
from masam.cases.names import group_cases, list_files, split_channel, stem_of
from masam.cases.nnunet import read_nnunet_cases
from masam.cases.splits import Split, make_splits, read_splits, write_splits
from masam.cases.video import is_video_ending, read_video_cases
from masam.errors import InputError, brief
from masam.io import gate
from masam.io.images import find_dicom, read_image, read_label_image, require_same_grid
from masam.io.video.reader import is_video
from masam.labels import LabelScheme
from masam.volume import Volume

__all__ = [
    "Case", "CaseFolder", "Split", "channel_names", "find_images", "load_case", "make_splits",
    "read_dataset", "read_splits", "write_splits",
]  # fmt: skip


class _Transform(TypedDict):
    """How the transform of a NIfTI file is read."""

    prefer_sform: bool
    assume_orientation: str | None


@dataclass(frozen=True)
class CaseFolder:
    """A data set.

    Attributes:
        root: Its folder.
        name: Its name.
        channel_names: What each channel shows, such as ``("CT",)``.
        labels: Its classes.
        training: Cases with a label, sorted by id.
        test: Cases for testing, sorted by id; with or without a label.
    """

    root: Path
    name: str
    channel_names: tuple[str, ...]
    labels: LabelScheme
    training: tuple[Case, ...]
    test: tuple[Case, ...]


def read_dataset(root: Path) -> CaseFolder:
    """Read what a data set folder holds; voxels are not looked at.

    Args:
        root: Folder with a ``dataset.json`` of nnU-Net v2 or of MSD.

    Raises:
        InputError: The file or a key is missing or wrong, files do not pair up, ids repeat, or there is no case.
        ResourceError: The system did not let us read.
    """
    file = root / "dataset.json"
    with gate.os_errors(root):
        if not file.exists():
            raise InputError("expected a data set folder with a dataset.json", where=root, fix="check the path")
    content = gate.read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"expected a mapping, got {type(content).__name__}", where=file)
    is_msd = "training" in content
    channels = channel_names(_key(content, "modality" if is_msd else "channel_names", file), file)
    labels = LabelScheme.from_mapping(_key(content, "labels", file), where=f"{file}: labels")
    if is_msd:
        training, test = read_msd_cases(root, content, len(channels), labels)
    elif is_video_ending(content.get("file_ending")):
        training, test = read_video_cases(root, content, channels, file)
    else:
        ending = _key(content, "file_ending", file)
        training, test = read_nnunet_cases(root, content, len(channels), labels, ending)
    if not training and not test:
        raise InputError("no case found", where=root, fix="check imagesTr, imagesTs and the lists in dataset.json")
    return CaseFolder(root, str(content.get("name", root.name)), channels, labels, training, test)


def find_images(path: Path, series: str | None = None) -> tuple[Case, ...]:
    """Find images to predict on.

    ``CASE_0000.nii.gz`` is channel 0 of CASE, and so is the DICOM folder ``CASE_0000``. Another number is a channel
    only beside such a file, otherwise part of the name: ``amos_0007.nii.gz`` alone is case amos_0007. Without NIfTI
    files, a folder is searched for DICOM; see :func:`masam.io.images.find_dicom`.

    Args:
        path: One image, or a folder of images (not of folders, but for DICOM).
        series: Which DICOM series, where there are several.

    Returns:
        Cases without labels, sorted by id.

    Raises:
        InputError: There is nothing of the kind, ids repeat, or a channel is missing.
        ConfigError: None or several are chosen by ``series``.
        ResourceError: The system did not let us read.
    """
    with gate.os_errors(path):
        files = list_files(path) if path.is_dir() else [path]
        if not path.exists():
            raise InputError("expected an image or a folder of images, got nothing", where=path)
        if not (files and stem_of(files[0])) and (scans := find_dicom(path, series)):
            return _dicom_cases(path, scans)
        if not files:
            inside = [path / name for name in ("imagesTs", "imagesTr") if (path / name).is_dir()]
            fix = f"did you mean {inside[0]}?" if inside else "check the path"
            raise InputError("no .nii or .nii.gz file in this folder and no DICOM", where=path, fix=fix)
        if not stem_of(files[0]):
            raise InputError(
                "expected a name that ends in .nii or .nii.gz, or DICOM", where=path, fix="convert it to NIfTI"
            )
    stems = {stem_of(file) for file in files}
    found = [(*split_channel(stem_of(file), stems), file) for file in files]
    return group_cases(found, where=path, channels=None)


def _dicom_cases(path: Path, scans: Sequence[tuple[str, Path, str | None]]) -> tuple[Case, ...]:
    """Make cases of the scans that :func:`masam.io.images.find_dicom` found."""
    if len({image for _, image, _ in scans}) < len(scans):
        # Several series of one folder are told apart by name alone.
        return tuple(Case(name, (image,), series=series) for name, image, series in scans)
    names = {name for name, _, _ in scans}
    found = [(*split_channel(name, names), image) for name, image, _ in scans]
    series = {image: chosen for _, image, chosen in scans}
    cases = group_cases(found, where=path, channels=None)
    return tuple(replace(case, series=series[case.images[0]]) for case in cases)


def load_case(
    case: Case,
    *,
    prefer_sform: bool = False,
    assume_orientation: str | None = None,
    nan_fill: float | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Volume, Volume | None]:
    """Read the image of a case and its label, if it has one, and check that all lies on one grid.

    Args:
        case: The case.
        prefer_sform: See :func:`masam.io.nifti.file.read_volume`, as for the other arguments.
        assume_orientation: Letters such as ``"RAS"`` for files without any transform.
        nan_fill: Value for image voxels that are not finite.
        say: Told, a line each, what the user should know of the image.

    Returns:
        Image (float32, with a fourth axis if there are several channels) and label (int32) or None.

    Raises:
        InputError: A file is refused, or label or a further channel differ from the image in shape or place.
        ConfigError: An argument is out of its range.
        ResourceError: Memory does not suffice, or the system did not let us read.
    """
    transform: _Transform = {"prefer_sform": prefer_sform, "assume_orientation": assume_orientation}
    first, *others = case.images
    if is_video(first):
        raise InputError("expected a volume, got a video", where=first, fix="use load_video_case")
    image = read_image(first, channels=case.file_channels, series=case.series, say=say, nan_fill=nan_fill, **transform)
    if others:
        with gate.os_errors(first):
            # Channel after channel in memory, each as its file has it.
            array = np.empty((*image.shape, len(case.images)), image.array.dtype, order="F")
        array[..., 0] = image.array
        for index, path in enumerate(others, start=1):
            channel = read_image(path, series=case.series, say=say, nan_fill=nan_fill, **transform)
            require_same_grid("channel", channel, path, image, first)
            array[..., index] = channel.array
        image = Volume(array, image.geometry)
    if case.label is None:
        return image, None
    label = read_label_image(case.label, image, case.images, case.scheme, series=case.series, **transform)
    require_same_grid("label", label, case.label, image, first)
    return image, label


def _key(content: Mapping[str, Any], key: str, file: Path) -> Any:
    if key not in content:
        raise InputError(
            f"the key {key!r} is missing (found {sorted(content)})",
            where=file,
            fix="nnU-Net v2 needs channel_names, labels and file_ending; MSD needs modality, labels and training",
        )
    return content[key]


def channel_names(mapping: Any, file: Path) -> tuple[str, ...]:
    """Read the channels of a ``dataset.json``, in order.

    Raises:
        InputError: They are no mapping of 0, 1, ... to names.
    """
    if not isinstance(mapping, dict) or not mapping or set(mapping) != {str(i) for i in range(len(mapping))}:
        raise InputError(f'expected channel names as {{"0": "CT"}}, got {brief(mapping)}', where=file)
    return tuple(str(mapping[str(i)]) for i in range(len(mapping)))
