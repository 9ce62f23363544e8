"""Data set folders and folders of scans: list their cases, and read one.

A data set folder contains a ``dataset.json`` in the layout of nnU-Net v2 (:mod:`masam.cases.nnunet`), of MSD
(:mod:`masam.cases.msd`) or of videos (:mod:`masam.cases.video`). Hidden files are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from masam.cases.case import Case, ReadOptions
from masam.cases.grouping import Faults, group_cases
from masam.cases.msd import read_msd_cases
from masam.cases.names import list_files, split_channel, stem_of, visible_entries
from masam.cases.nnunet import read_nnunet_cases
from masam.cases.splits import Split, make_splits, read_splits, write_splits
from masam.cases.video import is_video_ending, read_video_cases
from masam.errors import InputError, brief, some_of
from masam.io import gate
from masam.io.dicom.series import LARGEST, Series, SeriesRule
from masam.io.images import find_dicom, open_series, read_image, read_label_image, require_same_grid
from masam.io.nifti.transform import TransformOptions
from masam.io.video.reader import is_video
from masam.labels import LabelScheme
from masam.volume import Volume

__all__ = [
    "Case", "CaseFolder", "Split", "channel_names", "find_images", "load_case", "make_splits", "open_case",
    "read_dataset", "read_splits", "write_splits",
]  # fmt: skip

MIN_USUAL_SPACING_MM = 0.01
"""A smaller voxel spacing is reported, because its unit may be wrong."""


@dataclass(frozen=True)
class CaseFolder:
    """A data set folder.

    Attributes:
        root: Path of the folder.
        name: Name of the data set.
        channel_names: Name of each channel, such as ``("CT",)``.
        labels: Label scheme.
        training: Cases with a label, sorted by id.
        test: Test cases, with or without a label, sorted by id.
    """

    root: Path
    name: str
    channel_names: tuple[str, ...]
    labels: LabelScheme
    training: tuple[Case, ...]
    test: tuple[Case, ...]


@dataclass(frozen=True)
class Inventory:
    """The cases of a data set folder that may contain faults.

    Attributes:
        labels: Label scheme; None if ``dataset.json`` does not define one.
        training: Training cases without faults in their file names.
        test: Test cases without faults in their file names.
        faults: One message per fault of the folder.
    """

    labels: LabelScheme | None
    training: tuple[Case, ...]
    test: tuple[Case, ...]
    faults: tuple[str, ...]


def read_dataset(root: Path) -> CaseFolder:
    """List the cases of a folder with a ``dataset.json``; images and labels are not read.

    Raises:
        InputError: A file or key is missing or wrong, images and labels do not pair up, or ids are repeated.
    """
    content = _read_json(root)
    channels, labels = _read_channels(root, content), _read_scheme(root, content)
    training, test = _read_cases(root, content, channels, labels, Faults(strict=True))
    return CaseFolder(root, str(content.get("name", root.name)), channels, labels, training, test)


def take_inventory(root: Path) -> Inventory:
    """List the cases of a data set folder and all faults that :func:`read_dataset` would raise one at a time.

    Raises:
        InputError: The folder or a readable ``dataset.json`` is missing.
    """
    content = _read_json(root)
    channels, labels = None, None
    training: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()
    faults = Faults(strict=False)
    with faults.collect():
        channels = _read_channels(root, content)
    with faults.collect():
        labels = _read_scheme(root, content)
    with faults.collect():
        training, test = _read_cases(root, content, channels, labels, faults)
    return Inventory(labels, training, test, tuple(faults.messages))


def _read_json(root: Path) -> dict[str, Any]:
    file = root / "dataset.json"
    with gate.os_errors(root):
        if not file.exists():
            raise InputError("expected a data set folder with a dataset.json", where=root, fix="check the path")
    content = gate.read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"expected a mapping, got {type(content).__name__}", where=file)
    return content


def _read_channels(root: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    key = "modality" if "training" in content else "channel_names"
    return channel_names(_require_key(root, content, key), root / "dataset.json")


def _read_scheme(root: Path, content: Mapping[str, Any]) -> LabelScheme:
    return LabelScheme.from_mapping(_require_key(root, content, "labels"), where=f"{root / 'dataset.json'}: labels")


def _read_cases(
    root: Path, content: Mapping[str, Any], channels: tuple[str, ...] | None, labels: LabelScheme | None, faults: Faults
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Return training and test cases; an MSD list is read only if its channels and labels are known."""
    if "training" in content:
        if channels is None or labels is None:
            return (), ()
        training, test = read_msd_cases(root, content, len(channels), labels)
    elif is_video_ending(content.get("file_ending")):
        training, test = read_video_cases(root, content, channels, faults)
    else:
        training, test = read_nnunet_cases(root, content, None if channels is None else len(channels), labels, faults)
    if not training and not test and not faults.messages:
        faults.add("no cases found", where=root, fix="check imagesTr, imagesTs and the lists in dataset.json")
    return training, test


def _require_key(root: Path, content: Mapping[str, Any], key: str) -> Any:
    if key not in content:
        raise InputError(
            f"the key {key!r} is missing (found {sorted(content)})",
            where=root / "dataset.json",
            fix="nnU-Net v2 requires channel_names, labels and file_ending; MSD requires modality, labels and training",
        )
    return content[key]


def channel_names(mapping: Any, file: Path) -> tuple[str, ...]:
    """Return the channel names of a ``dataset.json``; InputError if ``mapping`` does not map 0, 1, ... to names."""
    if not isinstance(mapping, dict) or not mapping or set(mapping) != {str(i) for i in range(len(mapping))}:
        raise InputError(f'expected channel names such as {{"0": "CT"}}, got {brief(mapping)}', where=file)
    return tuple(str(mapping[str(i)]) for i in range(len(mapping)))


def find_images(
    path: Path, rule: SeriesRule = LARGEST, on_note: Callable[[str], None] | None = None
) -> tuple[Case, ...]:
    """Find images to predict: cases without labels, sorted by id.

    Channels are recognised by :func:`masam.cases.names.split_channel`: ``amos_0007.nii.gz`` alone is case amos_0007.
    A folder without NIfTI files is searched for DICOM; see :func:`masam.io.images.find_dicom`.

    Args:
        path: An image, or a folder of images. Subfolders are searched for DICOM only.
        rule: Which DICOM series to use, if there are several; by default the largest.
        on_note: Receives notes on what is passed over, one line each.

    Raises:
        InputError: No image is found, an id is repeated, or a channel is missing.
        ConfigError: The rule selects no series, or its name selects several.
    """
    with gate.os_errors(path):
        files = list_files(path) if path.is_dir() else [path]
        if not path.exists():
            raise InputError("expected an image or a folder of images, found nothing", where=path, fix="check the path")
        if not (files and stem_of(files[0])) and (scans := find_dicom(path, rule)):
            found = {image for _, image, _ in scans}
            if on_note is not None and path not in found:
                for other in sorted(set(visible_entries(path)) - found):
                    on_note(f"{other}: passed over")
            return tuple(replace(case, rule=rule) for case in _dicom_cases(path, scans))
        if not files:
            subfolders = [path / name for name in ("imagesTs", "imagesTr") if (path / name).is_dir()]
            fix = f"did you mean {subfolders[0]}?" if subfolders else "check the path"
            raise InputError("the folder contains neither .nii or .nii.gz files nor DICOM", where=path, fix=fix)
        if not stem_of(files[0]):
            raise InputError("expected a .nii or .nii.gz file, or DICOM", where=path, fix="convert it to NIfTI")
    if path.is_dir() and on_note is not None and (others := sorted(set(visible_entries(path)) - set(files))):
        names = some_of(f"{other.name}{'/' * other.is_dir()}" for other in others)
        on_note(f"{path}: passed over {len(others)} that {'is' if len(others) == 1 else 'are'} not NIfTI: {names}")
    stems = {stem_of(file) for file in files}
    return group_cases([(*split_channel(stem_of(file), stems), file) for file in files], where=path, channels=None)


def _dicom_cases(path: Path, scans: Sequence[tuple[str, Path, Series | None]]) -> tuple[Case, ...]:
    """Return the cases of the scans that :func:`masam.io.images.find_dicom` found."""
    if len({image for _, image, _ in scans}) < len(scans):
        # Several series in one folder: each is a case.
        return tuple(Case(name, (image,), series=(series,)) for name, image, series in scans)
    names = {name for name, _, _ in scans}
    found = [(*split_channel(name, names), image) for name, image, _ in scans]
    read = {image: series for _, image, series in scans if series is not None}
    cases = group_cases(found, where=path, channels=None)
    return tuple(
        replace(case, series=tuple(read[image] for image in case.images)) if read.keys() >= set(case.images) else case
        for case in cases
    )


def open_case(case: Case) -> Case:
    """Return a case with the headers of its DICOM series, so that they are read only once."""
    return case if case.series else replace(case, series=tuple(open_series(image, case.rule) for image in case.images))


def load_case(
    case: Case,
    *,
    on_note: Callable[[str], None] | None = None,
    **options: Unpack[ReadOptions],
) -> tuple[Volume, Volume | None]:
    """Read the image of a case and its label, if it has one, and check that both have the same grid.

    Args:
        case: The case.
        on_note: Receives notes on what is unusual about the case, one line each.
        **options: See :class:`masam.cases.case.ReadOptions`; they take precedence over those of the case.

    Returns:
        Image (float32, with a fourth axis if there are several channels) and label (int32) or None.

    Raises:
        InputError: A file is not valid, or the grids of channels or label differ.
        ConfigError: An argument is out of range.
    """
    first, *others = case.images
    reading: ReadOptions = {**case.reading, **options}
    nan_fill = reading.pop("nan_fill", None)
    transform: TransformOptions = reading
    if is_video(first):
        raise InputError("expected a volume, got a video", where=first, fix="use load_video_case")
    case = open_case(case)
    series, *further_series = case.series
    image = read_image(
        first, channels=case.file_channels, series=series, on_note=on_note, nan_fill=nan_fill, **transform
    )
    if others:
        with gate.os_errors(first):
            # Fortran order: each channel is contiguous, as in its file.
            array = np.empty((*image.shape, len(case.images)), image.array.dtype, order="F")
        array[..., 0] = image.array
        for index, (path, series) in enumerate(zip(others, further_series, strict=True), start=1):
            channel = read_image(path, series=series, on_note=on_note, nan_fill=nan_fill, **transform)
            require_same_grid("channel", channel, path, image, first)
            array[..., index] = channel.array
        image = Volume(array, image.geometry)
    for note in _describe_oddities(case, image) if on_note is not None else ():
        on_note(note)
    if case.label is None:
        return image, None
    label = read_label_image(case.label, image, case.series, case.scheme, **transform)
    require_same_grid("label", label, case.label, image, first)
    return image, label


def _describe_oddities(case: Case, image: Volume) -> Iterator[str]:
    """Yield notes on a case that is unusual, but accepted."""
    for index in range(image.channels):
        values = image.channel(index)
        if values.min() == values.max():
            yield f"all values of {case.channel_name(index)} are {values.flat[0]:g}"
    if min(image.geometry.spacing_mm) < MIN_USUAL_SPACING_MM:
        spacing = " x ".join(f"{length:g}" for length in image.geometry.spacing_mm)
        yield f"{case.images[0]}: the voxel spacing is {spacing} mm, below 10 micrometres; check the unit of the header"
    files = [path for path in (*case.images, case.label) if path is not None and stem_of(path)]
    if len({path.name[len(stem_of(path)) :].lower() for path in files}) > 1:
        yield f"the files of {case.id} have different endings: {', '.join(path.name for path in files)}"
